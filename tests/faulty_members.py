"""Teachers' modules that fail, for tests; workers import them by path."""

import torch


class Sometimes(torch.nn.Sequential):
    """One layer, and of some seeds with weights that make the first loss NaN."""

    def __init__(self, n_features: int, n_outputs: int, share: float = 0.5) -> None:
        super().__init__(torch.nn.Linear(n_features, n_outputs))
        if torch.rand(()) < share:
            torch.nn.init.constant_(self[0].weight, torch.nan)


class Greedy(torch.nn.Sequential):
    """Asks for more memory than there is as soon as it learns."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__(torch.nn.Linear(n_features, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 3:
            torch.empty(2**60)
        return super().forward(x)
