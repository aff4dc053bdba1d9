"""Configs and run directories that nobody would write by hand: nothing may end in a traceback, hang, or touch what is
outside the run.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos import hostile, nursery
from tests.chaos.harness import Place, Row

CHUNK = 2_000
HANG_SECONDS = 60


class HangError(BaseException):
    """Raised by the alarm in what takes too long."""


def configs(place: Place) -> list[Row]:
    """Nested values around a valid config, and texts around its YAML, by hypothesis."""
    row = Row("fuzz-configs", "generated configs")
    nursery.preload()
    _in_chunks(place, row, place.times(1_000_000), lambda seed, n, tell: _config_chunk(seed, n, tell))
    return [row]


def directories(place: Place) -> list[Row]:
    """A finished run with files damaged, exchanged, linked, rewritten by somebody who can compute a sha256."""
    row = Row("fuzz-runs", "mutated run directories")
    base = place.reference.run
    nursery.preload()
    _in_chunks(place, row, place.times(100_000), lambda seed, n, tell: _run_chunk(base, seed, n, tell))
    return [row]


Tell = Callable[[str, str], None]


def _in_chunks(place: Place, row: Row, count: int, work: Callable[[int, int, Tell], None]) -> None:
    """Do `count` cases in forks, one a core at once; what a chunk tells, its exit and its time are looked at."""
    begun, kinds = time.monotonic(), Counter[str]()
    waiting = [(place.seed * 1_000_003 + first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    running: dict[int, tuple[Path, Path, int, int]] = {}
    cores = len(os.sched_getaffinity(0))
    while waiting or running:
        while waiting and len(running) < cores:
            seed, n = waiting.pop(0)
            told, log = place.folder / f"told-{seed}", place.folder / f"log-{seed}"
            told.touch()
            pid = nursery.fork(lambda told=told, seed=seed, n=n: work(seed, n, _teller(told)), log)
            running[pid] = (told, log, seed, n)
        pid, (told, log, seed, n) = next(iter(running.items()))
        del running[pid]
        ended = nursery.waited(pid, HANG_SECONDS + n * 5, log)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        bad = [(kind, what) for kind, what in lines if kind == "problem"]
        kinds.update(what for kind, what in lines if kind == "was")
        row.tried += n
        row.good += n - len(bad) - (ended.code != 0)
        row.problems += [f"seed {seed}: {what}" for _, what in bad]
        if ended.code:
            row.problems.append(f"seed {seed}: the process ended with {ended.code}: {ended.said[-500:]!r}")
        told.unlink()
        log.unlink()
    rate = row.tried / (time.monotonic() - begun)
    row.notes = f"{rate:,.0f} a second; " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common(20))


def _teller(path: Path) -> Tell:
    def tell(kind: str, what: str) -> None:
        with path.open("a") as out:
            out.write(json.dumps([kind, what]) + "\n")

    return tell


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def alarm(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _config_chunk(seed: int, count: int, tell: Tell) -> None:
    import hypothesis

    folder = tempfile.mkdtemp(prefix="chaos-fuzz-")
    os.chdir(folder)
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate,),
    )
    @hypothesis.given(hostile.configs())
    def check(given: Any) -> None:
        if sum(counts.values()) >= count:
            return
        try:
            with _bounded():
                counts[hostile.check_config(given, Path(folder))] += 1
        except BaseException as error:
            counts["problem"] += 1
            tell("problem", f"{given!r:.1500}: {type(error).__name__}: {error!s:.300} {_where(error)}")

    check()
    for kind, n in counts.items():
        for _ in range(n):
            tell("was", kind)
    if left := os.listdir(folder):
        tell("problem", f"wrote {left}")
    shutil.rmtree(folder)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))


def _run_chunk(base: Path, seed: int, count: int, tell: Tell) -> None:
    outer = Path(tempfile.mkdtemp(prefix="chaos-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        watch = hostile.Watch(outer)
        for i in range(count):
            draw = random.Random(f"{seed} {i}")
            run = outer / "storage" / "default"
            shutil.copytree(base, run, symlinks=True)
            neighbour = outer / "storage" / "neighbour"
            neighbour.mkdir()
            (neighbour / "kept").write_text("kept")
            done = hostile.mutate(run, outer, draw)
            read = draw.choices(list(hostile.READS), [weight for weight, _ in hostile.READS.values()])[0]
            what = f"{i}: {read} after {done}"
            with watch.allowing(run, outer / "out"):
                became, problem = _read(hostile.READS[read][1], run, outer)
            tell("was", f"{read} {became}")
            problems = [*([problem] if problem else []), *watch.seen(), *hostile.touched(outer)]
            for problem in problems:
                tell("problem", f"{what}: {problem}")
            shutil.rmtree(outer / "storage")
            shutil.rmtree(outer / "out", ignore_errors=True)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _read(read: Callable[[Path, Path], None], run: Path, outer: Path) -> tuple[str, str | None]:
    """Do one read in this process; return what became of it, and how it broke its word or None."""
    from kd_ray.errors import KdRayError

    (outer / "out").mkdir(exist_ok=True)
    said = io.StringIO()
    try:
        with _bounded(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            read(run, outer / "out")
    except KdRayError as error:
        text = str(error)
        fault = None if text and len(text) < 20_000 else f"says {len(text)} characters"
        return f"refused: {type(error).__name__}", fault
    except SystemExit as error:
        return f"exit {error.code}", None if error.code in (None, 0, 1, 2) else f"exit code {error.code}"
    except nursery.Enough:
        return "would do it again", None
    except BaseException as error:
        return "fault", f"{type(error).__name__}: {error!s:.300} {_where(error)}"
    return "read", "said a traceback" if "Traceback (most" in said.getvalue() else None
