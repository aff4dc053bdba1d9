"""Runs in forks of a process that has everything imported: a crash costs what it redoes, not the imports."""

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.harness import LIMIT_SECONDS

FAILED = 99


@dataclass
class Ended:
    code: int
    said: str


class Enough(BaseException):
    """Raised where a run has done what was wanted of it."""


class Until:
    """A run's progress that ends it where stage `stop` begins, and says on standard error what it went through."""

    def __init__(self, stop: str | None = None) -> None:
        self.stop = stop

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[..., None]]:
        if name == self.stop:
            raise Enough
        print(f"{name}: started", file=sys.stderr, flush=True)
        yield lambda done, total, note: None
        print(f"{name}: done in no time", file=sys.stderr, flush=True)

    def skip(self, name: str) -> None:
        print(f"{name}: finished before, kept", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        pass


def preload() -> None:
    """Import what a run imports, and start none of its threads."""
    import matplotlib.figure
    import onnxruntime.quantization
    import ray.data
    import ray.train.torch
    import sklearn.datasets
    import sklearn.model_selection

    import kd_ray

    every = (matplotlib.figure, onnxruntime.quantization, ray.data, ray.train.torch, sklearn.datasets)
    assert all((*every, sklearn.model_selection))
    for module in pkgutil.walk_packages(kd_ray.__path__, "kd_ray."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def forked(work: Callable[[], Any], *, seconds: float = LIMIT_SECONDS, log: Path) -> Ended:
    """Do `work` in a fork of this process; its code is what it exits with, FAILED where it raises."""
    return waited(fork(work, log), seconds, log)


def fork(work: Callable[[], Any], log: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for fd in (1, 2):
            os.dup2(out, fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        work()
        code = 0
    except Enough:
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def waited(pid: int, seconds: float, log: Path) -> Ended:
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(-9, f"hung for {seconds:g} s; {log.read_text(errors='replace')}")
        time.sleep(0.01)


def cli(*words: str | Path) -> Callable[[], None]:
    """Return what calls the command line in this process."""

    def work() -> None:
        from kd_ray import cli as command_line

        sys.argv = ["kd-ray", *map(str, words)]
        command_line.main()

    return work
