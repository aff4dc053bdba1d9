"""A pack of teachers whose actor dies goes on from what was kept, to the bits it would have had."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kd_ray import Result
from kd_ray.checkpoints import TEACHERS, epochs_kept
from kd_ray.rundir import RunDir

pytestmark = pytest.mark.ray
Do = Callable[..., Result]
WAIT_SECONDS = 120.0


@contextmanager
def killed(run: RunDir) -> Iterator[list[int]]:
    """Kill the first teacher's actor once a checkpoint is there; yield the epochs that are kept from then on."""
    epochs: list[int] = []
    over = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not epochs_kept(run, TEACHERS) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            if "ray::TeacherActor" in " ".join(process.cmdline()):
                process.kill()
                break
        while not over.wait(0.05):
            epochs.extend(epochs_kept(run, TEACHERS).values())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield epochs
    finally:
        over.set()
        watcher.join(timeout=WAIT_SECONDS)


def weights(result: Result, pattern: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(result.path)): path.read_bytes()
        for path in sorted(Path(result.path).glob(f"{pattern}/*.safetensors"))
    }


def test_a_pack_whose_actor_dies_is_taken_up_by_another(do: Do, tmp_path: Path) -> None:
    teachers = {"epochs": 600, "count": 2, "resources": {"actors": 1}, "checkpoint_seconds": 0.2}
    undisturbed = do(tmp_path / "undisturbed", teachers=teachers | {"checkpoint_seconds": 1e6})
    run = RunDir.at(str(tmp_path), "small")
    with killed(run) as epochs:
        result = do(tmp_path, teachers=teachers)
    assert epochs, "it ended before it was killed"
    assert epochs == sorted(epochs), "it began anew"
    assert weights(result, "teachers/*") == weights(undisturbed, "teachers/*")
    assert not Path(run.path(TEACHERS)).exists()
