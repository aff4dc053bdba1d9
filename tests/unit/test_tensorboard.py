"""Event files, as TensorBoard itself reads them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import REGRESSION, classification, config_of, made_run

from kd_ray import series, tensorboard
from kd_ray.judging import EVALUATION_MANIFEST
from kd_ray.rundir import Manifest, RunDir

STAGES = ("teachers", "student", "evaluation")


def written(run: RunDir, fingerprint: str = "print") -> None:
    for stage in STAGES:
        tensorboard.write(config_of(run), run, stage, fingerprint)


def read(run: RunDir, model: str) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(run.path(f"tensorboard/{model}"), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = made_run(tmp_path_factory.mktemp("runs with a space"), task=classification("a", "b"))
    written(made)
    return made


def test_every_teachers_losses_are_there_by_epoch(run: RunDir) -> None:
    for member in range(3):
        steps, values = zip(*read(run, f"teachers/{member:04d}")["loss"], strict=True)
        assert steps == (1, 2, 3)
        assert values == pytest.approx((0.9, 0.5, 0.01))


def test_a_students_losses_are_the_means_over_replicas(run: RunDir) -> None:
    for role in series.ROLES:
        history = pq.read_table(run.path(f"{role}/history.parquet")).to_pandas()
        steps, values = zip(*read(run, role)["loss"], strict=True)
        assert values == pytest.approx(history.groupby("epoch")["loss"].mean().tolist())
        assert steps == (1, 2, 3)
        assert "valid_nll" not in read(run, role)


def test_the_evaluation_is_there_model_by_model(run: RunDir) -> None:
    metrics = run.read_json("evaluation.json")["metrics"]
    for model, scores in metrics.items():
        found = read(run, model)
        numbers = {f"test/{name}": value for name, value in scores.items() if isinstance(value, float)}
        assert len(numbers) > 4
        for tag, value in numbers.items():
            assert found[tag] == [(0, pytest.approx(value))]


def test_recovered_shares_are_there_with_their_ends_where_there_is_an_edge(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=REGRESSION)
    evaluation = run.read_json("evaluation.json")
    evaluation["recovered"] = {
        "rmse": {"value": 0.9, "low": 0.7, "high": 1.1},
        "mae": {"value": None, "low": None, "high": None},
    }
    record = run.write_json("evaluation.json", evaluation)
    run.remove(EVALUATION_MANIFEST)
    run.commit(EVALUATION_MANIFEST, Manifest(fingerprint="e", files=[record], summary={}))
    written(run)
    found = read(run, "student")
    said = {tag: value for tag, value in found.items() if tag.startswith("recovered")}
    assert said == {
        "recovered/rmse": [(0, pytest.approx(0.9))],
        "recovered/rmse_low": [(0, pytest.approx(0.7))],
        "recovered/rmse_high": [(0, pytest.approx(1.1))],
    }


def test_what_is_there_is_left_and_another_result_takes_its_place(tmp_path: Path) -> None:
    run = made_run(tmp_path, task=classification("a", "b"))
    written(run)
    event_file = Path(run.path("tensorboard/student/events.out.tfevents.student"))
    first = event_file.read_bytes()
    written(run)
    assert event_file.read_bytes() == first
    run.remove("augmented_control/history.parquet")
    manifest = run.read_json("student/manifest.json")
    manifest["files"] = [file for file in manifest["files"] if file["path"] != "augmented_control/history.parquet"]
    run.write_json("student/manifest.json", manifest)
    written(run, "another")
    assert event_file.read_bytes() != first
    assert not Path(run.path("tensorboard/augmented_control/events.out.tfevents.student")).exists()


def test_a_stage_without_numbers_writes_nothing(tmp_path: Path) -> None:
    run = RunDir.at(str(tmp_path), "empty")
    tensorboard.write(config_of(run), run, "export", "print")
    assert not (tmp_path / "empty").exists()


def test_of_many_epochs_and_teachers_a_few_stand_for_all() -> None:
    assert series.evenly(10_000, 3) == [0, 5000, 9999]
    assert series.evenly(3, 40) == [0, 1, 2]
    (line,) = series._by_epoch("student", "loss", np.arange(5000.0))
    assert len(line.steps) == 1000
    assert (line.steps[0], line.steps[-1], line.values[-1]) == (1, 5000, 4999.0)
    assert series._by_epoch("student", "loss", np.full(3, np.nan)) == []
