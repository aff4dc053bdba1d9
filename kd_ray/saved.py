"""Members that are trained already: files of weights or ONNX files, and columns of the table that hold their word.

Axes: N rows, D features, C classes (1 for a regression).
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load

from kd_ray.errors import ConfigError
from kd_ray.knobs import Group
from kd_ray.models import MLP
from kd_ray.rundir import FileRecord
from kd_ray.tensors import misfit

WEIGHTS, ONNX = "model.safetensors", "model.onnx"


def file_of(group: Group) -> str:
    """Return the name that a saved member's file has in the run."""
    return ONNX if group.paths[0].endswith(".onnx") else WEIGHTS


def content_of(group: Group, spec: MLP) -> bytes:
    """Return a saved member's file. Raises ConfigError where it is not there, or does not fit the group's model."""
    path = _path_of(group)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"teachers.groups: saved: {path}: cannot be read: {error.strerror}") from None
    if file_of(group) == WEIGHTS:
        _check_weights(content, spec, path)
    else:
        session_of(content, str(path))
    return content


def is_replaced(group: Group, copied: FileRecord) -> bool:
    """Return whether a saved member's file is there with other content than was copied into the run.

    What is no plain file is not read, nor more of one than the copy has: its name may come from somebody else's run.
    """
    path = _path_of(group)
    try:
        if not path.is_file():
            return False
        return path.stat().st_size != copied.bytes or hashlib.sha256(path.read_bytes()).hexdigest() != copied.sha256
    except OSError:
        return False


def _path_of(group: Group) -> Path:
    path = Path(group.paths[0])
    return path / WEIGHTS if path.is_dir() else path


def _check_weights(content: bytes, spec: MLP, path: Path) -> None:
    try:
        found = load(content)
    except SafetensorError as error:
        raise ConfigError(f"teachers.groups: saved: {path}: is no safetensors file: {error}") from None
    if why := misfit(found, spec):
        raise ConfigError(f"teachers.groups: saved: {path}: must hold the weights of the group's model; {why}")


def session_of(content: bytes, name: str, threads: int = 1) -> Any:
    """Return an onnxruntime session. Raises ConfigError where the file is no ONNX."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(f"teachers.groups: saved: {name}: is no ONNX model: {str(error)[:200]}") from None


def ask(session: Any, features_ND: np.ndarray, n_outputs: int, name: str) -> np.ndarray:
    """Return what an ONNX model says of encoded rows: its last output of `n_outputs` numbers a row."""
    given = {session.get_inputs()[0].name: np.ascontiguousarray(features_ND, np.float32)}
    fitting = [out for out in session.run(None, given) if np.size(out) == len(features_ND) * n_outputs]
    floats = [np.asarray(out) for out in fitting if np.asarray(out).dtype.kind == "f"]
    if not floats:
        raise ConfigError(f"{name}: its ONNX model must have an output of {n_outputs} numbers a row")
    return floats[-1].reshape(len(features_ND), n_outputs)
