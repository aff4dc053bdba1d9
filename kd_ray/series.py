"""What a run leaves to be plotted: numbers by epoch of teachers and students, and the figures of the evaluation.

Axes: E epochs, R replicas.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kd_ray import tables
from kd_ray.config import Config
from kd_ray.distillation import ROLES
from kd_ray.ensemble import member_manifest, trained
from kd_ray.judging import evaluation_of
from kd_ray.rundir import RunDir
from kd_ray.tables import STUDENT_MANIFEST

SHOWN_TEACHERS = 40
POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class History:
    """A role's training: its loss, and its score of the validation rows, NaN where there are none."""

    loss_ER: np.ndarray
    valid_ER: np.ndarray
    valid_name: str


@dataclass(frozen=True)
class Series:
    """One line of a plot: numbers of one model under one name, and the steps that they were seen at."""

    model: str
    name: str
    steps: list[int]
    values: list[float]


def histories(run: RunDir) -> dict[str, History]:
    """Return the training of each role, of a finished student stage."""
    manifest = run.manifest(STUDENT_MANIFEST)
    records = {record.path: record for record in manifest.files} if manifest else {}
    found = {}
    for role in ROLES:
        record = records.get(f"{role}/history.parquet")
        if record is not None:
            table = tables.read(run, record)
            replicas = int(tables.to_numpy(table["replica"]).max()) + 1
            valid = next(name for name in table.column_names if name.startswith("valid_"))
            loss_X, valid_X = (
                table[name].fill_null(np.nan).to_numpy().astype(float).reshape(-1, replicas) for name in ("loss", valid)
            )
            found[role] = History(loss_ER=loss_X, valid_ER=valid_X, valid_name=valid)
    return found


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the positions 0 to count - 1, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def of_teachers(config: Config, run: RunDir) -> list[Series]:
    """Losses of members that were trained here, of many no more than forty."""
    every = trained(run, config.teachers)
    found = []
    for i in evenly(len(every), SHOWN_TEACHERS):
        losses = (member_manifest(run, every[i]).summary.get("metrics") or {}).get("loss") or []
        found += _by_epoch(every[i].folder, "loss", np.asarray(losses, float))
    return found


def of_students(config: Config, run: RunDir) -> list[Series]:
    """Means over replicas."""
    found = []
    for role, history in histories(run).items():
        found += _by_epoch(role, "loss", history.loss_ER.mean(1))
        found += _by_epoch(role, history.valid_name, history.valid_ER.mean(1))
    return found


def of_evaluation(config: Config, run: RunDir) -> list[Series]:
    """Metrics on the test rows, and the recovered shares where there is an edge."""
    evaluation = evaluation_of(run)
    figures = {
        (role, f"test/{name}"): value
        for role, scores in evaluation["metrics"].items()
        for name, value in scores.items()
    }
    for role, key in (("student", "recovered"), ("augmented_control", "recovered_by_augmentation")):
        for metric, share in (evaluation.get(key) or {}).items():
            ends = {"": "value", "_low": "low", "_high": "high"}
            figures |= {(role, f"recovered/{metric}{end}"): share[part] for end, part in ends.items()}
    return [Series(*key, [0], [float(value)]) for key, value in figures.items() if isinstance(value, int | float)]


OF_STAGE: dict[str, Callable[[Config, RunDir], list[Series]]] = {
    "teachers": of_teachers,
    "student": of_students,
    "evaluation": of_evaluation,
}


def _by_epoch(model: str, name: str, value_E: np.ndarray) -> list[Series]:
    """One line, of at most a thousand epochs; none where nothing was measured."""
    seen = np.flatnonzero(np.isfinite(value_E))
    if not len(seen):
        return []
    at = seen[evenly(len(seen), POINTS)]
    return [Series(model, name, (at + 1).tolist(), value_E[at].tolist())]
