"""How long the ensemble and the exported student take: both timed in turn, warm, on the same rows.

The ensemble and the torch student are given encoded rows; the exported ones raw columns, which they encode.
Axes: B rows of a call, M members, K members of a pack, D features.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_ray import deployed
from kd_ray.config import Config
from kd_ray.ensemble import file_of, load_ensemble, member_manifest, spec_of, trained
from kd_ray.errors import RunError
from kd_ray.finished import open_run
from kd_ray.judging import student_file
from kd_ray.machine import cpu
from kd_ray.models import MLP
from kd_ray.packing import torch_threads
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, RunDir
from kd_ray.tables import Dataset
from kd_ray.tensors import read_weights

FILE = "export/latency.json"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
MAX_CALLS, MIN_CALLS = 20_000, 5
TURN_SECONDS = 0.005

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Rows of a call, and seconds for each of them with each number of threads, all models together."""

    rows: tuple[int, ...]
    seconds: float
    memory: bool


BRIEF = Effort(rows=(1, 32, 1_024), seconds=0.4, memory=False)
THOROUGH = Effort(rows=(1, 32, 1_024, 4_096, 65_536), seconds=6.0, memory=True)


def write(
    run: RunDir, config: Config, effort: Effort, report: Report = lambda done, total, note: None
) -> dict[str, Any]:
    """Measure and write export/latency.json: seconds of a call by model, threads and rows. Returns it."""
    bundle = run.read_json(f"export/{deployed.BUNDLE}")
    data = Dataset.open(run)
    threads = sorted({1, len(os.sched_getaffinity(0))})
    found: dict[str, Any] = {
        name: {"bytes": size, "threads": {}} for name, size in _sizes(config, data, bundle).items()
    }
    steps = len(threads) * len(effort.rows)
    for t, count in enumerate(threads):
        with torch_threads(count):
            models = {name: Models(config, data, bundle, count).named(name) for name in found}
            for r, rows in enumerate(effort.rows):
                report(t * len(effort.rows) + r, steps, f"{rows:,} rows, {count} threads")
                calls = {name: make(rows) for name, make in models.items()}
                for name, seconds in timed(calls, effort.seconds).items():
                    found[name]["threads"].setdefault(str(count), {})[str(rows)] = seconds
    if effort.memory:
        for name in found:
            is_exported = any(entry["name"] == name for entry in bundle["variants"])
            found[name]["peak_memory_bytes"] = _peak_memory(run, name, is_exported)
    result = {"machine": {"cpu": cpu(), "cores": max(threads)}, "models": found}
    run.write_sealed(FILE, result)
    report(steps, steps, "timed")
    return result


def timed(calls: dict[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """Call each in turn until the time is up; return quantiles of the seconds, and how many calls were timed.

    A turn is a burst of calls, whose first is not timed: it finds the caches as another model left them.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or min(map(len, spent.values())) < MIN_CALLS:
        for name, call in calls.items():
            call()
            turn = time.perf_counter()
            while len(spent[name]) < MAX_CALLS:
                start = time.perf_counter()
                call()
                ended = time.perf_counter()
                spent[name].append(ended - start)
                if ended - turn > TURN_SECONDS:
                    break
    return {
        name: {**{key: float(np.quantile(each, q)) for key, q in QUANTILES.items()}, "calls": len(each)}
        for name, each in spent.items()
    }


@dataclass(frozen=True)
class Models:
    """What makes a call of any model, each loaded when it is asked for."""

    config: Config
    data: Dataset
    bundle: dict[str, Any]
    threads: int

    def named(self, name: str) -> Callable[[int], Call]:
        """Return what makes a call of some rows."""
        entry = next((entry for entry in self.bundle["variants"] if entry["name"] == name), None)
        return self._of_torch(name) if entry is None else self._of_file(entry)

    def _of_torch(self, name: str) -> Callable[[int], Call]:
        sample = self.data.sample()
        encoded_ND = torch.from_numpy(self.data.preprocessor.apply(sample))
        if name == "ensemble_loop":
            say: Callable[[torch.Tensor], Any] = _loop(self.config, self.data, self.threads)
        elif name == "ensemble_packed":
            ensemble = load_ensemble(self.data.run, self.config.teachers, self.config.seed, threads=self.threads)
            say = lambda features_BD: ensemble.logits(features_BD).mean(0)  # noqa: E731
        else:
            say = _module(self.data, spec_of(self.config.student.model, self.data), student_file(self.data.run))

        def make(rows: int) -> Call:
            features_BD = encoded_ND[torch.arange(rows) % len(encoded_ND)]

            def call() -> Any:
                with torch.inference_mode():
                    return say(features_BD)

            return call

        return make

    def _of_file(self, entry: dict[str, Any]) -> Callable[[int], Call]:
        file = FileRecord(path=f"export/{entry['file']}", bytes=entry["bytes"], sha256=entry["sha256"])
        content = self.data.run.read_checked(file)
        student = deployed.student_of(content, self.bundle, threads=self.threads)
        inputs = student.inputs(self.data.sample())

        def make(rows: int) -> Call:
            given = {name: np.ascontiguousarray(v[np.arange(rows) % len(v)]) for name, v in inputs.items()}
            return lambda: student.run(given)

        return make


def _module(data: Dataset, spec: MLP, file: FileRecord) -> torch.nn.Module:
    module = spec.module().eval()
    module.load_state_dict(read_weights(data.run, file, spec))
    return module


def _loop(config: Config, data: Dataset, threads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what asks the members one after the other, networks as plain torch modules, and averages."""
    says: list[Callable[[torch.Tensor], torch.Tensor]] = []
    every = trained(data.run, config.teachers)
    for member in every:
        if member.is_network:
            file = file_of(data.run, member)
            says.append(_module(data, spec_of(member.group.model, data), file))
    others = [place for place, member in enumerate(every) if not member.is_network and member.group.kind != "columns"]
    if others:
        ensemble = load_ensemble(data.run, config.teachers, config.seed, threads=threads)
        alone = [say for places, say in ensemble.parts if len(places) == 1 and places[0] in others]
        says += [lambda features_BD, say=say: say(features_BD, None)[0] for say in alone]  # type: ignore[misc]

    def mean(features_BD: torch.Tensor) -> torch.Tensor:
        return torch.stack([say(features_BD) for say in says]).mean(0)

    return mean


def _sizes(config: Config, data: Dataset, bundle: dict[str, Any]) -> dict[str, int]:
    every = trained(data.run, config.teachers)
    files = [record for member in every for record in member_manifest(data.run, member).files]
    student = student_file(data.run).bytes
    teachers = sum(record.bytes for record in files)
    # Members that are columns of the table say nothing when asked: without others there is no ensemble to time.
    ensemble = {"ensemble_loop": teachers, "ensemble_packed": teachers} if files else {}
    return {
        **ensemble,
        "student_torch": student,
        **{entry["name"]: entry["bytes"] for entry in bundle["variants"]},
    }


_DEPLOYED = """
import sys
from kd_ray import load_student
student = load_student(sys.argv[1], sys.argv[2], threads=1)
for _ in range(10):
    student.run(student.blank(1_024))
print(open("/proc/self/status").read())
"""


def _peak_memory(run: RunDir, name: str, is_exported: bool) -> int | None:
    """Return the peak resident bytes of a process that does nothing but load a model and ask it 1,024 rows.

    It is the system's own count, since what getrusage says includes the parent's at the fork. None for an exported
    model that does not lie in a local folder, and where the system keeps no such count.
    """
    command = [sys.executable, "-m", "kd_ray.latency", run.storage, run.name, name]
    if is_exported:
        if not run.is_local:
            return None
        command = [sys.executable, "-c", _DEPLOYED, run.root, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RunError(f"{name}: could not be loaded in a process of its own: {done.stderr[-500:]}")
    peak = next((line for line in done.stdout.splitlines() if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak.split()[1]) * 1024


def main(storage: str, name: str, model: str) -> None:
    """Load one torch model, ask it for 1,024 rows ten times, and print the process's state."""
    run, config = open_run(f"{storage}/{name}")
    call = Models(config, Dataset.open(run), {"variants": []}, 1).named(model)(1_024)
    for _ in range(10):
        call()
    print(Path("/proc/self/status").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
