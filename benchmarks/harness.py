"""What the benchmarks share: a row of the table, processes that are timed and bounded, medians."""

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeVar

ROOT = Path(__file__).parents[1]
ARTICLE = "examples/article.yaml"
TIMEOUT_SECONDS = 1800
GRACE_SECONDS = 20
POLL_SECONDS = 0.1
SOCKET_PATH_BYTES = 107  # what Linux allows
RAY_SOCKET_BYTES = 80  # what Ray adds to its folder for its longest socket

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `must` and `aim` are what `figure` is held against."""

    what: str
    ours: str
    against: str
    figure: str
    must: str
    aim: str = ""


def table(rows: list[Row]) -> str:
    lines = ["| what | ours | against | ratio (or figure) | must | aim |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append("| " + " | ".join((row.what, row.ours, row.against, row.figure, row.must, row.aim)) + " |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Say on what the figures were measured."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray"))
    return f"{cores()} cores, {processor}, Python {platform.python_version()}, {packages}"


def spread(values: list[float], unit: str = " s", digits: int = 1) -> str:
    """The median, and the least and the most where there are several."""
    middle = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def in_turns(runs: int, ours: Callable[[int], Ours], theirs: Callable[[int], Theirs]) -> list[tuple[Ours, Theirs]]:
    """Do both sides `runs` times, each going first every other time, so that a drift of the machine hits both."""
    pairs = []
    for run in range(runs):
        if run % 2:
            second = theirs(run)
            pairs.append((ours(run), second))
        else:
            first = ours(run)
            pairs.append((first, theirs(run)))
    return pairs


def python(*arguments: str, poll: Callable[[int], None] | None = None) -> tuple[str, float]:
    """Run a Python command from the project's root; return its standard output and its wall seconds.

    `poll` is called with its process id every 0.1 s. Raises RuntimeError where it fails, TimeoutError where it does
    not end in time; it and its children do not outlive the call.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = _start(arguments, out, err)
        try:
            _wait(process, begun + TIMEOUT_SECONDS, poll)
        finally:
            _end(process)
        seconds = time.perf_counter() - begun
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{err.read()}")
        return out.read(), seconds


def _start(arguments: tuple[str, ...], out: IO[str], err: IO[str]) -> "subprocess.Popen[bytes]":
    """A group of its own, so that all of it can be ended; no cluster to join, so that it starts its own Ray."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True)


def _wait(process: "subprocess.Popen[bytes]", deadline: float, poll: Callable[[int], None] | None) -> None:
    while True:
        left = deadline - time.perf_counter()
        if left <= 0:
            raise TimeoutError(f"{process.args!r}: must end within {TIMEOUT_SECONDS} s; it did not")
        try:
            process.wait(min(left, POLL_SECONDS) if poll else left)
            return
        except subprocess.TimeoutExpired:
            if poll:
                poll(process.pid)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def keep_ray_in(folder: str) -> Iterator[None]:
    """Have Ray keep its own files in `folder` where its sockets' paths may be that long, and not in the system's."""
    kept = os.environ.get("RAY_TMPDIR")
    if len(folder) + RAY_SOCKET_BYTES <= SOCKET_PATH_BYTES:
        os.environ["RAY_TMPDIR"] = folder
    try:
        yield
    finally:
        os.environ.pop("RAY_TMPDIR", None)
        if kept is not None:
            os.environ["RAY_TMPDIR"] = kept


def kd_ray(storage: Path, name: str, *arguments: str) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Do a run by the command line; return its evaluation, its run.json and its wall seconds."""
    where = ("--storage", str(storage), "--name", name, "--json")
    printed, seconds = python("-m", "kd_ray.cli", "run", *arguments, *where)
    return json.loads(printed), json.loads((storage / name / "run.json").read_text()), seconds


def settings(knobs: dict[str, Any]) -> list[str]:
    return [f"--set={key}={value}" for key, value in knobs.items()]
