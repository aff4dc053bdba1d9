"""What the trained models say of rows, as the stages that judge them ask.

Axes: N rows, M members, R replicas, C classes (1 for a regression).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kd_ray.config import Config
from kd_ray.distillation import ROLES
from kd_ray.ensemble import average_log_probs, load_ensemble, mean_in_order
from kd_ray.errors import ManifestError
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.rundir import FileRecord, RunDir
from kd_ray.tables import STUDENT_MANIFEST, Dataset
from kd_ray.tensors import read, weights_of

EVALUATION = "evaluation.json"
EVALUATION_MANIFEST = "evaluation.manifest.json"
ROWS_AT_ONCE = 16_384


def evaluation_of(run: RunDir) -> dict[str, Any]:
    """Return evaluation.json as its manifest says it was written. Raises ManifestError."""
    manifest = run.manifest(EVALUATION_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished evaluation; finish it with `kd-ray run` first")
    found: dict[str, Any] = run.read_named(manifest, EVALUATION)
    return found


def ensemble_values(
    config: Config, data: Dataset, features_ND: torch.Tensor, word_NX: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the members' logits or predictions, shape [M, N, C], and the ensemble's, shape [N, C], in float64."""
    ensemble = load_ensemble(data.run, config.teachers, config.seed)
    with torch.no_grad():
        values_MNC = ensemble.logits(features_ND, word_NX)
        means = [
            mean_in_order(part.double(), ensemble.weight_M)
            if data.is_regression
            else average_log_probs(part.double(), config.student.averaging, ensemble.weight_M)
            for part in values_MNC.split(ROWS_AT_ONCE, dim=1)
        ]
    return values_MNC.numpy(), torch.cat(means).numpy()


def replica_values(run: RunDir, spec: MLP, features_ND: torch.Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each role with its logits or predictions, shape [R, N, C], the delivered replica first."""
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished student")
    for role in ROLES:
        record = next((r for r in manifest.files if r.path == f"{role}/replicas.safetensors"), None)
        if record is None:
            continue
        tensors = read(run, record)
        count = manifest.summary["replicas"]
        pack = PackedMLP(spec, count)
        best = run.read_named(manifest, f"{role}/metrics.json")["replica"]
        for k, replica in enumerate([best, *(r for r in range(count) if r != best)]):
            pack.load(k, weights_of(tensors, spec, f"{run}/{record.path}", f"{replica}/"))
        with torch.no_grad():
            yield role, pack.logits(features_ND).numpy()


def student_file(run: RunDir) -> FileRecord:
    """Return the delivered student's weights as they were written. Raises ManifestError where there are none."""
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: has no finished student")
    return manifest.file("student/model.safetensors")
