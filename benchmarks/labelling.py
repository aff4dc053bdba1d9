"""Labelling with 12 teachers through Ray Data against a bare forward loop, and its memory."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.harness import Row, peak_memory
from kd_ray import soft_targets
from kd_ray.config import Config
from kd_ray.ensemble import load_ensemble, spec_of
from kd_ray.feeds import Streams
from kd_ray.fingerprints import fingerprints
from kd_ray.groups import members
from kd_ray.rundir import Manifest, RunDir
from kd_ray.session import Session
from kd_ray.tables import Dataset

COPIES = 10
SMALL, LARGE = 1_000_000, 4_000_000


def labelling(storage: Path, runs: int) -> list[Row]:
    """Rows a second between the first shard's end and the last's, on all cores; peak memory of any process."""
    with Session() as session:
        rate, small_peak = _label(prepared(storage, SMALL), session)
        _, large_peak = _label(prepared(storage, LARGE), session)
    bare = _bare(prepared(storage, SMALL)[1])
    return [
        Row(
            what="labelling 1,000,000 rows with 12 teachers, start-up excluded",
            ours=f"{rate:,.0f} rows/s, synthesis and Parquet included",
            against=f"{bare:,.0f} rows/s: PackedMLP.logits alone over rows in memory, as many threads",
            found=f"{rate / bare:.2f} of it",
            must=">= 0.5",
            aim=">= 0.9",
        ),
        Row(
            what="largest resident process while labelling 1 and 4 million rows",
            ours=f"{small_peak / 1e9:.2f} and {large_peak / 1e9:.2f} GB",
            against="",
            found=f"{large_peak / small_peak:.2f} times as much for 4 times the rows",
            must="<= 1.5 GB, flat",
        ),
    ]


def prepared(storage: Path, rows: int) -> tuple[Config, RunDir]:
    """A run with data and untrained teachers: what they say costs the same."""
    config = Config.of(
        {
            "name": f"label-{rows}",
            "data": {"options": {"n_samples": rows // COPIES + 1000}, "split": {"test": 1000}},
            "soft_targets": {"transfer": {"kind": "noise", "factor": COPIES - 1}, "rows_per_file": 50_000},
        }
    )
    run = RunDir.at(str(storage), config.name)
    if run.exists("data/manifest.json"):
        return config, run
    from kd_ray import data

    prints = fingerprints(config)
    data.prepare(config, run, Session(), lambda done, total, note: None, prints["data"])
    spec = spec_of(config.teachers.model, Dataset.open(run))
    for member in members(config.teachers):
        weights = save(spec.initial_weights(Streams.of(0, member.number).weights))
        record = run.write_bytes(f"{member.folder}/model.safetensors", weights)
        wanted = member.fingerprint(prints["teachers"])
        run.write_bytes(member.manifest, Manifest(fingerprint=wanted, files=[record], summary={}).to_json())
    return config, run


def _label(prepared: tuple[Config, RunDir], session: Session) -> tuple[float, int]:
    config, run = prepared
    marks: list[tuple[float, float]] = []
    with peak_memory() as peak:
        soft_targets.label(
            config, run, session, lambda rows, total, note: marks.append((time.perf_counter(), rows)), "x"
        )
    # As many shards as there are actors end together first; the clock starts with the last of these.
    first, last = marks[len(os.sched_getaffinity(0)) - 1], marks[-1]
    return (last[1] - first[1]) / (last[0] - first[0]), peak[0]


def _bare(run: RunDir) -> float:
    """One process a core, each a single thread, as the labelling actors are; rows a second of all together."""
    script = "import sys; from benchmarks.labelling import bare_loop; bare_loop(*sys.argv[1:])"
    cores = len(os.sched_getaffinity(0))
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", script, run.storage, run.name]
        processes = [
            subprocess.Popen([*command, f"{folder}/{core}"], cwd=Path(__file__).parents[1]) for core in range(cores)
        ]
        for process in processes:
            process.wait(timeout=600)
        return sum(float(Path(folder, str(core)).read_text()) for core in range(cores))


def bare_loop(storage: str, name: str, out: str) -> None:
    torch.set_num_threads(1)
    run = RunDir.at(storage, name)
    ensemble = load_ensemble(run, Config().teachers, seed=0)
    x_BD = torch.from_numpy(np.random.default_rng(0).normal(size=(16_384, 20)).astype(np.float32))
    with torch.no_grad():
        ensemble.logits(x_BD)
        begun, rows = time.perf_counter(), 0
        while time.perf_counter() - begun < 8:
            ensemble.logits(x_BD)
            rows += len(x_BD)
        Path(out).write_text(str(rows / (time.perf_counter() - begun)))
