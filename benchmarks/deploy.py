"""The exported student against the ensemble it came from: latency, size, what int8 keeps, scoring, cold start."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, spread
from kd_ray import Config, load_student, run
from kd_ray.data import generated
from kd_ray.latency import Effort, write
from kd_ray.predict import predict
from kd_ray.rundir import RunDir
from kd_ray.session import Session

ROWS, ROWS_PER_FILE = 10_000_000, 500_000
TIMED = Effort(rows=(1, 4_096), seconds=8.0, memory=False)
COLD = "from kd_ray import load_student; load_student({run!r}).predict_proba([[0.5] * 20])"


def deploy(storage: Path, runs: int) -> list[Row]:
    """The default recipe on draw 42 with 20,000 test rows; latencies on one thread, members in a loop as the peer."""
    done = run(
        Config.of(
            {
                "name": "deploy",
                "storage": str(storage),
                "data": {"options": {"n_samples": 24_000}, "split": {"test": 20_000}},
                "export": {"latency": False},
            }
        )
    )
    variants = {entry["name"]: entry for entry in done.bundle["variants"]}
    full, int8 = variants["student"], variants["int8"]
    apart = 100 * (int8["metrics"]["accuracy"] - full["metrics"]["accuracy"])
    return [
        *_latency(RunDir.at(str(storage), "deploy"), done.config, runs),
        Row(
            what="bytes of student.onnx and student.int8.onnx, raw columns in, probabilities out",
            ours=f"{full['bytes']:,} and {int8['bytes']:,}",
            against=f"the ensemble's weights: {done.evaluation['bytes']['ensemble']:,}",
            found=f"{done.evaluation['bytes']['ensemble'] / full['bytes']:.0f} times smaller",
            must="<= 20 kB",
            aim="int8 <= 8 kB",
        ),
        Row(
            what="accuracy of int8 on 20,000 test rows",
            ours=f"{100 * int8['metrics']['accuracy']:.2f} ({int8['kind']})",
            against=f"fp32 {100 * full['metrics']['accuracy']:.2f}",
            found=f"{apart:+.2f} points",
            must="within 0.2",
            aim="equal",
        ),
        _scoring(storage, done.path, done.config),
        _cold(done.path, runs),
    ]


def _latency(here: RunDir, config: Config, runs: int) -> list[Row]:
    """Medians of calls, members of the ensemble asked in a loop; encoded rows are given to them, raw ones to ours."""
    found = [write(here, config, TIMED)["models"] for _ in range(runs)]
    rows = []
    for count, must, aim in (("1", "50 times", "70 times"), ("4096", "150 times", "250 times")):
        seconds = {
            name: [models[name]["threads"]["1"][count]["p50"] for models in found]
            for name in ("ensemble_loop", "student", "int8", "pruned-50", "student_torch")
        }
        loop = seconds["ensemble_loop"]
        ratio = [a / b for a, b in zip(loop, seconds["student"], strict=True)]
        others = ", ".join(
            f"{name.replace('_', ' ')} {np.median(np.divide(loop, seconds[name])):.0f}"
            for name in ("int8", "pruned-50", "student_torch")
        )
        rows.append(
            Row(
                what=f"one call of {int(count):,} row{'s' * (count != '1')}, one thread, p50",
                ours=f"student.onnx {1e6 * np.median(seconds['student']):.1f} µs, preprocessing included",
                against=f"12 torch teachers in a loop {1e6 * np.median(loop):.0f} µs, rows preprocessed",
                found=f"{spread(ratio, ' times faster', 0)} ({others})",
                must=must,
                aim=aim,
            )
        )
    return rows


def _scoring(storage: Path, path: str, config: Config) -> Row:
    """Rows a second of kd-ray predict, Ray started before, and of a bare loop that reads, asks and writes nothing."""
    folder = storage / "to score"
    folder.mkdir()
    table = generated.table(config.data.options).drop_columns(["target"])
    part = pa.concat_tables([table] * -(-ROWS_PER_FILE // table.num_rows)).slice(0, ROWS_PER_FILE).combine_chunks()
    for number in range(ROWS // ROWS_PER_FILE):
        pq.write_table(part, folder / f"{number:03d}.parquet")
    with Session() as session:
        session.ready()
        from kd_ray.data.passes import on_ray

        list(on_ray(session)(lambda: None for _ in range(2)))
        begun = time.perf_counter()
        predict(path, str(folder), str(storage / "scored.parquet"), session=session, report=lambda *_: None)
        ours = ROWS / (time.perf_counter() - begun)
    bare = _bare(folder, f"{path}/export/student.onnx")
    return Row(
        what=f"kd-ray predict on {ROWS:,} rows of Parquet: checked, scored, written; Ray's start-up excluded",
        ours=f"{ours:,.0f} rows/s",
        against=f"{bare:,.0f} rows/s: onnxruntime in a loop over the same Parquet, all threads, nothing written",
        found=f"{ours / bare:.2f} of it",
        must=">= 0.5",
        aim=">= 0.9",
    )


def _bare(folder: Path, file: str) -> float:
    session = onnxruntime.InferenceSession(file)
    begun, rows = time.perf_counter(), 0
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(16_384):
            session.run(None, {"numeric": np.column_stack(batch.columns)})
            rows += batch.num_rows
    return rows / (time.perf_counter() - begun)


def _cold(path: str, runs: int) -> Row:
    """A new process: Python's start, import, load, first prediction."""
    seconds = []
    for _ in range(max(runs, 5)):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", COLD.format(run=path)], check=True)
        seconds.append(time.perf_counter() - begun)
    assert load_student(path)
    return Row(
        what="cold start: a new Python, import, kd_ray.load_student, first prediction",
        ours="without torch or ray",
        against="",
        found=spread(seconds, digits=2),
        must="<= 0.5 s",
    )
