"""Weights of a run, read back: whole as their manifest says, and of the shapes that the model has."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from kd_ray.errors import ManifestError
from kd_ray.models import MLP
from kd_ray.rundir import FileRecord, RunDir


def read(run: RunDir, record: FileRecord) -> dict[str, torch.Tensor]:
    """Return a file's tensors by name. Raises ManifestError where it is not what was written, or no safetensors."""
    try:
        return dict(load(run.read_checked(record)))
    except SafetensorError as error:
        raise ManifestError(f"{run}/{record.path}: is no safetensors file: {error}") from None


def read_weights(run: RunDir, record: FileRecord, spec: MLP, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the weights of one network, those whose names begin with `prefix`. Raises ManifestError."""
    return weights_of(read(run, record), spec, f"{run}/{record.path}", prefix)


def weights_of(tensors: dict[str, torch.Tensor], spec: MLP, name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return one network's weights out of those of several. Raises ManifestError where they do not fit it."""
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if why := misfit(found, spec):
        raise ManifestError(f"{name}: must hold the weights that config.yaml and the data describe; {prefix}{why}")
    return found


def misfit(found: dict[str, torch.Tensor], spec: MLP) -> str | None:
    """Return which tensor is not as the network's, None where all are."""
    has = {name: tuple(value.shape) for name, value in found.items()}
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in spec.module().state_dict().items()}
    if has == wanted:
        return None
    name = sorted(set(has.items()) ^ set(wanted.items()))[0][0]
    return f"{name} must be {wanted.get(name, 'absent')}, found {has.get(name, 'absent')}"
