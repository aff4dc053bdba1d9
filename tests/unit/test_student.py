"""The student's training in the process that runs it: cut short by whatever it is, it ends in the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from labelled_run import labelled_run

from kd_ray import Config, student
from kd_ray.checkpoints import STUDENT
from kd_ray.distillation import ROLES
from kd_ray.errors import DivergedError
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.student.worker import pulse

EPOCHS, KILLED_AT = 12, 8
KNOBS = {
    "epochs": EPOCHS,
    "batch_size": 16,
    "replicas": 2,
    "model": {"hidden": [6], "dropout": [0.3]},
    "checkpoint_seconds": 0,
}


def distill(run: RunDir, report: Any = lambda done, total, note: None, **changes: Any) -> None:
    config = Config.of({"name": run.name, "storage": run.storage, "student": KNOBS | changes})
    student.distill(config, run, Session(), report, f"fingerprint of {changes}")


def bits(run: RunDir) -> list[bytes]:
    kinds = ("replicas.safetensors", "model.safetensors", "history.parquet")
    return [Path(run.path(f"{role}/{kind}")).read_bytes() for role in ROLES for kind in kinds]


def summary(run: RunDir) -> dict[str, Any]:
    return json.loads(Path(run.path("student/manifest.json")).read_text())["summary"]


def die_in(storage: Path) -> None:
    """What the process that is killed does."""

    def report(done: float, total: float, note: str) -> None:
        if done == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    distill(labelled_run(storage), report)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose student's training was killed after 8 of 12 epochs, by SIGKILL."""
    storage = tmp_path_factory.mktemp("killed")
    code = f"from pathlib import Path; from test_student import die_in; die_in(Path({str(storage)!r}))"
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": here}, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    return RunDir.at(str(storage), "labelled")


@pytest.fixture
def run(killed: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(killed.root, tmp_path / "labelled")
    return RunDir.at(str(tmp_path), "labelled")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = labelled_run(tmp_path_factory.mktemp("undisturbed"))
    distill(run)
    return run


def test_a_training_killed_with_its_process_goes_on_and_ends_in_the_same_bits(run: RunDir, undisturbed: RunDir) -> None:
    epochs: list[float] = []
    distill(run, lambda done, total, note: epochs.append(done))
    assert epochs == list(range(KILLED_AT, EPOCHS + 1))
    assert bits(run) == bits(undisturbed)
    assert (summary(run)["taken_up"], summary(undisturbed)["taken_up"]) == ([KILLED_AT - 1], [])
    assert not Path(run.path(STUDENT)).exists()


def test_a_checkpoint_of_another_recipe_is_not_taken_up(run: RunDir, undisturbed: RunDir) -> None:
    distill(run, learning_rate=1e-3)
    assert summary(run)["taken_up"] == []
    assert bits(run) != bits(undisturbed)
    assert not Path(run.path(STUDENT)).exists()


def test_a_checkpoint_that_is_damaged_is_not_believed(run: RunDir, undisturbed: RunDir) -> None:
    (path,) = Path(run.path(STUDENT)).iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    distill(run)
    assert summary(run)["taken_up"] == []
    assert bits(run) == bits(undisturbed)


def test_a_short_training_writes_no_checkpoint(undisturbed: RunDir, tmp_path: Path) -> None:
    run, seen = labelled_run(tmp_path), []
    distill(run, lambda done, total, note: seen.append(Path(run.path(STUDENT)).exists()), checkpoint_seconds=30)
    assert seen == [False] * EPOCHS
    assert bits(run) == bits(undisturbed)


def test_a_student_that_diverges_is_named(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"student \(replica 0\): diverged in epoch 1"):
        distill(labelled_run(tmp_path), learning_rate=1e9)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that this process would have been ended with."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_worker_that_takes_no_step_ends_itself(exits: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    with pulse(0.1):
        deadline = time.monotonic() + 20
        while not exits and time.monotonic() < deadline:
            time.sleep(0.01)
    assert exits[0] == 1
    assert "no step in 0.1 s; this worker ends" in capsys.readouterr().err


def test_a_worker_that_takes_steps_goes_on(exits: list[int]) -> None:
    with pulse(5.0) as beat:
        for _ in range(20):
            beat()
            time.sleep(0.01)
    assert not exits
