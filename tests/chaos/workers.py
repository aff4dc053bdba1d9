"""What Ray runs for us killed in mid-work: teacher actors, labelling workers, Train workers, whole nodes.

The driver stays and must go on by itself: the stage ends with the bits and rows that it has undisturbed.
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos import nursery, oracle
from tests.chaos.crashes import cluster, have_cluster
from tests.chaos.harness import Place, Reference, Row

SLOW = {
    "teachers": {"epochs": 1500, "pack_size": 3},
    "soft_targets": {"transfer": {"factor": 300}, "rows_per_file": 1500},
    "student": {"epochs": 1500, "workers": 1},
}
KILLS_A_RUN = 2  # a member that loses its actor three times is given up, as it must be


@dataclass(frozen=True)
class Target:
    """A stage, what the title of its worker's process begins with, and how many are killed."""

    stage: str
    title: str
    default: int


TARGETS = {
    "teacher actor": Target("teachers", "ray::TeacherActor", 50),
    "labelling worker": Target("soft_targets", "ray::MapWorker(MapBatches(Labeller))", 20),
    "Train worker": Target("student", "ray::RayTrainWorker", 20),
}
ORDER = ("data", "teachers", "soft_targets", "student", "evaluation", "export", "report")


def workers(place: Place) -> list[Row]:
    """One Ray for all; each round does one stage of a copy of the reference."""
    reference, rows = Reference.made(place, **SLOW), []
    with _ray():
        for name, target in TARGETS.items():
            row, missed = Row("workers", f"{name} killed at random"), 0
            count = place.times(target.default)
            seconds = _undisturbed(place, reference, target)
            rounds = 0
            while row.tried < count and rounds < 3 * count:
                killer = Killer(
                    _titled(target.title), place.random(name, rounds), seconds, min(KILLS_A_RUN, count - row.tried)
                )
                problems, rounds = _round(place, reference, target.stage, killer), rounds + 1
                if not killer.killed:
                    missed += 1
                for k in range(killer.killed):
                    row.add(f"round {rounds}, kill {k + 1}", problems)
            row.notes = f"{rounds} rounds of {seconds:.1f} s undisturbed, {missed} ended before the kill"
            rows.append(row)
    return rows


@contextmanager
def _ray() -> Iterator[None]:
    import ray

    from kd_ray.session import quoted_python

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=quoted_python(),
    )
    try:
        yield
    finally:
        ray.shutdown()


def base(reference: Reference, folder: Path, stage: str) -> Path:
    """A copy of the reference in which `stage` and what comes after it are to be done."""
    run = folder / "default"
    shutil.copytree(reference.run, run)
    gone = {
        "teachers": ["teachers"],
        "soft_targets": ["soft_targets"],
        "student": ["student", "baseline", "augmented_control"],
    }
    for later in ORDER[ORDER.index(stage) :]:
        for pattern in (*gone.get(later, ()), f"{later}.*", later, "checkpoints"):
            for path in run.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


def do_stage(config: Path, storage: Path, stage: str, address: str | None = None) -> list[str]:
    """Do a stage in this process; return what went wrong."""
    from kd_ray import Config, run
    from kd_ray.errors import KdRayError

    after = ORDER[ORDER.index(stage) + 1]
    try:
        run(Config.from_yaml(config), storage=str(storage), address=address, progress=nursery.Until(after))
    except nursery.Enough:
        return []
    except KdRayError as error:
        return [f"ended: {error}"]
    except Exception as error:
        return [f"failed: {type(error).__name__}: {str(error)[:300]}"]
    return []


def _round(place: Place, reference: Reference, stage: str, killer: "Killer | None") -> list[str]:
    with place.scratch("round") as folder:
        run = base(reference, folder, stage)
        with killer or contextlib.nullcontext():
            problems = do_stage(reference.config, folder, stage)
        found = oracle.content(run)
        wanted = {name: digest for name, digest in reference.content.items() if _is_of(name, stage)}
        return problems + oracle.differences(wanted, {name: found[name] for name in wanted if name in found})


def _is_of(name: str, stage: str) -> bool:
    if stage == "soft_targets":
        return name.startswith("soft_target")
    return name.startswith("teachers/" if stage == "teachers" else oracle.ROLES)


def _undisturbed(place: Place, reference: Reference, target: Target) -> float:
    begun = time.monotonic()
    problems = _round(place, reference, target.stage, None)
    if problems:
        raise RuntimeError(f"undisturbed, {target.stage}: {problems}")
    return time.monotonic() - begun


def _titled(title: str) -> Callable[[], list[psutil.Process]]:
    """Return what finds the processes that we started and that work under this title."""

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    return find


class Killer:
    """Kills processes of a kind at random moments while the block goes on."""

    def __init__(self, find: Callable[[], list[psutil.Process]], draw: Any, seconds: float, times: int) -> None:
        self.find, self.draw, self.seconds, self.times = find, draw, seconds, times
        self.killed = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        for _ in range(self.times):
            while not self.find():
                if self._ended.wait(0.02):
                    return
            if self._ended.wait(self.draw.uniform(0, self.seconds / self.times)):
                return
            processes = self.find()
            if processes and self._kill(self.draw.choice(sorted(processes, key=lambda process: process.pid))):
                self.killed += 1

    def _kill(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            return True
        return False


def nodes(place: Place) -> list[Row]:
    """A raylet of a three-node cluster killed with all it runs; every second time no other node takes its place."""
    reference = Reference.made(place, **{**SLOW, "student": {"epochs": 1500}})
    row, draw = Row("nodes", "raylet of a three-node cluster killed at random"), place.random("nodes")
    state, killed = place.new("cluster"), 0
    others = ["worker-1", "worker-2"]
    with cluster(place, workers=2, state=state) as address:
        for i in range(place.times(20)):
            while len(others) < 2:
                _join(state, others, f"again-{i}")
            stage, after, is_replaced = ("teachers", "soft_targets")[i // 2 % 2], draw.uniform(0, 12), i % 2 == 0
            killer = NodeKiller(state, others, f"in-place-{i}" if is_replaced else None, after)
            problems = _on_cluster(place, reference, stage, address, killer)
            killed += killer.has_killed
            how = "replaced" if is_replaced else "not replaced"
            row.add(f"{i}: {stage}, after {after:.1f} s, {how}", problems)
    row.notes = f"{killed} raylets killed in mid-stage"
    return [row]


def _join(state: Path, others: list[str], name: str) -> None:
    have_cluster(state, "add", "--name", name, "--cpus", "1")
    others.append(name)


class NodeKiller:
    """Kills the node that was there longest some time after the block begins; 3 s later `replacement` may join."""

    def __init__(self, state: Path, others: list[str], replacement: str | None, after: float) -> None:
        self.state, self.others, self.replacement = state, others, replacement
        self.after, self.has_killed = after, False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "NodeKiller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        if self._ended.wait(self.after):
            return
        have_cluster(self.state, "remove", "--name", self.others.pop(0))
        self.has_killed = True
        if self.replacement and not self._ended.wait(3):
            _join(self.state, self.others, self.replacement)


def _on_cluster(place: Place, reference: Reference, stage: str, address: str, killer: NodeKiller) -> list[str]:
    """Do a stage by a driver of its own, while `killer` is at work."""

    def work() -> None:
        if problems := do_stage(reference.config, folder, stage, address):
            print(*problems)
            raise SystemExit(1)

    with place.scratch("node") as folder:
        run = base(reference, folder, stage)
        pid = nursery.fork(work, folder / "log")
        with killer:
            done = nursery.waited(pid, nursery.LIMIT_SECONDS, folder / "log")
        found = oracle.content(run)
        wanted = {name: digest for name, digest in reference.content.items() if _is_of(name, stage)}
        problems = [f"{done.code}: {done.said[-300:]!r}"] if done.code else []
        return problems + oracle.differences(wanted, {name: found[name] for name in wanted if name in found})
