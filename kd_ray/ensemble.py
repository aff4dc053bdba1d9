"""Trained members as they lie in the run directory, and as one pack."""

import torch
from safetensors.torch import load

from kd_ray import config as knobs
from kd_ray.errors import ManifestError
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.rundir import Manifest, RunDir, fingerprint
from kd_ray.tables import Dataset

TEACHERS_MANIFEST = "teachers/manifest.json"
TEACHER_STREAM = 1  # first word of a teacher's seed; a student's role has another


def member_fingerprint(teachers: str, member: int) -> str:
    """Return what one member is a function of: all that makes a teacher, and its number."""
    return fingerprint("teacher", teachers, member)


def record_of(member: int) -> str:
    """Path of a member's own manifest."""
    return f"teachers/{member:04d}/teacher.json"


def spec_of(model: knobs.Model, data: Dataset) -> MLP:
    return MLP.of(n_features=data.n_features, hidden=model.hidden, n_classes=data.n_classes, dropout=model.dropout)


def member_manifest(run: RunDir, member: int) -> Manifest:
    """Raises ManifestError where the member is not there."""
    manifest = run.manifest(record_of(member))
    if manifest is None:
        raise ManifestError(f"{run}/{record_of(member)}: is missing; run again to train it")
    return manifest


def load_ensemble(run: RunDir, spec: MLP, members: int, device: str = "cpu") -> PackedMLP:
    """Return members 0 to `members` - 1 as one pack. Raises ManifestError where a file is not what was written."""
    pack = PackedMLP(spec, members, device)
    for member in range(members):
        pack.load(member, load(run.read_checked(member_manifest(run, member).files[0])))
    return pack


def mean_in_order(logits_KNC: torch.Tensor) -> torch.Tensor:
    """Return the mean over members, summed member by member: the same bits for a row wherever it stands.

    torch's own mean adds in an order that depends on the shape.
    """
    total_NC = logits_KNC[0].clone()
    for logits_NC in logits_KNC[1:]:
        total_NC += logits_NC
    return total_NC / len(logits_KNC)


def average_log_probs(logits_KNC: torch.Tensor, averaging: str) -> torch.Tensor:
    """Return the ensemble's log-probabilities, shape [N, C], from its members' logits or log-probabilities.

    `logits` averages logits (a geometric mean of the members' distributions, normalised), `probabilities`
    averages probabilities.
    """
    if averaging == "logits":
        return logits_KNC.mean(0).log_softmax(-1)
    members = torch.tensor(float(len(logits_KNC)))
    return logits_KNC.log_softmax(-1).logsumexp(0) - members.log()
