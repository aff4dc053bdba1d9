"""A small search: what it tries, that packing changes nothing, how it goes on, and that it reads no test row."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch
from conftest import SMALL, merged
from safetensors.torch import load_file
from torch import nn

from kd_ray import Config, run, student, trials
from kd_ray import tune as package
from kd_ray.errors import ConfigError
from kd_ray.rundir import RunDir
from kd_ray.session import Session
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
    judged = board["judged"]
    assert judged["gain"]["value"] == pytest.approx(judged["untuned"]["value"] - judged["best"]["value"], abs=1e-6)
    for interval in judged.values():
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert not (storage / "small/ray_tune").exists()


def found_weights(storage: Path, entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = load_file(storage / "small/tune/packs" / entry["pack"] / "students.safetensors")
    prefix = f"{entry['number']}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_one_half_of_the_validation_rows_chooses_and_the_other_judges(searched: tuple[Path, dict[str, Any]]) -> None:
    storage, board = searched
    table = pa.dataset.dataset(storage / "small/data/valid").to_table().to_pandas().sort_values(["label", "row_id"])
    table["chooses"] = np.arange(len(table)) % 2 == 0
    assert board["rows"] == {"choosing": 73, "judging": 72}

    def nll(entry: dict[str, Any], chooses: bool) -> float:
        rows, units = table[table["chooses"] == chooses], entry["knobs"]["student.model.hidden"]
        sizes = [8, *units, 3]
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes[:-1])]
        module = nn.Sequential(*itertools.chain(*layers), nn.Linear(sizes[-2], 3))
        module.load_state_dict(found_weights(storage, entry))
        says = module(torch.tensor(np.stack(rows["features"])))
        return nn.functional.cross_entropy(says, torch.tensor(rows["label"].to_numpy()).long()).item()

    for entry in board["combinations"]:
        assert entry["score"] == pytest.approx(nll(entry, True), abs=1e-5)
    assert board["judged"]["best"]["value"] == pytest.approx(nll(board["best"], False), abs=1e-5)
    assert board["judged"]["untuned"]["value"] == pytest.approx(nll(board["untuned"], False), abs=1e-5)


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


def test_a_rung_goes_on_where_the_one_before_stopped_and_ends_where_training_at_once_does(
    searched: tuple[Path, dict[str, Any]], again: Path
) -> None:
    """Training is cheaper by the first rung's epochs, and ends in the same students, in other packs."""
    shutil.rmtree(again / "small/tune")
    trained: list[int] = []
    fit = trials.fit

    def counted(packed: Any, *given: Any, **named: Any) -> Any:
        for losses in fit(packed, *given, **named):
            trained.append(packed.members)
            yield losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "fit", counted)
        patch.setattr(package, "run_packs", lambda work, packs, *_: [trials.train(work, pack) for pack in packs])
        board = tune(config(again, tune={"rungs": 2, "eta": 3, "pack_size": 2}))
    far = [entry for entry in board["combinations"] if entry["rung"] == 1]
    assert sum(trained) == 9 * 2 + len(far) * 2
    ended = {str(entry["knobs"]): entry["score"] for entry in searched[1]["combinations"]}
    assert {str(entry["knobs"]): entry["score"] for entry in far} == pytest.approx(
        {str(entry["knobs"]): ended[str(entry["knobs"])] for entry in far}, abs=1e-5
    )
    assert not (again / "small/tune/checkpoints").exists()


def test_optuna_proposes_and_a_lost_pack_leads_to_the_same_proposals(again: Path) -> None:
    pytest.importorskip("optuna")
    shutil.rmtree(again / "small/tune")
    wanted = config(again, tune={"search": "optuna", "trials": 6, "pack_size": 3})
    board = tune(wanted)
    assert 6 <= len(board["combinations"]) <= 7
    (again / "small/tune/packs" / board["best"]["pack"] / "manifest.json").unlink()
    scores = {str(entry["knobs"]): entry["score"] for entry in board["combinations"]}
    again_scores = {str(entry["knobs"]): entry["score"] for entry in tune(wanted)["combinations"]}
    assert again_scores == pytest.approx(scores, abs=1e-5)


def test_the_winner_is_the_student_of_a_tuned_run(again: Path, searched: tuple[Path, dict[str, Any]]) -> None:
    result = run(config(again), tuned=True)
    best = searched[1]["best"]
    assert result.config.student.temperature == best["knobs"]["student.temperature"]
    assert result.config.student.model.hidden == best["knobs"]["student.model.hidden"]
    assert Config.from_yaml(f"{result.path}/config.yaml").student == result.config.student
    replicas = load_file(f"{result.path}/student/replicas.safetensors")
    for name, value in found_weights(again, best).items():
        torch.testing.assert_close(replicas[f"0/{name}"], value, atol=1e-5, rtol=1e-5)


def test_mixes_of_rows_share_a_pack_and_are_those_of_the_student_stage(again: Path) -> None:
    mixes = [{}, {"noise": 0.5}, {"noise": 0.0}]
    shutil.rmtree(again / "small/tune")
    base = merged(
        SMALL, {**ROWS, "storage": str(again), "tune": {"space": {"student.mix": mixes}, "rungs": 1, "pack_size": 3}}
    )
    board = tune(Config.of(base))
    entries = {str(entry["knobs"]["student.mix"]): entry for entry in board["combinations"]}
    assert len({entry["pack"] for entry in entries.values()}) == 1
    here = RunDir.at(str(again), "small")
    for mix in mixes:
        wanted = Config.of(merged(base, {"student": {"mix": mix}}))
        student.distill(wanted, here, Session(), lambda *_: None, str(mix))
        replicas = load_file(here.path("student/replicas.safetensors"))
        for name, value in found_weights(again, entries[str(mix)]).items():
            torch.testing.assert_close(replicas[f"0/{name}"], value, atol=1e-5, rtol=1e-5)


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
