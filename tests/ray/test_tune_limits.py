"""A search under limits of size and latency: what is left out, and that the limit is of the file that is deployed."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, merged

from kd_ray import Config, run
from kd_ray.errors import ConfigError
from kd_ray.tune import tune

pytestmark = pytest.mark.ray
HIDDEN = "student.model.hidden"
WANTED: dict[str, Any] = {
    "data": {"split": {"valid": 0.3}},
    "student": {"model": {"hidden": [64]}},
    "export": {"int8": False, "pruning": [], "latency": False},
    "tune": {"space": {HIDDEN: [[4], [8, 4], [128]]}, "rungs": 1, "objective": "accuracy"},
}


@pytest.fixture(scope="module")
def storage(node: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limits")


def config(storage: Path, **changes: Any) -> Config:
    return Config.of(merged(merged(SMALL, {**WANTED, "storage": str(storage)}), {"tune": changes}))


def test_a_limit_that_no_student_keeps_is_refused_with_what_they_are_and_nothing_trained(storage: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no student keeps the limits of 900 bytes and 0.0001 ms; .*\[4\]: [\d,]+ byte"
    ):
        tune(config(storage, max_bytes=900, max_milliseconds=1e-4))
    assert not (storage / "small/tune/packs").exists()


def test_students_that_are_too_large_are_not_tried_and_the_limit_is_of_the_deployed_file(storage: Path) -> None:
    layers = json.loads((storage / "small/tune/limits.json").read_text())["layers"]
    of_layers = {key: one["bytes"] for key, one in layers.items()}
    assert of_layers["[4]"] < of_layers["[64]"] < of_layers["[128]"]
    wanted = config(storage, max_bytes=max(of_layers["[4]"], of_layers["[8, 4]"]), max_milliseconds=1e4)
    board = tune(wanted)
    assert sorted(str(entry["knobs"][HIDDEN]) for entry in board["combinations"]) == ["[4]", "[64]", "[8, 4]"]
    assert not board["best"]["is_untuned"]
    assert board["combinations"][-1]["is_untuned"]
    assert board["judged"]["untuned"] is not None
    assert [one["is_within"] for one in board["measured"]] == [False, True, True, False]
    result = run(wanted, tuned=True)
    deployed = Path(result.student_path).stat().st_size
    assert deployed == of_layers[str(board["best"]["knobs"][HIDDEN])]
