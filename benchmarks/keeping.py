"""What it costs that nothing is lost: the files of a default run written by the protocol and plainly; a resumed run."""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import ROOT, TIMEOUT_SECONDS, Row, spread
from kd_ray.commits import is_manifest
from kd_ray.rundir import RunDir


def keeping(storage: Path, runs: int) -> list[Row]:
    """The default run, cold, then again when it is finished; its files once more, as a run and as files."""
    command = [sys.executable, "-m", "kd_ray.cli", "run", "--storage", str(storage), "--name", "kept"]
    cold, *again = (_seconds(command) for _ in range(1 + runs))
    run = RunDir.at(str(storage), "kept")
    contents = {path: run.read_bytes(path) for path in run.sizes("") if not path.startswith(".writer/")}
    spent = [_by_the_protocol(storage, contents) - _plainly(storage, contents) for _ in range(runs)]
    return [
        Row(
            what=f"the {len(contents)} files of the default run: aside, flushed, committed under a lock",
            ours=f"{spread([1000 * each for each in spent], ' ms', 0)} more",
            against=f"the run's {cold:.1f} s",
            found=f"{100 * statistics.median(spent) / cold:.1f} %",
            must="<= 5 %",
        ),
        Row(
            what="`kd-ray run` of a finished run",
            ours=spread(again),
            against="",
            found=f"{statistics.median(again):.1f} s",
            must="<= 3 s",
        ),
    ]


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
    return time.perf_counter() - begun


def _by_the_protocol(storage: Path, contents: dict[str, bytes]) -> float:
    begun = time.perf_counter()
    with RunDir.at(str(storage), "again").writing() as run:
        for path, content in contents.items():
            if not is_manifest(path):
                run.write_bytes(path, content)
        for path in filter(is_manifest, contents):
            manifest = RunDir.at(str(storage), "kept").manifest(path)
            assert manifest is not None
            run.commit(path, manifest)
    spent = time.perf_counter() - begun
    shutil.rmtree(storage / "again")
    return spent


def _plainly(storage: Path, contents: dict[str, bytes]) -> float:
    begun = time.perf_counter()
    for path, content in contents.items():
        file = storage / "plain" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    spent = time.perf_counter() - begun
    shutil.rmtree(storage / "plain")
    return spent
