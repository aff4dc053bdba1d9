"""Stage 5: ensemble, teachers, student, baseline and control on the held-out rows, and what was recovered."""

from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from kd_ray import config as knobs
from kd_ray import metrics
from kd_ray.distillation import ROLES
from kd_ray.ensemble import average_log_probs, load_ensemble, spec_of
from kd_ray.errors import ManifestError
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.progress import Report
from kd_ray.rundir import Manifest, RunDir
from kd_ray.session import Session
from kd_ray.tables import SOFT_TARGETS_MANIFEST, STUDENT_MANIFEST, Dataset

FILE = "evaluation.json"
MANIFEST = "evaluation.manifest.json"


def measure(config: knobs.Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Write evaluation.json; every figure in it is of the test rows. Raises ManifestError."""
    data = Dataset.open(run)
    test = data.rows("test")
    features_ND = torch.from_numpy(test.features_ND)
    report(0, 3, "ensemble")
    teacher_spec, student_spec = spec_of(config.teachers.model, data), spec_of(config.student.model, data)
    with torch.no_grad():
        teachers_KNC = load_ensemble(run, teacher_spec, config.teachers.count).logits(features_ND)
        ensemble_NC = average_log_probs(teachers_KNC.double(), config.student.averaging).numpy()
        report(1, 3, "student and baseline")
        replicas = _replicas(run, student_spec, features_ND)
    report(2, 3, "intervals")
    result = _evaluation(config, run, data, test.label_N, teachers_KNC.numpy(), ensemble_NC, replicas)
    result["parameters"] = _parameters(teacher_spec, student_spec, config.teachers.count)
    record = run.write_json(FILE, result)
    run.write_bytes(MANIFEST, Manifest(fingerprint=fingerprint, files=[record], summary={}).to_json())
    report(3, 3, f"{len(test.label_N):,} test rows")
    return result


def _replicas(run: RunDir, spec: MLP, features_ND: torch.Tensor) -> dict[str, np.ndarray]:
    """Return each role's log-probabilities, shape [R, N, C], the delivered replica first."""
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished student")
    found = {}
    for role in ROLES:
        record = next((r for r in manifest.files if r.path == f"{role}/replicas.safetensors"), None)
        if record is None:
            continue
        tensors = load(run.read_checked(record))
        count = manifest.summary["replicas"]
        pack = PackedMLP(spec, count)
        best = run.read_json(f"{role}/metrics.json")["replica"]
        for k, replica in enumerate([best, *(r for r in range(count) if r != best)]):
            prefix = f"{replica}/"
            pack.load(k, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        found[role] = metrics.log_softmax(pack.logits(features_ND).numpy())
    return found


def _evaluation(
    config: knobs.Config,
    run: RunDir,
    data: Dataset,
    label_N: np.ndarray,
    teachers_KNC: np.ndarray,
    ensemble_NC: np.ndarray,
    replicas: dict[str, np.ndarray],
) -> dict[str, Any]:
    teachers = [
        {"seed": seed, **metrics.classification(metrics.log_softmax(logits_NC), label_N)}
        for seed, logits_NC in enumerate(teachers_KNC)
    ]
    found: dict[str, Any] = {
        "ensemble": metrics.classification(ensemble_NC, label_N),
        "teacher_mean": _mean([{k: v for k, v in t.items() if k != "seed"} for t in teachers]),
    }
    spread = {}
    for role, log_prob_RNC in replicas.items():
        every = [metrics.classification(log_prob_NC, label_N) for log_prob_NC in log_prob_RNC]
        found[role] = every[0]
        spread[role] = _mean(every)

    def recovered_by(role: str) -> dict[str, Any] | None:
        if role not in replicas:
            return None
        args = (role, ensemble_NC, replicas, label_N, config.seed)
        return {metric: _recovered(metric, *args) for metric in ("accuracy", "nll")}

    soft_targets = run.manifest(SOFT_TARGETS_MANIFEST)
    assert soft_targets is not None
    return {
        "metrics": found,
        "replica_means": spread,
        "recovered": recovered_by("student"),
        "recovered_by_augmentation": recovered_by("augmented_control"),
        "fidelity": metrics.fidelity(replicas["student"][0], ensemble_NC),
        "parameters": {},
        "rows": {**data.schema["rows"], "transfer": soft_targets.summary["rows"]},
        "teachers": teachers,
    }


def _recovered(
    metric: str,
    role: str,
    ensemble_NC: np.ndarray,
    replicas: dict[str, np.ndarray],
    label_N: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    def rows(log_prob_NC: np.ndarray) -> np.ndarray:
        return metrics.per_row(log_prob_NC, label_N)[metric]

    return metrics.recovered(
        rows(ensemble_NC),
        np.stack([rows(r) for r in replicas[role]]),
        np.stack([rows(r) for r in replicas["baseline"]]),
        higher_is_better=metric == "accuracy",
        seed=seed,
    ).to_json()


def _mean(every: list[dict[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for key in every[0]:
        values = [value for m in every if (value := m[key]) is not None]
        out[key] = float(np.mean(values)) if len(values) == len(every) else None
    return out


def _parameters(teacher: MLP, student: MLP, count: int) -> dict[str, float]:
    return {
        "teacher": teacher.n_parameters,
        "ensemble": teacher.n_parameters * count,
        "student": student.n_parameters,
        "compression": teacher.n_parameters * count / student.n_parameters,
    }
