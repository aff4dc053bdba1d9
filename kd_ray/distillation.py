"""What a student learns from and by: the soft targets read back and checked, and the loss of a packed student.

Axes: N rows of the transfer set, M members of the ensemble, K models of the student's pack, B rows of a batch.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from kd_ray import config as knobs
from kd_ray import tables
from kd_ray.ensemble import average_log_probs
from kd_ray.errors import ManifestError
from kd_ray.losses import Loss, distillation, negentropy
from kd_ray.rundir import RunDir
from kd_ray.tables import SOFT_TARGETS_MANIFEST
from kd_ray.training import Objective, take

ROLES = ("student", "baseline", "augmented_control")


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """What the student learns from, in order of row ids. `label_N` is -1 where unknown."""

    row_id_N: np.ndarray
    features_ND: np.ndarray
    label_N: np.ndarray
    parent_label_N: np.ndarray
    log_prob_NMC: np.ndarray
    """The members' log-probabilities, or (M = 1) the mean logits."""

    @property
    def real_N(self) -> np.ndarray:
        """Positions of the training rows."""
        return np.flatnonzero(self.label_N >= 0)

    def soft_targets(self, temperature: float, averaging: str) -> np.ndarray:
        """Return the ensemble's distribution at T, shape [N, C], float32."""
        scaled = torch.from_numpy(self.log_prob_NMC).float().permute(1, 0, 2) / temperature
        return average_log_probs(scaled, averaging).exp_().numpy()


def read_transfer_set(run: RunDir, averaging: str) -> TransferSet:
    """Read and check the soft targets. Raises ManifestError where files and manifest disagree."""
    manifest = run.manifest(SOFT_TARGETS_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished soft targets")
    values = "member_log_probs" if averaging == "probabilities" else "logits"
    if averaging == "probabilities" and not manifest.summary["member_log_probs"]:
        raise ManifestError(
            f"{run}/soft_targets: student.averaging: probabilities needs each member's log-probabilities, which are "
            "kept only where members x classes <= 1024; use logits"
        )
    columns = ["row_id", "parent_row_id", "features", "label", values]
    table = pa.concat_tables([tables.read(run, record, columns) for record in manifest.files])
    row_id_N = tables.to_numpy(table["row_id"])
    order = np.argsort(row_id_N, kind="stable")
    row_id_N = row_id_N[order]
    if len(row_id_N) != manifest.summary["rows"] or (np.diff(row_id_N) == 0).any():
        raise ManifestError(
            f"{run}/soft_targets: must hold {manifest.summary['rows']} rows, each id once; "
            f"it holds {len(row_id_N)} rows of {len(np.unique(row_id_N))} ids"
        )
    label_N = table["label"].combine_chunks().fill_null(-1).to_numpy()[order].astype(np.int64)
    real_N = np.flatnonzero(label_N >= 0)
    parent_N = tables.to_numpy(table["parent_row_id"])[order]
    at_N = np.searchsorted(row_id_N[real_N], parent_N)
    if (row_id_N[real_N][np.minimum(at_N, len(real_N) - 1)] != parent_N).any():
        raise ManifestError(f"{run}/soft_targets: a row's parent is not among the training rows")
    return TransferSet(
        row_id_N=row_id_N,
        features_ND=tables.to_numpy(table["features"])[order],
        label_N=label_N,
        parent_label_N=label_N[real_N][at_N],
        log_prob_NMC=tables.to_numpy(table[values])[order].reshape(len(row_id_N), -1, len(manifest.summary["classes"])),
    )


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of the student's pack."""

    role: str
    replica: int
    temperature: float
    alpha: float
    rows_N: np.ndarray


def members_of(config: knobs.Student, transfer: TransferSet) -> list[Member]:
    """Every replica of the student, the baseline and, where rows were synthesized, the augmented control."""
    every_N, real_N = np.arange(len(transfer.row_id_N)), transfer.real_N
    rows = {"student": every_N, "baseline": real_N}
    if len(every_N) > len(real_N):
        rows["augmented_control"] = every_N
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


def objective(members: list[Member], transfer: TransferSet, averaging: str, device: str) -> Objective:
    """Return the pack's loss: each member's own temperature and alpha over its own rows.

    A row with no label of its own has alpha 1 for a student; for a control it has its parent's label.
    """
    kinds = sorted({member.temperature for member in members if member.alpha} or {1.0})
    n_rows = len(transfer.row_id_N)
    soft_XC = torch.from_numpy(np.concatenate([transfer.soft_targets(t, averaging) for t in kinds])).to(device)
    negentropy_X = negentropy(soft_XC, -1)
    first_K1 = torch.tensor([[kinds.index(m.temperature) * n_rows if m.alpha else 0] for m in members], device=device)
    label_N = torch.from_numpy(transfer.parent_label_N).to(device)
    unknown_N = torch.from_numpy(transfer.label_N < 0).to(device)
    alpha_K1 = torch.tensor([[m.alpha] for m in members], device=device, dtype=torch.float32)
    soft_K1 = alpha_K1 > 0
    temperature_K = torch.tensor([m.temperature for m in members], device=device, dtype=torch.float32)

    def loss(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
        soft_rows_KB = rows_KB + first_K1
        return distillation(
            logits_CKB,
            take(soft_XC, soft_rows_KB).permute(2, 0, 1).contiguous(),
            label_N.take(rows_KB),
            temperature_K=temperature_K,
            alpha_KB=torch.where(unknown_N.take(rows_KB) & soft_K1, 1.0, alpha_K1),
            weight_KB=weight_KB,
            negentropy_KB=negentropy_X.take(soft_rows_KB),
        )

    return loss
