"""A member that fails by its own fault."""

import torch


class Diverges(torch.nn.Module):
    """Says NaN of every row, so that its loss is none."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(n_features, n_outputs)

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        return self.layer(features_ND) * float("nan")
