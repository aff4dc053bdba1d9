"""A student's training that is cut short, by whatever it is, goes on from its checkpoint and ends in the same bits."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kd_ray import Result
from kd_ray.errors import DivergedError, ResourceError, RunError
from kd_ray.student import job

pytestmark = pytest.mark.ray

Do = Callable[..., Result]
ROLES = ("student", "baseline", "augmented_control")
LONG = {"epochs": 60, "model": {"hidden": [8], "dropout": [0.2]}, "checkpoint_seconds": 0}


def bits(result: Result) -> list[bytes]:
    return [Path(result.path, role, "replicas.safetensors").read_bytes() for role in ROLES]


def taken_up(result: Result) -> list[int]:
    return json.loads(Path(result.path, "student/manifest.json").read_text())["summary"]["taken_up"]


def workers() -> list[psutil.Process]:
    """The processes of this test's node that train a student, other programs' not."""
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


@contextmanager
def at_a_checkpoint(run: Path, act: Callable[[], None]) -> Iterator[None]:
    """Do something to the training once it has written a checkpoint; fail where it never came to it."""
    done: list[bool] = []

    def wait() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if any(run.glob("checkpoints/student/*.safetensors")):
                act()
                done.append(True)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()
    assert done


def signalled(signum: int) -> Callable[[], None]:
    def act() -> None:
        os.kill(workers()[-1].pid, signum)

    return act


@pytest.fixture(scope="module")
def quiet(do: Do, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two workers whom nobody disturbs."""
    return do(tmp_path_factory.mktemp("quiet"), student={**LONG, "workers": 2})


def test_a_killed_worker_is_replaced_and_the_student_has_the_bits_of_an_undisturbed_one(
    do: Do, quiet: Result, tmp_path: Path
) -> None:
    with at_a_checkpoint(tmp_path / "small", signalled(signal.SIGKILL)):
        disturbed = do(tmp_path, student={**LONG, "workers": 2})
    assert bits(disturbed) == bits(quiet)
    assert taken_up(quiet) == []
    assert len(taken_up(disturbed)) == 1
    assert 0 < taken_up(disturbed)[0] < LONG["epochs"]
    assert not Path(disturbed.path, "checkpoints/student").exists()
    assert not Path(disturbed.path, "ray_train").exists()


def test_a_worker_that_hangs_is_replaced(
    do: Do, quiet: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "STEP_SECONDS", 8.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "8")
    with at_a_checkpoint(tmp_path / "small", signalled(signal.SIGSTOP)):
        disturbed = do(tmp_path, student={**LONG, "workers": 2})
    assert bits(disturbed) == bits(quiet)
    assert len(taken_up(disturbed)) >= 1


def test_a_job_whose_workers_keep_dying_is_given_up_with_the_reason(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_FAILURES", 0)
    with (
        at_a_checkpoint(tmp_path / "small", signalled(signal.SIGKILL)),
        pytest.raises(RunError, match="student: its workers failed 1 times, the last one so: "),
    ):
        do(tmp_path, student={**LONG, "workers": 1})
    assert not (tmp_path / "small/ray_train").exists()
    assert not workers()


def test_a_member_that_diverges_on_a_worker_ends_the_job_at_once(do: Do, tmp_path: Path) -> None:
    begun: list[int] = []
    with pytest.raises(DivergedError, match=r"student \(replica 0\): diverged in epoch 1"):
        do(tmp_path, student={"learning_rate": 1e6, "workers": 2})
    assert not begun


def test_an_elastic_job_takes_the_room_there_is(do: Do, quiet: Result, tmp_path: Path) -> None:
    elastic = do(tmp_path, student={**LONG, "workers": [1, 2]})
    assert bits(elastic) == bits(quiet)


def test_workers_that_do_not_start_are_waited_for_with_a_bound(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(job, "START_SECONDS", 3.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")

    @ray.remote(num_cpus=3)
    class Holder:
        def ready(self) -> None:
            pass

    do(tmp_path, student={"epochs": 1})
    holder = Holder.remote()
    ray.get(holder.ready.remote())
    try:
        with pytest.raises(ResourceError, match="student: its workers could not start in 3 s"):
            do(tmp_path, student={"epochs": 2, "workers": 2})
    finally:
        ray.kill(holder)
