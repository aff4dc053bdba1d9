"""The transfer set as the student reads it: the soft targets' files back in memory, checked.

Axes: N rows of the transfer set, M members of the ensemble, D features, C classes (1 for a regression).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from kd_ray import tables
from kd_ray.ensemble import average_log_probs
from kd_ray.errors import ManifestError
from kd_ray.rundir import Manifest, RunDir
from kd_ray.tables import SOFT_TARGETS_MANIFEST, Dataset
from kd_ray.transfer import KINDS, hashed

ROWS_AT_ONCE = 131_072
ORIGINS = (*tables.PARENTS, *KINDS)
_MIX_STREAM = 6  # what a row's number is drawn for, in place of a seed: it is the same for every student


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """What the student learns from, in order of row ids.

    Labels are class indices, -1 where unknown, or a regression's standardized numbers, NaN where unknown.
    """

    row_id_N: np.ndarray
    features_ND: np.ndarray
    label_N: np.ndarray
    parent_label_N: np.ndarray
    log_prob_NMC: np.ndarray
    """The members' log-probabilities, or (M = 1) the mean logits, or a regression's mean predictions."""
    origin_N: np.ndarray
    """What each row is, its place in `ORIGINS`."""
    weight_N: np.ndarray | None = None
    """Each row's parent's weight; None where the data has no weights."""

    @property
    def is_regression(self) -> bool:
        return self.label_N.dtype.kind == "f"

    @property
    def real_N(self) -> np.ndarray:
        """Positions of the training rows."""
        return np.flatnonzero(known(self.label_N))

    def mixed(self, mix: Mapping[Any, float]) -> np.ndarray:
        """Return whether each row is one of a mix, bool [N]: a share of each kind's, of those not named all.

        A row has a number by its id, so that a smaller share's rows are among a larger one's.
        """
        if not mix:
            return np.ones(len(self.row_id_N), bool)
        share_X = np.array([mix.get(origin, 1.0) for origin in ORIGINS])
        return hashed(self.row_id_N, _MIX_STREAM, 0)[:, 0] < share_X[self.origin_N]

    def soft_targets(self, temperature: float, averaging: str) -> torch.Tensor:
        """Return the ensemble's distribution at T, shape [N, C], float32, made `ROWS_AT_ONCE` at a time."""
        rows, _, classes = self.log_prob_NMC.shape
        soft_NC = torch.empty(rows, classes)
        for start in range(0, rows, ROWS_AT_ONCE):
            at = slice(start, start + ROWS_AT_ONCE)
            scaled = torch.from_numpy(self.log_prob_NMC[at]).float().permute(1, 0, 2) / temperature
            soft_NC[at] = average_log_probs(scaled, averaging).exp_()
        return soft_NC


def known(label_N: np.ndarray) -> np.ndarray:
    return ~np.isnan(label_N) if label_N.dtype.kind == "f" else label_N >= 0


def read_transfer_set(data: Dataset, averaging: str) -> TransferSet:
    """Read and check the soft targets. A regression has only means, whatever `averaging` says.

    Raises ManifestError where the files and their manifest disagree.
    """
    run, manifest = data.run, data.run.manifest(SOFT_TARGETS_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished soft targets")
    by_member = averaging == "probabilities" and not data.is_regression
    if by_member and not manifest.summary["member_log_probs"]:
        raise ManifestError(
            f"{run}/soft_targets: student.averaging: probabilities needs each member's log-probabilities, which are "
            "kept only where members x classes <= 1024; use logits"
        )
    values = "member_log_probs" if by_member else "logits"
    columns = _columns(run, manifest, ["row_id", "parent_row_id", "origin", "features", "label", values])
    row_id_N, parent_N, label_N = columns["row_id"], columns["parent_row_id"], columns["label"]
    _check_ids(run, row_id_N, manifest.summary["rows"])
    own_N = np.flatnonzero(row_id_N == parent_N)
    at_N = tables.positions(row_id_N[own_N], parent_N)
    if (at_N < 0).any():
        raise ManifestError(f"{run}/soft_targets: a row's parent is not among the rows; run again to label them anew")
    return TransferSet(
        row_id_N=row_id_N,
        features_ND=columns["features"],
        label_N=label_N,
        parent_label_N=label_N[own_N[at_N]],
        origin_N=columns["origin"],
        log_prob_NMC=columns[values].reshape(len(row_id_N), -1, data.n_outputs),
        weight_N=_weights(data, parent_N),
    )


def _check_ids(run: RunDir, row_id_N: np.ndarray, rows: int) -> None:
    if len(row_id_N) != rows or (np.diff(row_id_N) == 0).any():
        raise ManifestError(
            f"{run}/soft_targets: must hold {rows} rows, each id once; "
            f"it holds {len(row_id_N)} rows of {len(np.unique(row_id_N))} ids"
        )


def _columns(run: RunDir, manifest: Manifest, names: list[str]) -> dict[str, np.ndarray]:
    """Return columns of all files in order of row ids; beside them only one file is in memory at a time."""
    total = sum(record.rows or 0 for record in manifest.files)
    columns: dict[str, np.ndarray] = {}
    at = 0
    for record in manifest.files:
        table = tables.read(run, record, names)
        for name in names:
            part = _READERS.get(name, tables.to_numpy)(table[name])
            if name not in columns:
                columns[name] = np.empty((total, *part.shape[1:]), part.dtype)
            columns[name][at : at + len(part)] = part
        at += table.num_rows
    if (np.diff(columns["row_id"]) < 0).any():
        order = np.argsort(columns["row_id"], kind="stable")
        for name in names:
            columns[name] = columns[name][order]
    return columns


def _origins(column: pa.ChunkedArray) -> np.ndarray:
    """Return places in ORIGINS, int8."""
    return np.asarray(pc.index_in(column, pa.array(ORIGINS)).to_numpy(), np.int8)


_READERS: dict[str, Callable[[pa.ChunkedArray], np.ndarray]] = {"label": tables.labels, "origin": _origins}


def _weights(data: Dataset, parent_N: np.ndarray) -> np.ndarray | None:
    """Return the weight that each row's parent has in the data; 1 where its files have none."""
    found = []
    for split in tables.PARENTS:
        for record in data.files(split):
            table = tables.read(data.run, record)
            if "weight" not in table.column_names:
                break
            found.append((tables.to_numpy(table["row_id"]), tables.to_numpy(table["weight"])))
    if not found:
        return None
    id_X, weight_X = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(id_X)
    at_N = tables.positions(id_X[order], parent_N)
    return np.where(at_N < 0, 1.0, weight_X[order][at_N]).astype(np.float32)
