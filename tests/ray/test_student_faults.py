"""Workers that die, hang, diverge or do not start while they distill a student."""

import functools
import json
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
EPOCHS = 400
KNOBS = {
    "epochs": EPOCHS,
    "batch_size": 16,
    "replicas": 2,
    "model": {"hidden": [6], "dropout": [0.3]},
    "checkpoint_seconds": 0.05,
    "workers": 2,
}


def distill(run: RunDir, act: Act | None = None, **changes: Any) -> dict[str, Any]:
    """Distill a student; do something to its workers, once, when they are under way and have a checkpoint."""
    config = Config.of({"name": run.name, "storage": run.storage, "student": KNOBS | changes})
    left = [act] if act else []

    def report(done: float, total: float, note: str) -> None:
        if left and Path(run.path(STUDENT)).exists():
            left.pop()()

    try:
        return student.distill(config, run, Session(), report, "f")
    finally:
        assert not left, "it ended before it was disturbed"


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


def signalled(signum: int) -> None:
    os.kill(workers()[-1].pid, signum)


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
    quiet: RunDir, tmp_path: Path
) -> None:
    run = labelled_run(tmp_path)
    (epoch,) = distill(run, functools.partial(signalled, signal.SIGKILL))["taken_up"]
    assert 0 < epoch < EPOCHS
    assert bits(run) == bits(quiet)
    assert not Path(run.path(STUDENT)).exists()
    assert not Path(run.path("ray_train")).exists()


def test_a_worker_that_hangs_is_replaced(quiet: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "STEP_SECONDS", 10.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "10")
    run = labelled_run(tmp_path)
    assert distill(run, functools.partial(signalled, signal.SIGSTOP))["taken_up"]
    assert bits(run) == bits(quiet)


def test_a_job_whose_workers_keep_dying_is_given_up_with_the_reason(
    node: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_FAILURES", 0)
    run = labelled_run(tmp_path)
    with pytest.raises(RunError, match="student: its workers failed 1 times, the last one so: "):
        distill(run, functools.partial(signalled, signal.SIGKILL), workers=1)
    assert not Path(run.path("ray_train")).exists()
    assert not Path(run.path("student")).exists()


def test_a_student_that_diverges_on_workers_ends_the_job_without_another_try(node: None, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"student \(replica 0\): diverged in epoch 1"):
        distill(labelled_run(tmp_path), learning_rate=1e9)


def test_an_interrupted_job_leaves_no_worker_behind(node: None, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        distill(labelled_run(tmp_path), interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    deadline = time.monotonic() + 60
    while workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers()


def test_an_elastic_job_takes_the_room_there_is(node: None, tmp_path: Path) -> None:
    run = labelled_run(tmp_path)
    seen: list[int] = []
    with held(cpus=2):
        distill(run, lambda: seen.append(len(workers())), workers=[1, 3])
    assert seen == [2]
    assert json.loads(Path(run.path("student/metrics.json")).read_text())["loss"][0] < 1.0


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
