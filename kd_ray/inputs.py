"""How a row's features enter a network: numbers as they are, codes one-hot or through a learned table.

Axes: K members, B rows, D features, I inputs of the first layer, L levels of a column, E numbers of an embedding.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch

MAX_EMBEDDING = 64


def embedding_size(levels: int) -> int:
    """Return min(64, 1.6 * levels ** 0.56): fastai's rule (Howard & Gugger 2020), with a lower roof for a student."""
    return min(MAX_EMBEDDING, round(1.6 * levels**0.56))


@dataclass(frozen=True)
class Inputs:
    """The first `numbers` features are numbers; the others are codes from 0, by their levels, in order of features.

    A code of `embedded` has a table of (levels, size), one of `one_hot` an input for each level; each entry begins
    with its feature. The first layer sees numbers, one-hot columns and embeddings, in this order.
    """

    numbers: int
    one_hot: tuple[tuple[int, int], ...] = ()
    embedded: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, levels_D: list[int], *, one_hot: int = 16, embedding: int | Literal["auto"] = "auto") -> "Inputs":
        """Codes of more than `one_hot` levels are embedded. Raises ValueError where a number comes after a code."""
        numbers = next((d for d, levels in enumerate(levels_D) if levels), len(levels_D))
        if not all(levels_D[numbers:]):
            raise ValueError(f"numbers must come before codes; got levels {levels_D}")
        codes = [(d, levels) for d, levels in enumerate(levels_D) if levels]
        return cls(
            numbers,
            tuple((d, levels) for d, levels in codes if levels <= one_hot),
            tuple(
                (d, levels, embedding_size(levels) if embedding == "auto" else embedding)
                for d, levels in codes
                if levels > one_hot
            ),
        )

    @property
    def is_plain(self) -> bool:
        """Whether features are inputs as they are."""
        return not self.one_hot and not self.embedded

    @property
    def n_one_hot(self) -> int:
        return sum(levels for _, levels in self.one_hot)

    @property
    def width(self) -> int:
        """Inputs of the first layer."""
        return self.numbers + self.n_one_hot + sum(size for _, _, size in self.embedded)

    @property
    def starts(self) -> list[int]:
        """The first input of each one-hot column."""
        return list(accumulate((levels for _, levels in self.one_hot), initial=self.numbers))[:-1]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First input and past the last of each embedding."""
        ends = list(accumulate((size for _, _, size in self.embedded), initial=self.numbers + self.n_one_hot))
        return list(pairwise(ends))

    def table_names(self) -> list[str]:
        """Names of the embeddings' tables in the state dict of a network that begins with `Encode`."""
        return [f"0.tables.{i}.weight" for i in range(len(self.embedded))]


class Encode(torch.nn.Module):
    """The same for one network, as plain torch layers."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(levels, size) for _, levels, size in inputs.embedded)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        parts = [x_BD[:, : self.inputs.numbers]]
        for d, levels in self.inputs.one_hot:
            parts.append(torch.nn.functional.one_hot(x_BD[:, d].long(), levels).to(x_BD.dtype))
        parts += [table(x_BD[:, d].long()) for table, (d, _, _) in zip(self.tables, self.inputs.embedded, strict=True)]
        return torch.cat(parts, 1)


class PackedInputs:
    """The same for K members, with the way back: tables and their gradients are views into the pack's."""

    def __init__(self, inputs: Inputs, tables: list[torch.Tensor], grads: list[torch.Tensor]) -> None:
        device = tables[0].device if tables else None
        self.inputs = inputs
        self._tables, self._grads = tables, grads
        self._one_hot_D = torch.tensor([d for d, _ in inputs.one_hot], device=device, dtype=torch.long)
        self._starts = torch.tensor(inputs.starts, device=device, dtype=torch.long)
        self._seen: list[torch.Tensor] = []

    def forward(self, x_KBD: torch.Tensor, out_KBI: torch.Tensor) -> torch.Tensor:
        """Write the inputs of x_KBD to `out_KBI` and remember which levels they were."""
        inputs = self.inputs
        out_KBI[..., : inputs.numbers + inputs.n_one_hot].zero_()
        out_KBI[..., : inputs.numbers] = x_KBD[..., : inputs.numbers]
        if inputs.one_hot:
            at_KBJ = x_KBD.index_select(2, self._one_hot_D.to(x_KBD.device)).long() + self._starts.to(x_KBD.device)
            out_KBI.scatter_(2, at_KBJ, 1.0)
        self._seen = []
        for (d, levels, size), (first, past), table_KLE in zip(
            inputs.embedded, inputs.spans, self._tables, strict=True
        ):
            own_K1 = torch.arange(len(x_KBD), device=x_KBD.device).unsqueeze(1) * levels
            at_X = (x_KBD[..., d].long() + own_K1).reshape(-1)
            self._seen.append(at_X)
            embedded = table_KLE.reshape(-1, size).index_select(0, at_X)
            out_KBI[..., first:past] = embedded.view(*x_KBD.shape[:2], size)
        return out_KBI

    def backward(self, grad_KBO: torch.Tensor, weight_KIO: torch.Tensor) -> None:
        """Write the tables' gradients, from those in the first layer's output and its weights."""
        for (first, past), at_X, grad_KLE in zip(self.inputs.spans, self._seen, self._grads, strict=True):
            grad_KBE = torch.bmm(grad_KBO, weight_KIO[:, first:past].mT)
            flat_XE = grad_KLE.zero_().view(-1, past - first)
            flat_XE.index_add_(0, at_X, grad_KBE.reshape(-1, past - first))
