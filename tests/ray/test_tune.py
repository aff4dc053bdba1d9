"""A small search: what it tries, that packing changes nothing, how it goes on, and that it reads no test row."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, merged
from safetensors.torch import load_file

from kd_ray import Config, run, trials
from kd_ray import tune as package
from kd_ray.errors import ConfigError
from kd_ray.rundir import RunDir
from kd_ray.tables import Dataset
from kd_ray.tune import tune

pytestmark = pytest.mark.ray

SPACE = {
    "student.temperature": [1.0, 3.0],
    "student.learning_rate": [1e-3, 1e-2],
    "student.model.hidden": [[8], [6, 4]],
}
ROWS = {"data": {"split": {"valid": 0.3}}}
WANTED: dict[str, Any] = {**ROWS, "student": {"alpha": 0.5}, "tune": {"space": SPACE, "rungs": 1}}


def config(storage: Path, **changes: Any) -> Config:
    return Config.of(merged(merged(SMALL, {**WANTED, "storage": str(storage)}), changes))


@pytest.fixture(scope="module")
def searched(node: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    storage = tmp_path_factory.mktemp("searches")
    return storage, tune(config(storage))


@pytest.fixture
def again(searched: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the searched storage that a test may change."""
    shutil.copytree(searched[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def commits(storage: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in storage.glob("small/tune/packs/*/manifest.json")}


def test_the_leaderboard_has_every_combination_and_the_best_has_the_best_score(
    searched: tuple[Path, dict[str, Any]],
) -> None:
    storage, board = searched
    assert RunDir.at(str(storage), "small").read_json("tune/leaderboard.json") == board
    entries = board["combinations"]
    grid = [(t, rate, units) for t in (1.0, 3.0) for rate in (1e-3, 1e-2) for units in ([8], [6, 4])]
    # The recipe's own rate, 2e-3, is no value of the grid.
    assert sorted(map(str, (list(entry["knobs"].values()) for entry in entries))) == sorted(
        map(str, [[3.0, 2e-3, [8]], *map(list, grid)])
    )
    assert board["best"]["score"] == min(entry["score"] for entry in entries)
    assert [entry["score"] for entry in entries] == sorted(entry["score"] for entry in entries)
    assert board["untuned"]["knobs"] == {
        "student.temperature": 3.0,
        "student.learning_rate": 2e-3,
        "student.model.hidden": [8],
    }
    assert board["gain"]["value"] == pytest.approx(board["untuned"]["score"] - board["best"]["score"], abs=1e-6)
    assert board["gain"]["low"] <= board["gain"]["value"] <= board["gain"]["high"]
    assert not (storage / "small/ray_tune").exists()


def test_packed_combinations_are_those_trained_alone(searched: tuple[Path, dict[str, Any]], again: Path) -> None:
    _, board = searched
    wanted = config(again)
    work = trials.Work(
        run=RunDir.at(str(again), "small"), seed=wanted.seed, student=wanted.student, metric="nll", fingerprint="alone"
    )
    for entry in board["combinations"]:
        pack = trials.Pack(combinations={entry["number"]: entry["knobs"]}, rung=0, epochs=wanted.student.epochs)
        trials.train(work, pack)
        together = load_file(again / "small/tune/packs" / entry["pack"] / "students.safetensors")
        alone = load_file(again / "small/tune/packs" / pack.name(work) / "students.safetensors")
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-5)
    alone_scores = {tried.number: tried.score for tried, _ in trials.finished(work)}
    assert {e["number"]: e["score"] for e in board["combinations"]} == pytest.approx(alone_scores, abs=1e-5)


def test_a_search_that_lost_a_pack_trains_that_one_alone(searched: tuple[Path, dict[str, Any]], again: Path) -> None:
    before = commits(again)
    lost = sorted(before)[0]
    assert len(before) > 1
    (again / "small/tune/packs" / lost / "manifest.json").unlink()
    board = tune(config(again))
    after = commits(again)
    assert {name: at for name, at in after.items() if name in before and name != lost} == {
        name: at for name, at in before.items() if name != lost
    }
    scores = {entry["number"]: entry["score"] for entry in searched[1]["combinations"]}
    assert {entry["number"]: entry["score"] for entry in board["combinations"]} == pytest.approx(scores, abs=1e-5)


def test_a_finished_search_is_only_read(again: Path, searched: tuple[Path, dict[str, Any]]) -> None:
    before = commits(again)
    assert tune(config(again)) == searched[1]
    assert commits(again) == before


def test_another_space_is_refused_with_what_changed(again: Path) -> None:
    changed = config(again, tune={"space": {"student.temperature": [1.0, 5.0]}})
    with pytest.raises(
        ConfigError, match=r"another search: tune.space: student.temperature was \[1.0, 3.0\], is \[1.0, 5"
    ):
        tune(changed)


def test_no_test_row_is_read(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(again / "small/tune")
    for path in (again / "small/data/test").glob("*.parquet"):
        path.write_bytes(b"?" * path.stat().st_size)
    rows = Dataset.rows

    def refused(self: Dataset, split: str, *given: Any) -> Any:
        assert split != "test"
        return rows(self, split, *given)

    monkeypatch.setattr(Dataset, "rows", refused)
    board = tune(config(again))
    assert len(board["combinations"]) == 9


def test_the_best_of_a_rung_and_the_recipe_alone_go_on(again: Path) -> None:
    shutil.rmtree(again / "small/tune")
    board = tune(config(again, tune={"rungs": 2, "eta": 3, "pack_size": 2}))
    far = [entry for entry in board["combinations"] if entry["rung"] == 1]
    assert len(board["combinations"]) == 9
    assert 3 <= len(far) <= 4
    assert board["combinations"][: len(far)] == far
    assert any(entry["is_untuned"] for entry in far)
    assert {entry["epochs"] for entry in far} == {4}
    assert {entry["epochs"] for entry in board["combinations"][len(far) :]} == {2}


def test_the_winner_is_the_student_of_a_tuned_run(again: Path, searched: tuple[Path, dict[str, Any]]) -> None:
    result = run(config(again), tuned=True)
    best = searched[1]["best"]
    assert result.config.student.temperature == best["knobs"]["student.temperature"]
    assert result.config.student.model.hidden == best["knobs"]["student.model.hidden"]
    assert Config.from_yaml(f"{result.path}/config.yaml").student == result.config.student
    valid = json.loads(Path(result.path, "student/metrics.json").read_text())["valid_nll"]
    assert valid[0] == pytest.approx(best["score"], abs=1e-5)


def test_a_tuned_run_without_a_search_or_after_other_soft_targets_is_refused(again: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tuned: .*/other has no tune/leaderboard.json; kd-ray tune makes one"):
        run(config(again, name="other"), tuned=True)
    with pytest.raises(ConfigError, match=r"is of other soft targets than this config's"):
        run(config(again, teachers={"epochs": 5}), tuned=True)


def test_a_table_without_validation_rows_is_refused(node: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data.split.valid"):
        package.tune(config(tmp_path, data={"split": {"valid": 0}}))


def test_a_regression_is_searched_by_its_rmse_and_without_a_temperature(node: None, tmp_path: Path) -> None:
    wanted = {
        "storage": str(tmp_path),
        "data": {"source": "sklearn:diabetes", "columns": {"target": "target"}, "split": {"valid": 0.2}},
        "teachers": {"count": 2, "model": {"hidden": [8], "dropout": [0.0]}, "epochs": 3},
        "soft_targets": {"transfer": {"kind": "none"}},
        "student": {"model": {"hidden": [8]}, "epochs": 3},
        "tune": {"space": {"student.temperature": [1, 2], "student.alpha": [0.0, 0.5]}, "objective": "accuracy"},
    }
    board = tune(Config.of(wanted))
    assert board["metric"] == "rmse"
    assert sorted(entry["knobs"]["student.alpha"] for entry in board["combinations"]) == [0.0, 0.5, 1.0]
    assert all("student.temperature" not in entry["knobs"] for entry in board["combinations"])
