"""Stage 5: ensemble, teachers, student, baseline and control on the held-out rows, and what was recovered.

Axes: N test rows, M members, R replicas, C classes (1 for a regression).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kd_ray.config import Config
from kd_ray.ensemble import spec_of, trained
from kd_ray.errors import ManifestError
from kd_ray.judging import EVALUATION, EVALUATION_MANIFEST, ensemble_values, replica_values
from kd_ray.metrics import Scores, mean_scores
from kd_ray.models import MLP
from kd_ray.progress import Report
from kd_ray.recovery import Rows, recovered
from kd_ray.rundir import Manifest, RunDir
from kd_ray.session import Session
from kd_ray.tables import SOFT_TARGETS_MANIFEST, STUDENT_MANIFEST, TEACHERS_MANIFEST, Dataset
from kd_ray.tasks import Task, task_of

FILE, MANIFEST = EVALUATION, EVALUATION_MANIFEST


def measure(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Write evaluation.json; every figure in it is of the test rows. Raises ManifestError."""
    run.remove(MANIFEST)
    data = Dataset.open(run)
    test, task = data.rows("test", config.teachers.words), task_of(data.schema)
    truth_N = task.truth(test.label_N)
    features_ND = torch.from_numpy(test.features_ND)
    report(0, 3, "ensemble")
    values_MNC, mean_NC = ensemble_values(config, data, features_ND, test.word_NX)
    ensemble = _judge(task, mean_NC[None], truth_N)
    scores, disagreement = _members(task, values_MNC, ensemble.says, truth_N)
    del values_MNC, mean_NC
    report(1, 3, "student and baseline")
    spec = spec_of(config.student.model, data)
    roles = {role: _judge(task, values_RNC, truth_N) for role, values_RNC in replica_values(run, spec, features_ND)}
    report(2, 3, "intervals")
    result = {
        "metrics": {
            "ensemble": ensemble.scores[0],
            "teacher_mean": mean_scores(scores),
            **{role: judged.scores[0] for role, judged in roles.items()},
        },
        "replica_means": {role: mean_scores(judged.scores) for role, judged in roles.items()},
        **_recovered(task, ensemble, roles, config.seed),
        "fidelity": task.fidelity(roles["student"].says, ensemble.says),
        "disagreement": disagreement,
        "parameters": _parameters(config, data, spec),
        "bytes": _bytes(run),
        **_row_counts(run, data, test.label_N),
        "teachers": [
            {"seed": member.number, **of_one}
            for member, of_one in zip(trained(run, config.teachers), scores, strict=True)
        ],
        "failed_teachers": _failed(run),
    }
    record = run.write_json(FILE, result)
    run.commit(MANIFEST, Manifest(fingerprint=fingerprint, files=[record], summary={}))
    report(3, 3, f"{len(test.label_N):,} test rows")
    return result


@dataclass(frozen=True)
class _Judged:
    """Replicas: what the first of them says, their scores, and their part in the measures."""

    says: np.ndarray
    scores: list[Scores]
    rows: Rows


def _judge(task: Task, values_RNC: np.ndarray, truth_N: np.ndarray) -> _Judged:
    first = task.says(values_RNC[0])
    scores, rows = [], []
    for replica, values_NC in enumerate(values_RNC):
        says = task.says(values_NC) if replica else first
        scores.append(task.scores(says, truth_N))
        rows.append(task.rows(says, truth_N))
    return _Judged(first, scores, {name: np.stack([each[name] for each in rows]) for name in task.measures})


def _members(
    task: Task, values_MNC: np.ndarray, ensemble: np.ndarray, truth_N: np.ndarray
) -> tuple[list[Scores], float]:
    """Return each member's scores, and how far the members disagree: the mean over rows of a standard deviation."""
    scores, opinions = [], []
    for values_NC in values_MNC:
        says = task.says(values_NC)
        scores.append(task.scores(says, truth_N))
        opinions.append(task.opinion(says, ensemble))
    return scores, float(np.std(opinions, axis=0).mean())


def _recovered(task: Task, ensemble: _Judged, roles: dict[str, _Judged], seed: int) -> dict[str, Any]:
    students = {role: judged.rows for role, judged in roles.items() if role != "baseline"}
    found = recovered(ensemble.rows, roles["baseline"].rows, students, task.measures, seed=seed)
    in_json = {role: {name: share.to_json() for name, share in shares.items()} for role, shares in found.items()}
    return {"recovered": in_json["student"], "recovered_by_augmentation": in_json.get("augmented_control")}


def _row_counts(run: RunDir, data: Dataset, label_N: np.ndarray) -> dict[str, Any]:
    """Rows of each split and, of a classification, test rows of each class."""
    soft_targets = run.manifest(SOFT_TARGETS_MANIFEST)
    if soft_targets is None:
        raise ManifestError(f"{run}: has no finished soft targets")
    counts = {"rows": {**data.schema["rows"], "transfer": soft_targets.summary["rows"]}}
    if data.is_regression:
        return counts
    return {**counts, "class_rows": np.bincount(label_N, minlength=data.n_classes).tolist()}


def _parameters(config: Config, data: Dataset, student: MLP) -> dict[str, float | None]:
    """Parameters of a teacher, of all, and of the student; None where a teacher is no built-in network."""
    every = trained(data.run, config.teachers)
    counts = [spec_of(member.group.model, data).n_parameters if member.is_network else None for member in every]
    networks = [count for count in counts if count is not None]
    if len(networks) < len(every):
        return {"teacher": None, "ensemble": None, "student": student.n_parameters, "compression": None}
    total = sum(networks)
    return {
        "teacher": total / len(every) if len(set(networks)) > 1 else networks[0],
        "ensemble": total,
        "student": student.n_parameters,
        "compression": total / student.n_parameters,
    }


def _failed(run: RunDir) -> list[dict[str, Any]]:
    """The members that the ensemble goes without, each with its seed and the reason."""
    manifest = run.manifest(TEACHERS_MANIFEST)
    return list(manifest.summary.get("failed", [])) if manifest else []


def _bytes(run: RunDir) -> dict[str, int]:
    """Sizes of all members' files, and of the student's."""
    found = {}
    for name, path in (("ensemble", TEACHERS_MANIFEST), ("student", STUDENT_MANIFEST)):
        manifest = run.manifest(path)
        records = manifest.files if manifest else []
        found[name] = sum(r.bytes for r in records if name == "ensemble" or r.path == "student/model.safetensors")
    return found
