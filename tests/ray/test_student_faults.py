"""Workers that die, hang, diverge or do not start while they distill a student."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from labelled_run import labelled_run

from kd_ray import Config, student
from kd_ray.checkpoints import STUDENT
from kd_ray.distillation import ROLES
from kd_ray.errors import DivergedError, ResourceError, RunError
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.student import job

pytestmark = pytest.mark.ray

Act = Callable[[], None]
EPOCHS, EVENTFUL = 20, 12
KNOBS = {
    "epochs": EPOCHS,
    "batch_size": 16,
    "replicas": 2,
    "model": {"hidden": [6], "dropout": [0.3]},
    "checkpoint_seconds": 0,
    "workers": 2,
}


def distill(run: RunDir, report: Any = lambda done, total, note: None, **changes: Any) -> dict[str, Any]:
    config = Config.of({"name": run.name, "storage": run.storage, "student": KNOBS | changes})
    return student.distill(config, run, Session(), report, "f")


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Act], None]:
    """Have the first worker do something after epoch 12, once in all its lives; its 11 epochs are kept then."""
    tell, done = job._tell_board, tmp_path / "done"

    def plan(act: Act) -> None:
        def tell_and_act(board: Any, epoch: int, note: str) -> None:
            tell(board, epoch, note)
            if epoch == EVENTFUL and not done.exists():
                done.touch()
                act()

        monkeypatch.setattr(job, "_tell_board", tell_and_act)

    return plan


def end(signum: int) -> Act:
    return lambda: os.kill(os.getpid(), signum)


def bits(run: RunDir) -> list[bytes]:
    return [Path(run.path(f"{role}/replicas.safetensors")).read_bytes() for role in ROLES]


def workers() -> list[psutil.Process]:
    """The processes of this test's node that train a student, and no other program's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def held(cpus: int) -> Iterator[None]:
    """Take cores of the node, of which it counts 4, from everybody else."""
    holder = ray.remote(num_cpus=cpus)(job.Board).remote()
    ray.get(holder.read.remote(), timeout=60)
    try:
        yield
    finally:
        ray.kill(holder)


@pytest.fixture(scope="module")
def quiet(node: None, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """What two workers make whom nobody disturbs."""
    run = labelled_run(tmp_path_factory.mktemp("quiet"))
    assert distill(run)["taken_up"] == []
    return run


def test_a_killed_worker_is_replaced_and_the_student_has_the_bits_of_an_undisturbed_one(
    quiet: RunDir, once: Callable[[Act], None], tmp_path: Path
) -> None:
    once(end(signal.SIGKILL))
    run = labelled_run(tmp_path)
    assert distill(run)["taken_up"] == [EVENTFUL - 1]
    assert bits(run) == bits(quiet)
    assert not Path(run.path(STUDENT)).exists()
    assert not Path(run.path("ray_train")).exists()


def test_a_worker_that_hangs_is_replaced(
    quiet: RunDir, once: Callable[[Act], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "STEP_SECONDS", 15.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "15")
    once(end(signal.SIGSTOP))
    run = labelled_run(tmp_path)
    assert distill(run)["taken_up"][0] == EVENTFUL - 1
    assert bits(run) == bits(quiet)


def test_a_job_whose_workers_keep_dying_is_given_up_with_the_reason(
    node: None, once: Callable[[Act], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_FAILURES", 0)
    once(end(signal.SIGKILL))
    run = labelled_run(tmp_path)
    with pytest.raises(RunError, match="student: its workers failed 1 times, the last one so: "):
        distill(run, workers=1)
    assert not Path(run.path("ray_train")).exists()
    assert not Path(run.path("student")).exists()
    assert distill(run, workers=1)["taken_up"] == [EVENTFUL - 1]


def test_a_student_that_diverges_on_workers_ends_the_job_without_another_try(node: None, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"student \(replica 0\): diverged in epoch 1"):
        distill(labelled_run(tmp_path), learning_rate=1e9)


def test_an_interrupted_job_leaves_no_worker_behind_and_no_core_reserved(
    node: None, once: Callable[[Act], None], tmp_path: Path
) -> None:
    def interrupt(done: float, total: float, note: str) -> None:
        raise KeyboardInterrupt

    once(lambda: time.sleep(600))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        distill(labelled_run(tmp_path), interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    deadline = time.monotonic() + 60
    while (workers() or ray.available_resources()["CPU"] < 4) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers()
    assert ray.available_resources()["CPU"] == 4


def test_workers_that_cannot_start_are_waited_for_with_a_bound(
    node: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "START_SECONDS", 3.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    with held(cpus=3), pytest.raises(ResourceError, match="student: its workers could not start in 3 s"):
        distill(labelled_run(tmp_path))


def test_more_workers_than_the_cluster_can_ever_have_are_refused(node: None, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="student: asks for 50 x 1 CPU"):
        distill(labelled_run(tmp_path), workers=[50, 60])
