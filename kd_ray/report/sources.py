"""All that a run's page is made of, read from the run directory.

Axes: N test rows, C classes, E epochs, R replicas.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kd_ray import tables
from kd_ray.config import Config
from kd_ray.distillation import ROLES
from kd_ray.ensemble import member_manifest, spec_of, trained
from kd_ray.judging import ensemble_values, evaluation_of, replica_values
from kd_ray.rundir import Manifest, RunDir
from kd_ray.tables import EXPORT_MANIFEST, STUDENT_MANIFEST, Dataset
from kd_ray.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What ensemble, student and baseline say of the test rows: log-probabilities, or predictions of a regression."""

    row_id_N: np.ndarray
    truth_N: np.ndarray
    says: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class History:
    """A role's training: its loss, and its score of the validation rows, NaN where there are none."""

    loss_ER: np.ndarray
    valid_ER: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Sources:
    """`bundle` and `latency` are what an export wrote, None where there was none."""

    config: Config
    run: RunDir
    data: Dataset
    evaluation: dict[str, Any]
    record: dict[str, Any]
    bundle: dict[str, Any] | None
    latency: dict[str, Any] | None
    teachers: list[Manifest]
    histories: dict[str, History]
    answers: Answers

    @classmethod
    def of(cls, config: Config, run: RunDir) -> "Sources":
        """Raises ManifestError where the run has no finished evaluation, or a file is not what was written."""
        data = Dataset.open(run)
        return cls(
            config=config,
            run=run,
            data=data,
            evaluation=evaluation_of(run),
            record=optional(run, "run.json") or {},
            bundle=_bundle(run),
            latency=optional(run, "export/latency.json"),
            teachers=[member_manifest(run, member) for member in trained(run, config.teachers)],
            histories=_histories(run),
            answers=_answers(config, data),
        )

    @property
    def is_regression(self) -> bool:
        return self.data.is_regression

    @cached_property
    def classes(self) -> list[str]:
        return [str(name) for name in self.data.schema["task"].get("classes", [])]

    @cached_property
    def variants(self) -> list[dict[str, Any]]:
        return self.bundle["variants"] if self.bundle else []

    @property
    def metric(self) -> str:
        """The first measure: accuracy, or RMSE."""
        return next(iter(self.evaluation["recovered"]))


def optional(run: RunDir, path: str) -> dict[str, Any] | None:
    return run.read_json(path) if run.exists(path) else None


def _bundle(run: RunDir) -> dict[str, Any] | None:
    manifest = run.manifest(EXPORT_MANIFEST)
    return run.read_named(manifest, "export/bundle.json") if manifest else None


def _answers(config: Config, data: Dataset) -> Answers:
    test, task = data.rows("test", config.teachers.words), task_of(data.schema)
    features_ND = torch.from_numpy(test.features_ND)
    says = {"ensemble": task.says(ensemble_values(config, data, features_ND, test.word_NX)[1])}
    for role, values_RNC in replica_values(data.run, spec_of(config.student.model, data), features_ND):
        if role in ("student", "baseline"):
            says[role] = task.says(values_RNC[0])
    return Answers(row_id_N=test.row_id_N, truth_N=task.truth(test.label_N), says=says)


def _histories(run: RunDir) -> dict[str, History]:
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
            found[role] = History(loss_ER=loss_X, valid_ER=valid_X)
    return found
