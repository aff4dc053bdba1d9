"""The data stage on Parquet files, by Ray Data: every pass, against a bare read of the same files; its memory."""

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, peak_memory
from kd_ray import data
from kd_ray.config import Config
from kd_ray.data.passes import on_ray
from kd_ray.rundir import RunDir
from kd_ray.session import Session

SMALL, LARGE = 1_000_000, 10_000_000
ROWS_PER_FILE = 250_000
NUMERIC = [f"x{number}" for number in range(16)]
LEVELS = {"c0": 5, "c1": 50, "c2": 500, "c3": 5_000}
MISSING = 0.05


def preprocessing(storage: Path, runs: int) -> list[Row]:
    """Rows a second of the whole stage (survey, statistics, encoding, writing) on all cores; peak memory."""
    with Session() as session:
        session.ready()
        small = _prepare(storage, SMALL, session)
        large = _prepare(storage, LARGE, session)
    bare = _bare(sorted(str(path) for path in _files(storage, LARGE).glob("*.parquet")))
    rate = LARGE / large["seconds"]
    return [
        Row(
            what=f"data stage of {LARGE:,} rows x {len(NUMERIC) + len(LEVELS)} columns of Parquet: checked, split, "
            "preprocessed, written; Ray's start-up excluded",
            ours=f"{rate:,.0f} rows/s",
            against=f"{bare:,.0f} rows/s: pyarrow.parquet.read_table file by file, all cores",
            found=f"{rate / bare:.2f} of it",
            must="",
        ),
        Row(
            what=f"largest resident process in it, {SMALL // 10**6} and {LARGE // 10**6} million rows",
            ours=f"{small['peak'] / 1e9:.2f} and {large['peak'] / 1e9:.2f} GB",
            against="",
            found=f"{large['peak'] / small['peak']:.2f} times as much for {LARGE // SMALL} times the rows",
            must="flat",
        ),
    ]


def _files(storage: Path, rows: int) -> Path:
    """Write as many files as `rows` take, and return their folder."""
    folder = storage / f"rows-{rows}"
    folder.mkdir(exist_ok=True)
    for number in range(rows // ROWS_PER_FILE):
        pq.write_table(_table(np.random.default_rng(number), ROWS_PER_FILE), folder / f"{number:03d}.parquet")
    return folder


def _table(rng: np.random.Generator, rows: int) -> pa.Table:
    """Return normal numbers and texts, 5 % of either missing."""
    columns = {name: pa.array(rng.normal(size=rows), mask=rng.random(rows) < MISSING) for name in NUMERIC}
    for name, levels in LEVELS.items():
        codes = pa.array(rng.integers(0, levels, rows), pa.int32(), mask=rng.random(rows) < MISSING)
        texts = pa.array([f"level {level}" for level in range(levels)])
        columns[name] = pa.DictionaryArray.from_arrays(codes, texts).cast(pa.string())
    columns["label"] = pa.array(rng.integers(0, 2, rows))
    return pa.table(columns)


def _prepare(storage: Path, rows: int, session: Session) -> dict[str, float]:
    """Seconds of the stage, and the peak memory of this process and its children."""
    source = {"source": str(_files(storage, rows)), "columns": {"target": "label"}}
    config = Config.of({"name": f"prepared-{rows}", "storage": str(storage), "data": source})
    run = RunDir.at(config.storage, config.name)
    list(on_ray(session)(lambda: None for _ in os.sched_getaffinity(0)))  # workers import what they need
    with peak_memory(psutil.Process()) as peak:
        begun = time.perf_counter()
        data.prepare(config, run, session, lambda done, total, note: None, "x")
        seconds = time.perf_counter() - begun
    run.remove("data")
    return {"seconds": seconds, "peak": peak[0]}


def _bare(paths: list[str]) -> float:
    begun = time.perf_counter()
    rows = sum(pq.read_table(path).num_rows for path in paths)
    return rows / (time.perf_counter() - begun)
