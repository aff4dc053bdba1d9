"""Adam for a pack: one fused update for all members, or each with rates of its own.

Axes: K members, P parameters of all members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kd_ray.packing import PackedMLP


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Each member's own learning rate and weight decay, in place of the recipe's; K numbers each."""

    learning_rate_K: Sequence[float]
    weight_decay_K: Sequence[float]

    @property
    def are_equal(self) -> bool:
        return len(set(self.learning_rate_K)) == len(set(self.weight_decay_K)) == 1


class Adam:
    """Adam (Kingma & Ba 2015) with weight decay added to the gradient, as torch.optim.Adam's fused kernel does it.

    The kernel is called directly: making a torch.optim.Adam imports torch's compiler, 1.2 s in every process.
    """

    def __init__(self, weights: torch.Tensor, grads: torch.Tensor, *, weight_decay: float) -> None:
        self.mean_P, self.square_P = torch.zeros_like(weights), torch.zeros_like(weights)
        self._tensors = ([weights], [grads], [self.mean_P], [self.square_P])
        self._step = torch.zeros((), device=weights.device)
        self._weight_decay = weight_decay

    def done(self, steps: int) -> None:
        """Go on from `steps` steps, which the moments are of."""
        self._step.fill_(steps)

    def step(self, learning_rate: float) -> None:
        """Update the weights in place from the gradients."""
        torch._fused_adam_(
            *self._tensors,
            [],
            [self._step.add_(1)],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self._weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class MemberAdam:
    """Adam with a learning rate and a weight decay of each weight's own.

    The fused kernel takes a step of rate 1 from zero, which is the way to go; each weight goes its own share of it.
    """

    def __init__(self, pack: PackedMLP, rates: Rates) -> None:
        self._weights_P, self._grads_P = pack.flat_P, pack.grad_P
        self._way_P = torch.zeros_like(pack.flat_P)
        self._rate_P = pack.spread(rates.learning_rate_K)
        self._decay_P = pack.spread(rates.weight_decay_K) if any(rates.weight_decay_K) else None
        self.adam = Adam(self._way_P, self._grads_P, weight_decay=0.0)

    def step(self, share: float) -> None:
        """Update the weights in place from the gradients, each at `share` of its learning rate."""
        if self._decay_P is not None:
            self._grads_P.addcmul_(self._weights_P, self._decay_P)
        self._way_P.zero_()
        self.adam.step(1.0)
        self._weights_P.addcmul_(self._way_P, self._rate_P, value=share)
