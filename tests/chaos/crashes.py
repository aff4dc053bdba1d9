"""The driver ended before and after every storage operation, on local disk and on S3.

Stages that need Ray run on a cluster that outlives their drivers; its workers count their operations with the
driver's, and one that comes to the operation takes the driver with it. The other stages run in forks.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import nursery, oracle, servers
from tests.chaos.harness import ROOT, Place, Reference, Row, complaints
from tests.chaos.operations import CONTROL, CRASHED, Control, install
from tests.chaos.proxy import WRITES, proxied

FEW = {
    "teachers": {"count": 3, "pack_size": 2},
    "soft_targets": {"transfer": {"factor": 1}, "rows_per_file": 400},
    "student": {"epochs": 3, "replicas": 1},
    "data": {"options": {"n_samples": 120}},
}
SIDES = ("before", "after")
ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
PARTS = {"data": ("", "ray"), "Ray's stages": ("data", "student"), "the rest": ("soft_targets", None)}
"""Part of a run: the last stage that is finished when it begins, and the stage that it ends before."""
LATER = {
    "": ("data", "teachers", "soft_targets"),
    "data": ("teachers", "soft_targets"),
    "soft_targets": (),
}
ALWAYS_LATER = ("student", "baseline", "augmented_control", "export", "evaluation.*", "report.*", "checkpoints")


@dataclass
class Bench:
    """Where the forks of one part work."""

    place: Place
    reference: Reference
    base: Path
    stop: str | None
    address: str | None
    control: Control

    def run(self, storage: str, log: Path, *, stop: str | None, prepare: Callable[[], None]) -> nursery.Ended:
        def work() -> None:
            prepare()
            from kd_ray import Config, run

            run(
                Config.from_yaml(self.reference.config),
                storage=storage,
                address=self.address,
                progress=nursery.Until(stop),
            )

        return nursery.forked(work, log=log)


def after_ray(place: Place) -> list[Row]:
    """Local disk, the stages that need no Ray."""
    return crashes(place, ("the rest",), case="crashes-after-ray")


def crashes(place: Place, parts: tuple[str, ...] = tuple(PARTS), case: str = "crashes") -> list[Row]:
    """Local disk: operations of the os module, pyarrow's local file system and open."""
    reference = Reference.made(place, **FEW)
    nursery.preload()
    rows = []
    for part in parts:
        row = Row(case, f"local, {part}: os._exit before and after each operation")
        with _bench(place, reference, part) as bench:
            _local(bench, part, row)
        rows.append(row)
    return rows


def _local(bench: Bench, part: str, row: Row) -> None:
    operations = _count(bench)
    kinds = Counter(line.split()[0] for line in operations)
    for number, side in _points(bench.place, len(operations)):
        with bench.place.scratch("crash") as storage:
            shutil.copytree(bench.base, storage / "default")
            crashed = bench.run(
                str(storage), storage / "log", stop=bench.stop, prepare=_armed(bench, storage, number, side)
            )
            reached = crashed.code in (CRASHED, -9)
            problems = [] if reached else [f"was not reached: {crashed.code} {crashed.said[-300:]!r}"]
            problems += _resume(bench, str(storage), storage / "default", storage / "log2")
            row.add(f"{part}: {side} operation {number} ({operations[number - 1]})", problems)
    row.notes = f"{len(operations)} operations: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())


def _count(bench: Bench) -> list[str]:
    """Names of the operations of an undisturbed part, in order."""
    with bench.place.scratch("count") as storage:
        shutil.copytree(bench.base, storage / "default")
        done = bench.run(str(storage), storage / "log", stop=bench.stop, prepare=_armed(bench, storage, None, "before"))
        if done.code:
            raise RuntimeError(f"counting ended with {done.code}: {done.said}")
        return bench.control.log


def _armed(bench: Bench, storage: Path, number: int | None, side: str) -> Callable[[], None]:
    def prepare() -> None:
        bench.control.set(storage / "default", at=number, side=side, also=os.getpid())
        install(bench.control.folder)

    return prepare


def _resume(bench: Bench, storage: str, run: Path, log: Path) -> list[str]:
    if bench.address:
        bench.control.set(Path("/nowhere"))
    done = bench.run(storage, log, stop=None, prepare=lambda: None)
    if done.code:
        return [f"resumed with {done.code}: {done.said[-400:]!r}"]
    clean_in_fork(run, log)
    stray = [f"stray {name}" for name in sorted(oracle.files(run) - bench.reference.files - {"log"})]
    return complaints(done.said) + bench.reference.differences(run) + stray


def clean_in_fork(run: Path | str, log: Path) -> None:
    from tests.chaos.harness import knows_clean

    if knows_clean():
        done = nursery.forked(nursery.cli("clean", run), log=log)
        if done.code:
            raise RuntimeError(f"kd-ray clean ended with {done.code}: {done.said}")


def _points(place: Place, operations: int) -> list[tuple[int, str]]:
    """Every operation and side, or as many as are wanted, spread by the seed."""
    every = [(number, side) for number in range(1, operations + 1) for side in SIDES]
    if place.count is None or place.count >= len(every):
        return every
    return sorted(place.random("points", operations).sample(every, place.count))


@contextmanager
def _bench(place: Place, reference: Reference, part: str) -> Iterator[Bench]:
    finished, stop = PARTS[part]
    base = place.new("base")
    if finished:
        shutil.copytree(reference.run, base, dirs_exist_ok=True)
        for pattern in (*LATER[finished], *ALWAYS_LATER):
            for path in base.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    control = Control(place.new("control"))
    control.set(Path("/nowhere"))
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(cluster(place, control)) if finished == "data" or not finished else None
        yield Bench(place, reference, base, stop, address, control)


@contextmanager
def cluster(
    place: Place, control: Control | None = None, workers: int = 0, state: Path | None = None, **env: str
) -> Iterator[str]:
    """Yield the address of a cluster whose workers count storage operations; its token is in the environment."""
    state = state or place.new("cluster")
    path = os.pathsep.join([str(ROOT / "tests/chaos/site"), str(ROOT)]) if control else str(ROOT)
    more = {"PYTHONPATH": path, **ENV, **env} | ({CONTROL: str(control.folder)} if control else {})
    before = dict(os.environ)
    have_cluster(state, "start", "--workers", str(workers), "--cpus", "1", **more)
    import json

    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state / "token"), **ENV}
    try:
        yield str(json.loads((state / "cluster.json").read_text())["gcs"])
    finally:
        have_cluster(state, "stop")
        os.environ.clear()
        os.environ.update(before)


def have_cluster(state: Path, *words: str, **env: str) -> None:
    """Start, stop or change the cluster that `state` is kept of."""
    command = [sys.executable, str(ROOT / "cluster/local/cluster.py"), "--state", str(state), *words]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cluster {words[0]}: {done.stderr}")


class ExitAt:
    """Ends this process at the k-th request that writes, before the store has it or before its reply."""

    def __init__(self, at: int | None, side: str, log: Path) -> None:
        self.at, self.side, self.log, self.count = at, side, log, 0

    def __call__(self, method: str, path: str) -> str:
        if method in WRITES:
            self.count += 1
            with self.log.open("a") as log:
                log.write(f"{method} {path.split('?')[0]}\n")
            if self.count == self.at and self.side == "before":
                os._exit(CRASHED)
        return "pass"

    def after(self, method: str, path: str) -> None:
        if method in WRITES and self.count == self.at and self.side == "after":
            os._exit(CRASHED)


def s3_crashes(place: Place) -> list[Row]:
    """S3: every request that writes, seen by a proxy inside the driver, the workers' with the driver's."""
    if not servers.is_there("ministack"):
        return [Row("s3-crashes", "S3", notes="needs .venv/s3: make .venv/s3/.ready")]
    reference, rows = Reference.made(place, **FEW), []
    nursery.preload()
    with servers.serving("ministack", place.new("server")) as server:
        for part in PARTS:
            row = Row("s3-crashes", f"S3, {part}: os._exit before and after each request that writes")
            with _bench(place, reference, part) as bench:
                _on_s3(bench, server, part, row)
            rows.append(row)
    return rows


def _on_s3(bench: Bench, server: servers.Server, part: str, row: Row) -> None:
    prefix = f"count-{bench.base.name}"
    requests = _s3_run(bench, server, prefix, None, "before")[1]
    for number, side in _points(bench.place, len(requests)):
        prefix = f"{bench.base.name}-{number}-{side}"
        crashed, seen = _s3_run(bench, server, prefix, number, side)
        problems = [] if crashed.code == CRASHED else [f"was not reached: {crashed.code} {crashed.said[-300:]!r}"]
        with bench.place.scratch("mirror") as folder:
            done = _s3_resume(bench, server, prefix, folder / "log")
            if done.code:
                problems.append(f"resumed with {done.code}: {done.said[-400:]!r}")
            else:
                run = server.mirror(f"{prefix}/default", folder / "run")
                stray = [f"stray {name}" for name in sorted(oracle.files(run) - bench.reference.files)]
                problems += complaints(done.said) + bench.reference.differences(run) + stray
        row.add(f"{part}: {side} request {number} ({seen[-1] if seen else '?'})", problems)
    row.notes = f"{len(requests)} requests that write"


def _s3_run(
    bench: Bench, server: servers.Server, prefix: str, number: int | None, side: str
) -> tuple[nursery.Ended, list[str]]:
    server.upload(bench.base, f"{prefix}/default")
    with bench.place.scratch("s3") as folder:
        log = folder / "requests"
        log.touch()

        def prepare() -> None:
            proxy = stack.enter_context(proxied(server.port, ExitAt(number, side, log)))
            os.environ.update(servers.environment(proxy.port))

        with contextlib.ExitStack() as stack:
            ended = bench.run(f"s3://{servers.BUCKET}/{prefix}", folder / "log", stop=bench.stop, prepare=prepare)
        if number is None and ended.code:
            raise RuntimeError(f"counting ended with {ended.code}: {ended.said}")
        return ended, log.read_text().splitlines()


def _s3_resume(bench: Bench, server: servers.Server, prefix: str, log: Path) -> nursery.Ended:
    def prepare() -> None:
        os.environ.update(servers.environment(server.port))

    ended = bench.run(f"s3://{servers.BUCKET}/{prefix}", log, stop=None, prepare=prepare)
    if not ended.code:
        clean_on_s3(bench, server, prefix, log.with_name("clean"))
    return ended


def clean_on_s3(bench: Bench, server: servers.Server, prefix: str, log: Path) -> None:
    from tests.chaos.harness import knows_clean

    if knows_clean():

        def work() -> Any:
            os.environ.update(servers.environment(server.port))
            return nursery.cli("clean", f"s3://{servers.BUCKET}/{prefix}/default")()

        done = nursery.forked(work, log=log)
        if done.code:
            raise RuntimeError(f"kd-ray clean ended with {done.code}: {done.said}")
