"""Architectures: what a network is, how a member's weights begin, and the plain torch module they load into."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from kd_ray.inputs import Encode, Inputs


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron with ReLU: inputs, hidden units of each layer, outputs; dropout a layer.

    `n_classes` is the number of outputs: a logit a class, or the one value of a regression.
    """

    inputs: Inputs
    hidden: tuple[int, ...]
    n_classes: int
    dropout: tuple[float, ...]

    @classmethod
    def of(
        cls,
        *,
        n_features: int,
        hidden: list[int],
        n_classes: int,
        dropout: list[float],
        levels: list[int] | None = None,
        one_hot: int = 16,
        embedding: int | Literal["auto"] = "auto",
    ) -> "MLP":
        """Build the description; an empty `dropout` means none, no `levels` that all features are numbers."""
        inputs = Inputs.of(levels or [0] * n_features, one_hot=one_hot, embedding=embedding)
        return cls(inputs, tuple(hidden), n_classes, tuple(dropout) or (0.0,) * len(hidden))

    @property
    def n_features(self) -> int:
        return self.inputs.numbers + len(self.inputs.one_hot) + len(self.inputs.embedded)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Units in and out of each linear layer."""
        return list(pairwise((self.inputs.width, *self.hidden, self.n_classes)))

    @property
    def n_parameters(self) -> int:
        return sum((i + 1) * o for i, o in self.layers) + sum(levels * size for _, levels, size in self.inputs.embedded)

    def parameter_names(self) -> list[tuple[str, str]]:
        """Names of each linear layer's weight and bias in `module()`'s state dict."""
        names: list[tuple[str, str]] = []
        index = 0 if self.inputs.is_plain else 1
        for layer in range(len(self.layers)):
            names.append((f"{index}.weight", f"{index}.bias"))
            index += 2 if layer < len(self.hidden) and not self.dropout[layer] else 3
        return names

    def module(self) -> torch.nn.Sequential:
        """Return the network as plain torch layers, freshly initialised."""
        modules: list[torch.nn.Module] = [] if self.inputs.is_plain else [Encode(self.inputs)]
        for layer, (units_in, units_out) in enumerate(self.layers):
            modules.append(torch.nn.Linear(units_in, units_out))
            if layer < len(self.hidden):
                modules.append(torch.nn.ReLU())
                if self.dropout[layer]:
                    modules.append(torch.nn.Dropout(self.dropout[layer]))
        return torch.nn.Sequential(*modules)

    def initial_weights(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Draw weights and biases uniform in ±1/sqrt(units in), as torch.nn.Linear does, and tables normal, 0.01.

        The latter is fastai's deviation: a level that is hardly seen then says next to nothing.

        They come from numpy's stream, so that a member begins the same on every device and torch version.
        """
        weights = {}
        for (units_in, units_out), (weight, bias) in zip(self.layers, self.parameter_names(), strict=True):
            bound = units_in**-0.5
            weights[weight] = torch.from_numpy(rng.uniform(-bound, bound, (units_out, units_in)).astype(np.float32))
            weights[bias] = torch.from_numpy(rng.uniform(-bound, bound, units_out).astype(np.float32))
        for table, (_, levels, size) in zip(self.inputs.table_names(), self.inputs.embedded, strict=True):
            weights[table] = torch.from_numpy(rng.normal(0, 0.01, (levels, size)).astype(np.float32))
        return weights
