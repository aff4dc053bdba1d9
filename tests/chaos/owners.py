"""Many runs started at once on one directory, and an owner that is stopped, taken over, and goes on."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tests.chaos import nursery, oracle
from tests.chaos.harness import LIMIT_SECONDS, Place, Reference, Row, complaints

AT_ONCE = 8
HOLD_SECONDS = 1.0
LEASE_SECONDS = 2
LEASE = "KD_RAY_LEASE_SECONDS"


class Owning(nursery.Until):
    """A run's progress that notes in `log` when this process works on the run, and takes its time."""

    def __init__(self, log: Path, hold: float) -> None:
        super().__init__()
        self.log, self.hold, self.owns = log, hold, False

    def note_owner(self, word: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{word} {os.getpid()} {time.monotonic()}\n")

    def skip(self, name: str) -> None:
        if not self.owns:
            self.owns = True
            self.note_owner("begins")
        super().skip(name)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[..., None]]:
        self.note_owner(name)
        time.sleep(self.hold)
        with super().stage(name) as report:
            yield report


def owners(place: Place) -> list[Row]:
    reference = place.reference
    nursery.preload()
    return [_at_once(place, reference), _stopped(place, reference)]


def _base(reference: Reference, folder: Path, *without: str) -> Path:
    run = folder / "default"
    shutil.copytree(reference.run, run)
    for pattern in without:
        for path in run.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


def _work(reference: Reference, folder: Path, hold: float, at: float = 0.0) -> Callable[[], None]:
    def work() -> None:
        from kd_ray import Config, run
        from kd_ray.errors import KdRayError

        os.environ[LEASE] = str(LEASE_SECONDS)
        config, progress = Config.from_yaml(reference.config), Owning(folder / "owners", hold)
        time.sleep(max(0.0, at - time.monotonic()))
        try:
            run(config, storage=str(folder), progress=progress)
        except KdRayError as error:
            print(f"kd-ray: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        finally:
            if progress.owns:
                progress.note_owner("ends")

    return work


def _at_once(place: Place, reference: Reference) -> Row:
    row = Row("owners", f"{AT_ONCE} runs at once on one directory")
    refused = worked = later = 0
    for i in range(place.times(100)):
        with place.scratch("owners") as folder:
            run = _base(reference, folder, "report.*")
            at = time.monotonic() + 0.5
            logs = [folder / f"log-{n}" for n in range(AT_ONCE)]
            pids = [nursery.fork(_work(reference, folder, HOLD_SECONDS, at), log) for log in logs]
            ended = [nursery.waited(pid, LIMIT_SECONDS, log) for pid, log in zip(pids, logs, strict=True)]
            spans = _spans(folder / "owners")
            problems = [f"owners {a} and {b} overlap" for a, b in pairwise(spans) if b[0] < a[1]]
            problems += [problem for one in ended for problem in complaints(one.said)]
            problems += [f"ended with {one.code}: {one.said[-200:]!r}" for one in ended if one.code not in (0, 2)]
            busy = [one for one in ended if one.code == 2]
            problems += [
                f"says no owner: {one.said!r}" for one in busy if "is being written by process" not in one.said
            ]
            did = sum("report: done" in one.said for one in ended)
            problems += [] if did == 1 else [f"{did} did the work"]
            problems += reference.differences(run)
            refused, worked, later = refused + len(busy), worked + did, later + len(spans) - 1
            row.add(f"round {i}", problems)
    row.notes = f"{worked} did the work, {refused} were told who has it, {later} came after the end"
    return row


def _spans(log: Path) -> list[tuple[float, float]]:
    """When each owner began and ended, in order."""
    began: dict[str, float] = {}
    found = []
    for line in log.read_text().splitlines():
        word, pid, at = line.split()
        if word == "begins":
            began[pid] = float(at)
        elif word == "ends":
            found.append((began[pid], float(at)))
    return sorted(found)


def _stopped(place: Place, reference: Reference) -> Row:
    row, taken = Row("owners", "owner stopped, taken over, continued"), []
    count = place.times(20)
    for i in range(count):
        with place.scratch("stopped") as folder:
            run = _base(
                reference, folder, "student", "baseline", "augmented_control", "evaluation.*", "export", "report.*"
            )
            first = nursery.fork(_work(reference, folder, 0.3), folder / "first")
            _wait_for(folder / "owners", "student")
            time.sleep(place.random("stopped", i).uniform(0, 3))
            os.kill(first, signal.SIGSTOP)
            time.sleep(LEASE_SECONDS + 1)  # an owner heard of within its lease is not doubted
            begun = time.monotonic()
            second = nursery.forked(_work(reference, folder, 0.0), log=folder / "second")
            taken.append(time.monotonic() - begun)
            before = _state(run)
            os.kill(first, signal.SIGCONT)
            ended = nursery.waited(first, LIMIT_SECONDS, folder / "first")
            problems = complaints(second.said) + complaints(ended.said)
            was_over = "report: done" in ended.said
            if second.code:
                problems.append(f"was not taken over: {second.code} {second.said[-300:]!r}")
            elif not was_over and (ended.code != 2 or "was taken over by process" not in ended.said):
                problems.append(f"went on with {ended.code}: {ended.said[-300:]!r}")
            changed = sorted(name for name, state in _state(run).items() if before.get(name, state) != state)
            problems += [] if second.code else [f"committed twice: {name}" for name in changed]
            problems += reference.differences(run)
            row.add(f"round {i}", problems)
    row.notes = f"lease {LEASE_SECONDS} s; taken over and finished in {max(taken):.1f} s at most"
    return row


def _wait_for(log: Path, word: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log.exists() and word in log.read_text():
            return
        time.sleep(0.01)
    raise RuntimeError(f"no {word} in {log}")


def _state(run: Path) -> dict[str, tuple[int, int]]:
    """Which file each manifest is: a committed one must not be put in place again."""
    names = (name for name in oracle.files(run) if name.endswith(("manifest.json", "teacher.json")))
    return {name: (os.stat(run / name).st_ino, os.stat(run / name).st_mtime_ns) for name in names}
