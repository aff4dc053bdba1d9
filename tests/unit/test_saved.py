"""Members that are trained already."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from kd_ray import saved
from kd_ray.errors import ConfigError
from kd_ray.knobs import Group
from kd_ray.models import MLP
from kd_ray.rundir import FileRecord

onnx = pytest.importorskip("onnx", reason="the extra onnx, and onnx itself to make a model with")
SPEC = MLP.of(n_features=3, hidden=[4], n_classes=2, dropout=[])


def group(path: Path) -> Group:
    return Group(kind="saved", paths=[str(path)])


def model(path: Path, weight: np.ndarray) -> Path:
    """Write logits = x @ weight as ONNX."""
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, len(weight)])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    version = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(made, opset_imports=[version], ir_version=10), path)
    return path


def test_an_onnx_model_is_asked_for_its_output(tmp_path: Path) -> None:
    weight = np.arange(6.0).reshape(3, 2)
    content = saved.content_of(group(model(tmp_path / "a.onnx", weight)), SPEC)
    rows = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    said = saved.ask(saved.session_of(content, "teacher 0"), rows, 2, "teacher 0")
    np.testing.assert_array_equal(said, rows @ weight)


def test_an_onnx_model_of_other_outputs_is_named(tmp_path: Path) -> None:
    session = saved.session_of(model(tmp_path / "a.onnx", np.ones((3, 5))).read_bytes(), "teacher 7")
    with pytest.raises(ConfigError, match="teacher 7: its ONNX model must have an output of 2 numbers a row"):
        saved.ask(session, np.zeros((4, 3), np.float32), 2, "teacher 7")


def test_weights_are_taken_from_a_file_or_its_folder(tmp_path: Path) -> None:
    weights = SPEC.module().state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    assert saved.content_of(group(tmp_path), SPEC) == save(weights)
    assert saved.content_of(group(tmp_path / "model.safetensors"), SPEC) == save(weights)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nowhere.safetensors", None, "nowhere.safetensors: cannot be read: No such file"),
        ("torn.safetensors", b"\x08", "torn.safetensors: is no safetensors file"),
        ("torn.onnx", b"onnx", "torn.onnx: is no ONNX model"),
        ("other.safetensors", save({"0.weight": torch.zeros(4, 9)}), r"0\.bias must be \(4,\), found absent"),
        (
            "wide.safetensors",
            save({**SPEC.module().state_dict(), "0.weight": torch.zeros(4, 9)}),
            r"must hold the weights of the group's model; 0\.weight must be \(4, 3\), found \(4, 9\)",
        ),
    ],
)
def test_a_file_that_cannot_be_a_member_is_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        saved.content_of(group(tmp_path / name), SPEC)


def test_a_file_is_replaced_where_its_content_is_another_and_what_is_no_file_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"one")
    copied = FileRecord(path="teachers/0000/model.onnx", bytes=3, sha256=hashlib.sha256(b"one").hexdigest(), rows=None)
    assert not saved.is_replaced(group(path), copied)
    for other in (b"two", b"three"):
        path.write_bytes(other)
        assert saved.is_replaced(group(path), copied)
    path.unlink()
    assert not saved.is_replaced(group(path), copied)
    assert not saved.is_replaced(group(Path("/dev/zero")), copied)
