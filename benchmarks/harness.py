"""What the benchmarks share: a row of the table, timed processes, medians."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from kd_ray.machine import cpu

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `must` and `aim` are the targets, `found` the figure held against them."""

    what: str
    ours: str
    against: str
    found: str
    must: str
    aim: str = ""


def table(rows: list[Row]) -> str:
    heads = ("what", "ours", "against", "found", "must", "aim")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(getattr(row, head) for head in heads) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """Say on what the figures were measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "numpy"))
    return f"{len(os.sched_getaffinity(0))} cores, {cpu()}, Python {platform.python_version()}, {packages}"


def spread(values: list[float], unit: str = " s", digits: int = 1) -> str:
    """The median, and the least and the most where there are several."""
    middle = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


@contextmanager
def peak_memory(*besides: psutil.Process) -> Iterator[list[int]]:
    """Yield a list whose number is, in the end, the bytes of the largest resident child, or process `besides`."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in (*besides, *psutil.Process().children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def process(*command: str) -> tuple[str, float]:
    """Run a Python command from the project's root; return its standard output and its wall seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout, time.perf_counter() - begun


def kd_ray(storage: Path, name: str, *arguments: str) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Do a run by the command line; return its evaluation, its run.json and its wall seconds."""
    where = ("--storage", str(storage), "--name", name, "--json")
    printed, seconds = process("-m", "kd_ray.cli", "run", *arguments, *where)
    return json.loads(printed), json.loads((storage / name / "run.json").read_text()), seconds


def settings(**knobs: Any) -> list[str]:
    return [f"--set={key.replace('__', '.')}={value}" for key, value in knobs.items()]
