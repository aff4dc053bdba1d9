"""The whole way: make the data, train the teachers, have them label, distill the student, measure what was kept.

Each stage reads what earlier ones wrote to the run directory. A finished stage is not run again.
"""

import contextlib
import itertools
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kd_ray import (
    __version__,
    data,
    evaluate,
    export,
    report,
    search,
    soft_targets,
    student,
    teachers,
    verifying,
)
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError
from kd_ray.fingerprints import fingerprints
from kd_ray.finished import write_config
from kd_ray.judging import evaluation_of
from kd_ray.mistakes import Mistakes, near
from kd_ray.progress import Progress, Silent
from kd_ray.progress import Report as Tell
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.tables import DATA_MANIFEST, SOFT_TARGETS_MANIFEST, STUDENT_MANIFEST, TEACHERS_MANIFEST

Work = Callable[[Config, RunDir, Session, Tell, str], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step: what does it, the manifest that says it is done, and what others read without looking for that."""

    name: str
    work: Work
    manifest: str
    read_by_others: str | None = None


RECORD = "run.json"
# The student asks for it where it has workers; a cluster is joined before anything is done, in case it cannot be.
NEEDS_RAY = ("teachers", "soft_targets")

STAGES = (
    Stage("data", data.prepare, DATA_MANIFEST),
    Stage("teachers", teachers.train, TEACHERS_MANIFEST),
    Stage("soft_targets", soft_targets.label, SOFT_TARGETS_MANIFEST),
    Stage("student", student.distill, STUDENT_MANIFEST),
    Stage("evaluation", evaluate.measure, evaluate.MANIFEST, evaluate.FILE),
    Stage("export", export.export, export.MANIFEST, export.BUNDLE),
    Stage("report", report.write, report.MANIFEST, report.FILE),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Stages of a run that are finished: where their files are, and how long each took."""

    path: str
    config: Config
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Result(Part):
    """What a run gives back: `evaluation` as in evaluation.json, and where the files are."""

    evaluation: dict[str, Any]
    bundle: dict[str, Any]
    """As in export/bundle.json: the exported files, what they take and what they are worth."""

    @property
    def student_path(self) -> str:
        """The file to deploy."""
        return f"{self.path}/export/student.onnx"


def run(
    config: Config | str | Path | None = None,
    *,
    name: str | None = None,
    storage: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
    tuned: bool = False,
) -> Result:
    """Do a whole run, or take up one that was cut short, and return its result.

    `config` is a Config or the path of a YAML file; the default is the recommended recipe. `name` and `storage`
    go before the config's. `address` joins a Ray cluster; without it (and without RAY_ADDRESS) a private
    node is started and stopped. `tuned` gives the student what the run's search found best. Raises KdRayError, whose
    message is meant for the user.
    """
    config = _config_of(config, name, storage)
    done = run_until(STAGES[-1].name, config, address=address, progress=progress, tuned=tuned)
    here = RunDir.at(config.storage, config.name)
    return Result(
        path=str(here),
        config=done.config,
        evaluation=evaluation_of(here),
        bundle=export.bundle_of(here),
        seconds=done.seconds,
    )


def run_until(
    stage: str,
    config: Config | str | Path | None = None,
    *,
    name: str | None = None,
    storage: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
    tuned: bool = False,
) -> Part:
    """Do a run up to and with a stage, as `run` does all: what is finished is kept, what is missing is done first."""
    until = next((number for number, each in enumerate(STAGES, 1) if each.name == stage), None)
    if until is None:
        names = [each.name for each in STAGES]
        raise ConfigError(f"--until: must be one of {', '.join(names)}; got {stage!r}{near(stage, names)}")
    config = _config_of(config, name, storage)
    here = RunDir.at(config.storage, config.name)
    if tuned:
        config = _tuned(config, here)
    progress = progress or Silent()
    dashboard = config.student.workers != "auto"
    with here.writing(progress.note) as here, Session(address, dashboard=dashboard, run=here) as session:
        write_config(here, config)
        steps = Steps(config, here, session, progress)
        steps.distrust()
        for each in STAGES[:until]:
            steps.do(each)
    seconds = {each.name: steps.record["stages"][each.name]["seconds"] for each in STAGES[:until]}
    return Part(path=str(here), config=config, seconds=seconds)


def _config_of(config: Config | str | Path | None, name: str | None, storage: str | None) -> Config:
    if not isinstance(config, Config):
        config = Config() if config is None else Config.from_yaml(config)
    return config.model_copy(update={"name": name or config.name, "storage": storage or config.storage})


def _tuned(config: Config, run: RunDir) -> Config:
    """Return the config with the best combination of the run's search. Raises ConfigError where there is none."""
    if not run.exists(search.LEADERBOARD):
        raise ConfigError(f"--tuned: {run} has no {search.LEADERBOARD}; kd-ray tune makes one")
    board = run.read_json(search.LEADERBOARD)
    if board["soft_targets"] != fingerprints(config)["soft_targets"]:
        raise ConfigError(
            f"--tuned: {run}/{search.LEADERBOARD} is of other soft targets than this config's; use the config that was "
            "searched, or kd-ray tune with another --name"
        )
    return config.model_copy(update={"student": search.student_of(config.student, board["best"]["knobs"])})


def check(config: Config, session: Session) -> dict[str, Any]:
    """Return what a run would do, as JSON. Raises DataError with a line for each mistake in config and data."""
    mistakes, problem = Mistakes(), None
    found: dict[str, Any] = {}
    with mistakes.gathering():
        found, problem = data.check(config, session)
    has_valid = not found or found["rows"]["valid"] > 0
    mistakes.add(*teachers.check(config, problem, has_valid=has_valid).lines)
    mistakes.check()
    return found


def report_again(config: Config, run: RunDir) -> str:
    """Write a finished run's page anew, as after `kd-ray bench`, and return it."""
    with run.writing() as run:
        report.write(config, run, Session(), lambda done, total, note: None, fingerprints(config)["report"])
    return run.read_bytes(report.FILE).decode()


class Steps:
    """The stages of one run, in order, and the record of them in run.json."""

    def __init__(self, config: Config, here: RunDir, session: Session, progress: Progress) -> None:
        self.config, self.run, self.session, self.progress = config, here, session, progress
        self.prints = fingerprints(config)
        self.record = self._earlier_record()
        self.kept: tuple[Stage, ...] = ()

    def do(self, stage: Stage) -> None:
        """Run a stage unless it is finished, and record it; what later stages made of its last result goes first."""
        if stage in self.kept or self.finished(stage):
            self.progress.skip(stage.name)
            return
        self._forget_from(stage)
        if stage.name in NEEDS_RAY or not self.session.is_local:
            self._start_ray()
        begun = time.perf_counter()
        with self.progress.stage(stage.name) as tell:
            summary = stage.work(self.config, self.run, self.session, tell, self.prints[stage.name])
        kept = ("rows", "training_seconds", "trained", "failed")
        facts: dict[str, Any] = {key: summary[key] for key in kept if key in summary}
        self.record["stages"][stage.name] = {
            "fingerprint": self.prints[stage.name],
            "seconds": round(time.perf_counter() - begun, 3),
            "driver_peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **facts,
        }
        self.run.write_sealed(RECORD, self.record)
        if stage.name == "data":
            self._say_if_batches_are_cut(summary["rows"]["train"])

    def distrust(self) -> None:
        """Where stages are to be run, look at every byte of those before them: what is damaged is made anew."""
        self.kept = tuple(itertools.takewhile(self.finished, STAGES))
        skipped = {stage.manifest for stage in STAGES[len(self.kept) :]}
        if not skipped:
            return
        relied_on = [path for path in verifying.manifests(self.run) if path not in skipped and "tune/" not in path]
        for damage in list(verifying.damages(self.run, relied_on)):
            self.progress.note(damage.says)
            self.run.remove(damage.manifest)
            self.kept = tuple(itertools.takewhile(self.finished, self.kept))

    def finished(self, stage: Stage) -> bool:
        found = self.run.finished(stage.manifest, self.prints[stage.name])
        if found is None or stage.name not in self.record["stages"]:
            return False
        return stage.name != "teachers" or teachers.are_those_of(self.config.teachers, found)

    def _forget_from(self, stage: Stage) -> None:
        for later in STAGES[STAGES.index(stage) :]:
            self.run.remove(later.manifest)
            if later.read_by_others:
                self.run.remove(later.read_by_others)
            self.record["stages"].pop(later.name, None)

    def _start_ray(self) -> None:
        """Start Ray apart from the stages, so that a stage's seconds are its own."""
        if self.session.started:
            return
        begun = time.perf_counter()
        with self.progress.stage("ray"):
            self.session.ready()
        self.record["ray_start_seconds"] = round(time.perf_counter() - begun, 3)

    def _earlier_record(self) -> dict[str, Any]:
        packages = ("ray", "torch", "numpy", "scikit-learn", "pyarrow")
        versions = {"kd-ray": __version__, **{package: version(package) for package in packages}}
        stages: dict[str, dict[str, Any]] = {}
        if self.run.exists(RECORD):
            with contextlib.suppress(KdRayError, KeyError, TypeError):
                stages.update(self.run.read_json(RECORD)["stages"])
        return {
            "versions": {"python": platform.python_version(), **versions},
            "host": platform.node(),
            "stages": stages,
        }

    def _say_if_batches_are_cut(self, rows: int) -> None:
        for key in ("teachers", "student"):
            size = getattr(self.config, key).batch_size
            if size > rows:
                self.progress.note(
                    f"{key}.batch_size {size} is more than the {rows} training rows: a step takes them all"
                )
