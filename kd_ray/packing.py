"""K networks of one architecture as one batched computation: forward, backward, weights in and out.

Every layer is one batched matrix product over the members, and the gradient is written out by hand straight
into one flat buffer, which the optimizer then updates in one call: what a small network loses on a CPU or a
GPU is overhead per operation, and here the pack pays it once. Each member's slice of every product is computed
as if it were alone, so a member does not depend on who shares its pack.

Axes: K members, B rows, D features, I and O units in and out of a layer, C classes, P parameters of all members.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kd_ray.inputs import PackedInputs
from kd_ray.models import MLP

# Without it MKL rounds by where in memory a member's numbers begin: on some cores a member's bits would then depend on
# its place in the pack. It looks at its first product, and is no slower for it.
os.environ.setdefault("MKL_CBWR", "AUTO")

_ALIGN = 16  # floats in a cache line: what updates all weights in one loop then has no scalar tail
_DROP_BITS = 1 << 16


class PackedMLP:
    """K MLPs side by side. `flat_P` holds all weights, `grad_P` their gradients, in the same order."""

    def __init__(self, spec: MLP, members: int, device: str = "cpu") -> None:
        self.spec = spec
        self.members = members
        self._blocks: list[tuple[int, tuple[int, int, int]]] = []
        size = 0
        shapes: list[tuple[int, int, int]] = []
        for units_in, units_out in spec.layers:
            shapes += [(members, units_in, units_out), (members, 1, units_out)]
        shapes += [(members, levels, units) for _, levels, units in spec.inputs.embedded]
        for shape in shapes:
            self._blocks.append((size, shape))
            size += -(-math.prod(shape) // _ALIGN) * _ALIGN
        self.flat_P = torch.zeros(size, device=device)
        self.grad_P = torch.zeros_like(self.flat_P)
        self._weights, self._tables = self._views(self.flat_P)
        self._grads, table_grads = self._views(self.grad_P)
        self._inputs = None if spec.inputs.is_plain else PackedInputs(spec.inputs, self._tables, table_grads)
        self._shown_K1D: torch.Tensor | None = None
        self._seen: list[torch.Tensor] = []
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def _buffer(self, use: str, layer: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return memory that is written anew each step; fresh memory would cost more in page faults than its use."""
        found = self._buffers.get((use, layer))
        if found is None or found.shape != shape:
            found = self._buffers[use, layer] = torch.empty(shape, dtype=dtype, device=self.flat_P.device)
        return found

    def _views(self, flat_P: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
        """Each layer's weight_KIO and bias_K1O, and the tables_KLE: contiguous, so that products write into them."""
        views = self._slices(flat_P)
        layers = 2 * len(self.spec.layers)
        return list(zip(views[:layers:2], views[1:layers:2], strict=True)), views[layers:]

    def spread(self, value_K: Sequence[float]) -> torch.Tensor:
        """Return each member's number at each of its weights, in the order of `flat_P`; 0 where no weight lies."""
        value_P = torch.zeros_like(self.flat_P)
        column_K11 = torch.tensor(value_K, dtype=torch.float32, device=value_P.device).view(-1, 1, 1)
        for start, shape in self._blocks:
            value_P[start : start + math.prod(shape)].view(shape).copy_(column_K11.expand(shape))
        return value_P

    def part(self, value_P: torch.Tensor, member: int) -> torch.Tensor:
        """Return a copy, on the CPU, of one member's numbers of a tensor in the order of `flat_P`, shape [Q]."""
        return torch.cat([block[member].reshape(-1) for block in self._slices(value_P)]).cpu()

    def put(self, value_P: torch.Tensor, member: int, part_Q: torch.Tensor) -> None:
        """Set one member's numbers as `part` returns them."""
        at = 0
        for block in self._slices(value_P):
            size = block[member].numel()
            block[member].copy_(part_Q[at : at + size].view(block[member].shape))
            at += size

    def _slices(self, value_P: torch.Tensor) -> list[torch.Tensor]:
        return [value_P[start : start + math.prod(shape)].view(shape) for start, shape in self._blocks]

    def show(self, member: int, seen_D: np.ndarray) -> None:
        """Let a member see some features only: the others are 0 to it, and code 0 is a missing category."""
        if seen_D.all():
            return
        if self._shown_K1D is None:
            self._shown_K1D = torch.ones(self.members, 1, len(seen_D), device=self.flat_P.device)
        self._shown_K1D[member, 0] = torch.from_numpy(seen_D)

    def load(self, member: int, weights: dict[str, torch.Tensor]) -> None:
        """Set one member's weights, named and shaped as in `MLP.module().state_dict()`."""
        for (weight_name, bias_name), (weight_KIO, bias_K1O) in zip(
            self.spec.parameter_names(), self._weights, strict=True
        ):
            weight_KIO[member].copy_(weights[weight_name].T)
            bias_K1O[member, 0].copy_(weights[bias_name])
        for name, table_KLE in zip(self.spec.inputs.table_names(), self._tables, strict=True):
            table_KLE[member].copy_(weights[name])

    def weights(self, member: int) -> dict[str, torch.Tensor]:
        """Return a copy of one member's weights on the CPU, as `MLP.module().load_state_dict` takes them."""
        named = {}
        for (weight_name, bias_name), (weight_KIO, bias_K1O) in zip(
            self.spec.parameter_names(), self._weights, strict=True
        ):
            named[weight_name] = weight_KIO[member].T.cpu().clone(memory_format=torch.contiguous_format)
            named[bias_name] = bias_K1O[member, 0].cpu().clone()
        for name, table_KLE in zip(self.spec.inputs.table_names(), self._tables, strict=True):
            named[name] = table_KLE[member].cpu().clone()
        return named

    def forward(self, x_KBD: torch.Tensor, dropout: list[np.random.Generator] | None = None) -> torch.Tensor:
        """Return logits_KBC, in memory that the next call writes over.

        With `dropout` (a random stream a member) it drops units and remembers the way back.
        """
        members, rows = x_KBD.shape[:2]
        hidden = x_KBD = x_KBD if self._shown_K1D is None else x_KBD * self._shown_K1D
        if self._inputs:
            hidden = self._inputs.forward(x_KBD, self._buffer("in", 0, (members, rows, self.spec.inputs.width)))
        self._seen = [hidden]
        for layer, (weight_KIO, bias_K1O) in enumerate(self._weights):
            out_KBO = self._buffer("out", layer, (members, rows, weight_KIO.shape[-1]))
            hidden = torch.bmm(hidden, weight_KIO, out=out_KBO).add_(bias_K1O)
            if layer < len(self.spec.hidden):
                hidden.relu_()
                rate = self.spec.dropout[layer]
                if dropout is not None and rate:
                    self._drop(hidden, layer, rate, dropout)
                self._seen.append(hidden)
        return hidden

    def _drop(self, hidden_KBO: torch.Tensor, layer: int, rate: float, streams: list[np.random.Generator]) -> None:
        """Drop units and scale up the rest, each member's from its own stream: 16 random bits a unit.

        They are drawn on the host on purpose: a member then drops the same units on a GPU as on a CPU.
        """
        members, rows, units = hidden_KBO.shape
        words = -(-rows * units // 4)
        bits = torch.from_numpy(
            np.stack([stream.bit_generator.random_raw(words) for stream in streams]).view(np.int16)[:, : rows * units]
        )
        below = round(rate * _DROP_BITS) - _DROP_BITS // 2
        keep = self._buffer("keep", layer, (members, rows, units))
        keep.copy_((bits.to(keep.device) >= below).view(members, rows, units))
        hidden_KBO.mul_(keep).mul_(1 / (1 - rate))

    def backward(self, grad_KBC: torch.Tensor) -> None:
        """Write the gradients of all weights into `grad_P`, from the last forward's and that in its logits.

        A unit that ReLU or dropout put to zero passes nothing back, and one look at its output tells both.
        """
        grad = grad_KBC
        for layer in range(len(self._weights) - 1, -1, -1):
            weight_grad_KIO, bias_grad_K1O = self._grads[layer]
            seen = self._seen[layer]
            torch.bmm(seen.mT, grad, out=weight_grad_KIO)
            torch.sum(grad, 1, keepdim=True, out=bias_grad_K1O)
            if layer:
                below = self._buffer("grad", layer, tuple(seen.shape))
                grad = torch.bmm(grad, self._weights[layer][0].mT, out=below)
                torch.ops.aten.threshold_backward.grad_input(grad, seen, 0.0, grad_input=grad)
                if self.spec.dropout[layer - 1]:
                    grad.mul_(1 / (1 - self.spec.dropout[layer - 1]))
        if self._inputs:
            self._inputs.backward(grad, self._weights[0][0])
        self._seen = []

    def finite(self) -> np.ndarray:
        """Return for each member, shape [K], whether all its weights are finite."""
        parts = [part for pair in self._weights for part in pair] + self._tables
        finite_KL = [part.isfinite().all(-1).all(-1) for part in parts]
        return np.asarray(torch.stack(finite_KL).all(0).cpu())

    def logits(self, x_BD: torch.Tensor, *, rows_at_once: int = 512) -> torch.Tensor:
        """Return logits_KBC of the same rows for every member, without dropout, `rows_at_once` at a time.

        The last rows are padded to as many: a product's kernels round by its shape, and so a row's logits are the
        same bits in whatever company it comes.
        """
        out_KBC = x_BD.new_empty(self.members, len(x_BD), self.spec.n_classes)
        for start in range(0, len(x_BD), rows_at_once):
            chunk_BD = x_BD[start : start + rows_at_once]
            rows = len(chunk_BD)
            if rows < rows_at_once:
                chunk_BD = torch.nn.functional.pad(chunk_BD, (0, 0, 0, rows_at_once - rows))
            out_KBC[:, start : start + rows] = self.forward(chunk_BD.expand(self.members, -1, -1))[:, :rows]
        self._seen = []
        return out_KBC


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch compute on `count` threads in the block, and as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
