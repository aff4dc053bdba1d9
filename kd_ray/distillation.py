"""What a student learns by: the models of its pack, and their loss.

Axes: N rows of the transfer set, K models of the student's pack, B rows of a batch, C classes (1 for a regression).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kd_ray import knobs
from kd_ray.errors import ConfigError
from kd_ray.losses import DISTANCES, Loss, distillation, negentropy, regression_distillation, reweighted
from kd_ray.training import Objective, take
from kd_ray.transfer_set import TransferSet, known

STUDENT_STREAM = 2  # first word of a student's seed, before its replica
ROLES = ("student", "baseline", "augmented_control")
Sum = Callable[[torch.Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of the student's pack."""

    role: str
    replica: int
    temperature: float
    alpha: float
    rows_N: np.ndarray


def members_of(config: knobs.Student, transfer: TransferSet) -> list[Member]:
    """Every replica of the student, the baseline and, where rows were synthesized, the augmented control.

    Who learns labels alone (a control, or a student of alpha 0) sees the rows whose parent has one. The student and
    the augmented control have the same mix of rows.
    """
    mixed_N, real_N = transfer.mixed(config.mix), transfer.real_N
    every_N, labelled_N = np.flatnonzero(mixed_N), np.flatnonzero(mixed_N & known(transfer.parent_label_N))
    rows = {"student": every_N if config.alpha else labelled_N, "baseline": real_N}
    if len(labelled_N) > len(real_N):
        rows["augmented_control"] = labelled_N
    return [
        Member(
            role=role,
            replica=replica,
            temperature=config.temperature if role == "student" else 1.0,
            alpha=config.alpha if role == "student" else 0.0,
            rows_N=rows_N,
        )
        for role, rows_N in rows.items()
        for replica in range(config.replicas)
    ]


def objective(
    config: knobs.Student,
    members: list[Member],
    transfer: TransferSet,
    device: str,
    sum_: Sum = lambda _: None,
) -> Objective:
    """Return the pack's loss: each member's own temperature and alpha over its own rows.

    A row with no label of its own has alpha 1 for a student; for a control it has its parent's label. `sum_` adds a
    tensor up over the processes that share a batch. Raises ConfigError where classes are to be weighed and there are
    none.
    """
    of_rows = _OfRows(members, transfer, device, sum_)
    if not transfer.is_regression:
        return _classification(config, members, transfer, of_rows, device)
    if config.class_weights != "none":
        raise ConfigError(
            f"student.class_weights: must be none where the target is a number; got {config.class_weights}"
        )
    mean_N = torch.from_numpy(transfer.log_prob_NMC[:, 0, 0]).to(device)

    def loss(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
        return regression_distillation(
            logits_CKB,
            mean_N.take(rows_KB),
            of_rows.label_N.take(rows_KB),
            distance=DISTANCES[config.loss],
            alpha_KB=of_rows.alpha(rows_KB),
            weight_KB=of_rows.weigh(weight_KB, rows_KB),
        )

    return loss


def _classification(
    config: knobs.Student, members: list[Member], transfer: TransferSet, of_rows: "_OfRows", device: str
) -> Objective:
    kinds = sorted({member.temperature for member in members if member.alpha} or {1.0})
    n_rows = len(transfer.row_id_N)
    parts = [transfer.soft_targets(t, config.averaging) for t in kinds]
    soft_XC = (parts[0] if len(parts) == 1 else torch.cat(parts)).to(device)
    negentropy_X = negentropy(soft_XC, -1)
    first_K1 = torch.tensor([[kinds.index(m.temperature) * n_rows if m.alpha else 0] for m in members], device=device)
    temperature_K = torch.tensor([m.temperature for m in members], device=device, dtype=torch.float32)
    class_weight_C = None
    if config.class_weights == "balanced":
        class_weight_C = balanced(transfer.label_N[transfer.real_N], soft_XC.shape[1]).to(device)

    def loss(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
        soft_rows_KB = rows_KB + first_K1
        label_KB = of_rows.label_N.take(rows_KB)
        return distillation(
            logits_CKB,
            take(soft_XC, soft_rows_KB).permute(2, 0, 1).contiguous(),
            label_KB,
            temperature_K=temperature_K,
            alpha_KB=of_rows.alpha(rows_KB),
            weight_KB=of_rows.weigh(weight_KB, rows_KB),
            negentropy_KB=negentropy_X.take(soft_rows_KB),
            label_weight_KB=None if class_weight_C is None else class_weight_C.take(label_KB),
        )

    return loss


def balanced(label_N: np.ndarray, classes: int) -> torch.Tensor:
    """Return a weight for each class, inverse to its rows, such that the rows' mean weight is 1; shape [C]."""
    rows_C = np.bincount(label_N, minlength=classes)
    weight_C = len(label_N) / (np.count_nonzero(rows_C) * np.maximum(rows_C, 1))
    return torch.from_numpy(weight_C.astype(np.float32))


class _OfRows:
    """What a batch's rows bring along: the label to learn, alpha, and weights of their own."""

    def __init__(self, members: list[Member], transfer: TransferSet, device: str, sum_: Sum) -> None:
        labelled_N = known(transfer.parent_label_N)
        self.label_N = torch.from_numpy(np.where(labelled_N, transfer.parent_label_N, 0)).to(device)
        self._unknown_N = torch.from_numpy(~known(transfer.label_N)).to(device)
        self._alpha_K1 = torch.tensor([[m.alpha] for m in members], device=device, dtype=torch.float32)
        self._soft_K1 = self._alpha_K1 > 0
        self._weight_N = None if transfer.weight_N is None else torch.from_numpy(transfer.weight_N).to(device)
        self._sum = sum_

    def alpha(self, rows_KB: torch.Tensor) -> torch.Tensor:
        return torch.where(self._unknown_N.take(rows_KB) & self._soft_K1, 1.0, self._alpha_K1)

    def weigh(self, weight_KB: torch.Tensor, rows_KB: torch.Tensor) -> torch.Tensor:
        if self._weight_N is None:
            return weight_KB
        return reweighted(weight_KB, self._weight_N.take(rows_KB), self._sum)
