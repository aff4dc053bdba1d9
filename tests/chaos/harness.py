"""What the cases share: a small run, its processes, and rows of the table of figures."""

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "cluster/local"))

import processes  # noqa: E402

from tests.chaos import oracle  # noqa: E402

TINY: dict[str, Any] = {
    "data": {
        "options": {"n_samples": 240, "n_features": 6, "n_informative": 4, "n_redundant": 1},
        "split": {"valid": 0.1},
    },
    "teachers": {
        "count": 12,
        "model": {"hidden": [4], "dropout": []},
        "epochs": 3,
        "batch_size": 32,
        "pack_size": 3,
    },
    "soft_targets": {"transfer": {"kind": "mixup", "factor": 2}, "rows_per_file": 150},
    "student": {"model": {"hidden": [4]}, "epochs": 10, "replicas": 2, "batch_size": 32},
    "export": {"int8": False, "pruning": [0.5], "fine_tuning": 1, "latency": False},
}
LIMIT_SECONDS = 600
ORPHAN_SECONDS = 60


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


@dataclass
class Row:
    """One line of the table: of `tried` cases `good` went as they must; `problems` say how the others did not."""

    case: str
    fault: str
    tried: int = 0
    good: int = 0
    notes: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, what: str, problems: list[str]) -> None:
        """Count one case; `what` says how to see it again."""
        self.tried += 1
        self.good += not problems
        self.problems += [f"{what}: {problem}" for problem in problems]
        if problems:
            print(f"  {self.case}: {what}: {'; '.join(problems)}", file=sys.stderr, flush=True)

    @property
    def is_good(self) -> bool:
        return self.tried > 0 and self.good == self.tried


@dataclass
class Place:
    """Where a case works: a folder of its own, the seed that repeats it and how many times it is wanted."""

    folder: Path
    seed: int = 0
    count: int | None = None

    def times(self, default: int) -> int:
        return default if self.count is None else self.count

    def random(self, *of: Any) -> random.Random:
        """Return the stream of random numbers of one case, whatever other cases draw."""
        return random.Random(repr((self.seed, *of)))

    def new(self, name: str) -> Path:
        path = self.folder / f"{name}-{secrets.token_hex(3)}"
        path.mkdir()
        return path

    def config(self, **changes: Any) -> Path:
        """Write the small config with changes; JSON is YAML."""
        path = self.folder / f"config-{secrets.token_hex(3)}.yaml"
        path.write_text(json.dumps(merged(TINY, changes)))
        return path

    @cached_property
    def reference(self) -> "Reference":
        """The undisturbed run that the others are held against."""
        return Reference.made(self)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        path = self.new(name)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass
class Reference:
    config: Path
    run: Path
    content: dict[str, str]
    files: set[str]
    seconds: float

    @classmethod
    def made(cls, place: Place, **changes: Any) -> "Reference":
        config, storage = place.config(**changes), place.new("reference")
        started = Started.run(config, storage)
        code = started.wait()
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}:\n{started.said()}")
        run = storage / "default"
        seconds = time.monotonic() - started.begun
        clean(run)
        return cls(config, run, oracle.content(run), oracle.files(run), seconds)

    def differences(self, run: Path | str) -> list[str]:
        return oracle.differences(self.content, oracle.content(run))

    def stray(self, run: Path) -> list[str]:
        """Files that the undisturbed run does not have, nor this one after `kd-ray clean`."""
        clean(run)
        return self.stray_of(run)

    def stray_of(self, run: Path) -> list[str]:
        return [f"stray {name}" for name in sorted(oracle.files(run) - self.files)]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "kd_ray.cli", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """This process's, with our checkout first on the path and Ray's own settings left to kd-ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"} | more


def kd_ray(*words: str | Path, seconds: float = LIMIT_SECONDS, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*words), env=environment(**env), capture_output=True, text=True, timeout=seconds, check=False
    )


def knows(name: str) -> bool:
    """Whether there is such a command."""
    return kd_ray(name, "--help").returncode == 0


def clean(run: Path) -> None:
    if knows_clean():
        done = kd_ray("clean", run)
        if done.returncode:
            raise RuntimeError(f"kd-ray clean ended with {done.returncode}: {done.stderr}")


_known: dict[str, bool] = {}


def knows_clean() -> bool:
    return _known.setdefault("clean", knows("clean"))


@dataclass
class Started:
    """A `kd-ray run` under way, in a session of its own, and all its processes by a mark that they inherit."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    begun: float
    seen: processes.Members = field(default_factory=dict)

    @classmethod
    def run(cls, config: Path, storage: Path | str, *words: str, prefix: tuple[str, ...] = (), **env: str) -> "Started":
        mark = secrets.token_hex(8)
        folder = storage if isinstance(storage, Path) else config.parent
        log = folder / f"log-{mark}.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*prefix, *command("run", config, "--storage", storage, *words)],
                env=environment(**env, **{processes.MARK: mark}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return cls(process, mark, log, time.monotonic())

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def look(self) -> None:
        """Note all processes there are now: one that gives itself a title loses its mark."""
        self.seen |= processes.family(self.mark)

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Return the exit code. A run that hangs is ended; its code is then -9."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return self.process.wait()

    def wait_until(self, begun: float, stage: str = "") -> bool:
        """Wait until `begun` (monotonic), or until `stage` was said; return whether the run still goes on."""
        while self.process.poll() is None:
            if (stage and stage in self.said()) or (not stage and time.monotonic() >= begun):
                return True
            if time.monotonic() > self.begun + LIMIT_SECONDS:
                self.end()
            time.sleep(0.02)
        return False

    def send(self, signum: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the driver, or as a terminal does to its process group."""
        self.look()
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def left(self, seconds: float = ORPHAN_SECONDS) -> tuple[list[str], float]:
        """Wait for all its processes to go; return those that stay, which are then ended, and how long it took."""
        begun, left = time.monotonic(), {self.pid: 0}
        while left and time.monotonic() < begun + seconds:
            left = processes.alive(self.seen | processes.family(self.mark))
            left.pop(self.pid, None) if self.process.poll() is not None else None
            time.sleep(0.1)
        names = [f"left process {_name(pid)}" for pid in left]
        _kill(left)
        return names, time.monotonic() - begun

    def end(self) -> None:
        self.look()
        _kill(processes.alive(self.seen))


def _kill(members: processes.Members) -> None:
    for pid in processes.alive(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (
            f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')[:80]}"
        )
    return str(pid)


def complaints(said: str, *, may_fail: bool = False) -> list[str]:
    """What no run may say, whatever was done to it."""
    found = ["a traceback"] if "Traceback (most recent call last)" in said else []
    return found + (["a fault of kd-ray's own"] if "fault of kd-ray's own" in said and not may_fail else [])


def resumed(reference: Reference, storage: Path, *words: str, **env: str) -> list[str]:
    """Take a disturbed run up to its end and return what is not as in the undisturbed one."""
    started = Started.run(reference.config, storage, *words, **env)
    code = started.wait()
    if code:
        return [f"resumed with exit code {code}: {started.said()[-300:]!r}", *complaints(started.said())]
    left, _ = started.left()
    run = storage / "default"
    return complaints(started.said()) + left + reference.differences(run) + reference.stray(run)


def stage_of(said: str) -> str:
    """The stage that a run was in, by the last line of its progress."""
    lines = [line for line in said.splitlines() if ": " in line and "finished before" not in line]
    if not lines:
        return "start"
    stage = lines[-1].split(":")[0]
    return f"after {stage}" if "done in" in lines[-1] else stage
