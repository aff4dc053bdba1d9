"""Many teachers and several nodes: overhead a teacher, the driver's memory, two actors and two nodes against one.

`python -m benchmarks.scale STAGE RUN ADDRESS CONFIG` does one stage in a process of its own and prints what it took.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Row, process, spread
from benchmarks.labelling import prepared
from kd_ray import data, soft_targets, teachers
from kd_ray.config import Config
from kd_ray.ensemble import finished_members
from kd_ray.groups import members
from kd_ray.pipeline import fingerprints
from kd_ray.rundir import RunDir
from kd_ray.session import Session

COUNTS = (12, 120, 1000)
ARTICLE = "examples/article.yaml"
LABELLED = 1_000_000


def overhead(storage: Path, runs: int) -> list[Row]:
    """What the teachers stage takes beside training, of teachers so small that training them is next to nothing."""
    found = {count: [_teachers(storage, f"tiny-{count}-{run}", count) for run in range(runs)] for count in COUNTS}
    rows = [
        Row(
            what=f"teachers stage of {count:,} tiny teachers less their training, a teacher",
            ours=f"stage {spread([one['seconds'] for one in of_count])}",
            against=f"training, spread over the actors, {spread([one['training'] for one in of_count])}",
            found=spread([1000 * (one["seconds"] - one["training"]) / count for one in of_count], " ms"),
            must="<= 20 ms" if count == COUNTS[-1] else "",
            aim="5 ms" if count == COUNTS[-1] else "",
        )
        for count, of_count in found.items()
    ]
    few, many = (max(one["memory"] for one in found[count]) / 1e6 for count in (COUNTS[0], COUNTS[-1]))
    memory = Row(
        what=f"driver's peak memory in that stage, {COUNTS[0]} and {COUNTS[-1]:,} teachers",
        ours=f"{few:,.0f} and {many:,.0f} MB",
        against="",
        found=f"{many - few:+,.0f} MB",
        must="within 100 MB",
    )
    return [*rows, memory]


def actors(storage: Path, runs: int) -> list[Row]:
    """The article's teachers by one actor of one core and by two, in turn."""
    one, two = [], []
    for run in range(runs):
        one.append(_article(storage, f"one-actor-{run}", 1))
        two.append(_article(storage, f"two-actors-{run}", 2))
    config = Config.from_yaml(ROOT / ARTICLE)
    trained = 4000 * config.teachers.epochs  # rows that a member sees
    each = [sum(a["of_members"]) / len(a["of_members"]) / trained * 1e6 for a in one]
    faster = [a["slowest_actor"] / b["slowest_actor"] for a, b in zip(one, two, strict=True)]
    return [
        Row(
            what="article.yaml's teachers trained by two actors, one core each, against one",
            ours=f"{spread([b['slowest_actor'] for b in two])}; stage with the actors' start "
            f"{spread([b['seconds'] for b in two])}",
            against=f"{spread([a['slowest_actor'] for a in one])}; stage {spread([a['seconds'] for a in one])}; "
            f"{spread(each, ' µs', 2)} a member, epoch and row",
            found=spread(faster, " times faster", 2),
            must=">= 1.7",
        )
    ]


def nodes(storage: Path, runs: int) -> list[Row]:
    """Labelling on a cluster of two raylets of one core each, and of one; the head takes no work."""
    config, run = prepared(storage, LABELLED)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for count, found in rates.items():
            with _cluster(storage / f"cluster-{count}", count) as address:
                found.append(_stage("label", run, address, config)["rate"])
    more = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return [
        Row(
            what=f"labelling {LABELLED:,} rows with 12 teachers on two one-core nodes against one, start-up excluded",
            ours=spread(rates[2], " rows/s", 0),
            against=f"{spread(rates[1], ' rows/s', 0)}; {spread([1e6 / rate for rate in rates[1]], ' µs')} a row",
            found=spread(more, " times the rate", 2),
            must=">= 1.6",
        )
    ]


def _teachers(storage: Path, name: str, count: int) -> dict[str, Any]:
    config = Config.of(
        {
            "name": name,
            "data": {"options": {"n_samples": 500}, "split": {"test": 100}},
            "teachers": {"count": count, "model": {"hidden": [8], "dropout": []}, "epochs": 2},
        }
    )
    found = _stage("teachers", _with_data(storage, config), None, config)
    # As the members' own manifests say: each has its part of its pack's seconds.
    cores = len(os.sched_getaffinity(0))
    return {**found, "training": sum(found["of_members"]) / min(cores, count)}


def _article(storage: Path, name: str, count: int) -> dict[str, Any]:
    where = [f"name={name}", "teachers.resources.cpus=1", f"teachers.resources.actors={count}"]
    config = Config.from_yaml(ROOT / ARTICLE, where)
    found = _stage("teachers", _with_data(storage, config), None, config)
    each = sorted(found["of_members"], reverse=True)
    # Packs are equal parts of the members, one an actor: the slowest actor's members took the most.
    return {**found, "slowest_actor": sum(each[: len(each) // count])}


def _with_data(storage: Path, config: Config) -> RunDir:
    run = RunDir.at(str(storage), config.name)
    data.prepare(config, run, Session(), lambda done, total, note: None, fingerprints(config)["data"])
    return run


def _stage(name: str, run: RunDir, address: str | None, config: Config) -> dict[str, Any]:
    run.write_bytes("config.yaml", config.to_yaml().encode())
    printed, _ = process("-m", "benchmarks.scale", name, run.storage, run.name, address or "local")
    return dict(json.loads(printed))


@contextmanager
def _cluster(folder: Path, count: int) -> Iterator[str]:
    """A head and `count` nodes of one core; yields the address, with the token in this process's environment."""
    command = [sys.executable, str(ROOT / "cluster/local/cluster.py"), "--state", str(folder)]
    start = [*command, "start", "--workers", str(count), "--cpus", "1", "--store-mib", "512"]
    subprocess.run(start, check=True, capture_output=True, timeout=300)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": (folder / "token").read_text().strip()}
    before = {key: os.environ.get(key) for key in token}
    os.environ |= token
    try:
        yield json.loads((folder / "cluster.json").read_text())["gcs"]
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            os.environ |= {} if value is None else {key: value}
        subprocess.run([*command, "stop"], check=True, capture_output=True, timeout=120)


def main(name: str, storage: str, run_name: str, address: str) -> None:
    run = RunDir.at(storage, run_name)
    config = Config.from_yaml(f"{run}/config.yaml")
    with Session(address) as session:
        session.ready()
        found = {"teachers": _train, "label": _label}[name](config, run, session)
    print(json.dumps(found))


def _train(config: Config, run: RunDir, session: Session) -> dict[str, Any]:
    shared = fingerprints(config)["teachers"]
    begun = time.perf_counter()
    teachers.train(config, run, session, lambda done, total, note: None, shared)
    seconds = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    there = finished_members(run, members(config.teachers), shared).values()
    return {"seconds": seconds, "memory": memory, "of_members": [member.summary["seconds"] for member in there]}


def _label(config: Config, run: RunDir, session: Session) -> dict[str, Any]:
    """Rows a second from when as many files are done as there are nodes: their workers have all started then."""
    marks: list[tuple[float, float]] = []
    busy = sum(1 for node in session.nodes() if node.get("CPU"))
    run.remove("soft_targets")
    soft_targets.label(config, run, session, lambda rows, _, note: marks.append((time.perf_counter(), rows)), "x")
    first, last = marks[busy - 1], marks[-1]
    return {"rate": (last[1] - first[1]) / (last[0] - first[0])}


if __name__ == "__main__":
    main(*sys.argv[1:])
