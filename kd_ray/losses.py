"""Losses with their gradients in the logits or values, written out: a step needs no autograd graph.

Axes: C classes (1 for a regression), K models of a pack, B rows. Classes come first here, since a softmax over the
slowest axis runs several times faster on a CPU than one over a last axis of a few classes.
`weight_KB` weighs rows and sums to 1 over each model's batch.
"""

from collections.abc import Callable

import torch

Loss = tuple[torch.Tensor, torch.Tensor]
Distance = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Loss]


def reweighted(
    weight_KB: torch.Tensor, row_weight_KB: torch.Tensor, sum_: Callable[[torch.Tensor], None] = lambda _: None
) -> torch.Tensor:
    """Return `weight_KB` times the rows' own weights, scaled so that each model's batch again sums to 1.

    Where processes share a batch, `sum_` adds a tensor up over them, in place. A batch whose rows all weigh nothing
    stays at zero.
    """
    weight_KB = weight_KB * row_weight_KB
    total_K1 = weight_KB.sum(-1, keepdim=True)
    sum_(total_K1)
    return weight_KB.div_(total_K1.clamp_min_(torch.finfo(total_K1.dtype).tiny))


def cross_entropy(logits_CKB: torch.Tensor, label_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
    """Return each model's weighted cross-entropy, shape [K], and its gradient in the logits."""
    log_prob_CKB = logits_CKB.log_softmax(0)
    index_1KB = label_KB.unsqueeze(0)
    loss_K = -(log_prob_CKB.gather(0, index_1KB).squeeze(0) * weight_KB).sum(-1)
    grad_CKB = log_prob_CKB.exp_()
    grad_CKB.scatter_add_(0, index_1KB, grad_CKB.new_full((), -1.0).expand_as(index_1KB))
    return loss_K, grad_CKB.mul_(weight_KB)


def negentropy(soft: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Return Σ soft · log soft over `dim`, the part of the divergence that no student changes."""
    return torch.special.xlogy(soft, soft).sum(dim)


def softened_divergence(
    logits_CKB: torch.Tensor,
    soft_CKB: torch.Tensor,
    temperature_K: torch.Tensor,
    weight_KB: torch.Tensor,
    negentropy_KB: torch.Tensor | None = None,
) -> Loss:
    """Return T² · KL(soft ‖ softmax(logits / T)) weighted over rows, shape [K], and its gradient.

    `soft_CKB` is the ensemble's distribution, softened by the same T; `negentropy_KB` is its own where that is known
    beforehand. The factor T² keeps the gradient's size comparable across temperatures: Hinton, Vinyals & Dean 2015,
    "Distilling the Knowledge in a Neural Network", section 2. The gradient in the logits is
    T · (softmax(logits / T) - soft).
    """
    if negentropy_KB is None:
        negentropy_KB = negentropy(soft_CKB)
    temperature_K1 = temperature_K.unsqueeze(-1)
    log_prob_CKB = (logits_CKB / temperature_K1).log_softmax(0)
    divergence_KB = negentropy_KB - (log_prob_CKB * soft_CKB).sum(0)
    loss_K = (divergence_KB * weight_KB).sum(-1) * (temperature_K * temperature_K)
    grad_CKB = log_prob_CKB.exp_().sub_(soft_CKB)
    return loss_K, grad_CKB.mul_(weight_KB * temperature_K1)


def distillation(
    logits_CKB: torch.Tensor,
    soft_CKB: torch.Tensor,
    label_KB: torch.Tensor,
    *,
    temperature_K: torch.Tensor,
    alpha_KB: torch.Tensor,
    weight_KB: torch.Tensor,
    negentropy_KB: torch.Tensor | None = None,
    label_weight_KB: torch.Tensor | None = None,
) -> Loss:
    """Return alpha · T² · KL(ensemble_T ‖ student_T) + (1 - alpha) · CE(label), shape [K], and its gradient.

    `alpha_KB` is a row's own: 1 where its label is unknown (`label_KB` may then hold any class). `label_weight_KB`,
    the weight of each row's class, multiplies the label's part alone.
    """
    soft_K, grad_CKB = softened_divergence(logits_CKB, soft_CKB, temperature_K, weight_KB * alpha_KB, negentropy_KB)
    hard_weight_KB = weight_KB * (1 - alpha_KB)
    if label_weight_KB is not None:
        hard_weight_KB.mul_(label_weight_KB)
    hard_K, hard_grad_CKB = cross_entropy(logits_CKB, label_KB, hard_weight_KB)
    return soft_K + hard_K, grad_CKB.add_(hard_grad_CKB)


def squared_error(values_CKB: torch.Tensor, label_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
    """Return each model's weighted squared error, C = 1, shape [K], and its gradient in the values."""
    error_CKB = values_CKB - label_KB
    loss_K = (error_CKB * error_CKB * weight_KB).sum((0, -1))
    return loss_K, error_CKB.mul_(2 * weight_KB)


def huber(values_CKB: torch.Tensor, target_KB: torch.Tensor, weight_KB: torch.Tensor, delta: float = 1.0) -> Loss:
    """Return each model's weighted Huber loss, C = 1, shape [K], and its gradient in the values.

    Half the squared error up to `delta`, linear beyond: Huber 1964, "Robust Estimation of a Location Parameter".
    Targets are standardized, so the default bends at one standard deviation.
    """
    error_CKB = values_CKB - target_KB
    clipped_CKB = error_CKB.clamp(-delta, delta)
    loss_K = (clipped_CKB * (error_CKB - 0.5 * clipped_CKB) * weight_KB).sum((0, -1))
    return loss_K, clipped_CKB.mul_(weight_KB)


DISTANCES: dict[str, Distance] = {"mse": squared_error, "huber": huber}


def regression_distillation(
    values_CKB: torch.Tensor,
    mean_KB: torch.Tensor,
    label_KB: torch.Tensor,
    *,
    distance: Distance,
    alpha_KB: torch.Tensor,
    weight_KB: torch.Tensor,
) -> Loss:
    """Return alpha · d(student, ensemble's mean) + (1 - alpha) · d(student, label), shape [K], and its gradient.

    `alpha_KB` is a row's own: 1 where its label is unknown (`label_KB` may then hold any finite number). A number has
    no temperature.
    """
    soft_K, grad_CKB = distance(values_CKB, mean_KB, weight_KB * alpha_KB)
    hard_K, hard_grad_CKB = distance(values_CKB, label_KB, weight_KB * (1 - alpha_KB))
    return soft_K + hard_K, grad_CKB.add_(hard_grad_CKB)
