"""A search over the student's knobs on the soft targets that are there: nothing is labelled again.

Ray Tune runs packs of combinations, one a trial; a pack commits what it found to the run directory, and that alone is
read back, so that a search that was killed goes on where it stopped. Neither training nor choice reads a test row.

Files: tune/search.json says what is searched, tune/packs/ holds the commits, tune/leaderboard.json what came of it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from kd_ray import proposals, recovery, search, trials
from kd_ray.config import Config
from kd_ray.errors import ConfigError, ManifestError
from kd_ray.fingerprints import fingerprints
from kd_ray.finished import CONFIG, write_config
from kd_ray.pipeline import STAGES, Steps
from kd_ray.progress import Progress, Report, Silent
from kd_ray.recovery import Measure
from kd_ray.rundir import RunDir, fingerprint
from kd_ray.scheduling import Ask
from kd_ray.search import LEADERBOARD, Combination, Tried
from kd_ray.session import Session
from kd_ray.tables import Dataset
from kd_ray.tasks import task_of
from kd_ray.trials import Pack, Work
from kd_ray.tune.on_ray import Watch, run_packs

SETTINGS = "tune/search.json"
WAVES = 4  # how often Optuna hears of scores, unless packs are given a size


def tune(config: Config, *, address: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Search, or take up a search that was cut short, and return the leaderboard.

    The stages up to the soft targets are done first, unless they are finished. Raises KdRayError.
    """
    search.check(config)
    if config.tune.search == "optuna":
        proposals.check_installed()
    here = RunDir.at(config.storage, config.name)
    progress = progress or Silent()
    with here.writing(progress.note) as here, Session(address) as session:
        settings = _settings(config)
        _check_same_search(here, settings)
        _soft_targets(config, here, session, progress)
        data = Dataset.open(here)
        if not data.files("valid"):
            raise ConfigError("tune: chooses by the validation rows and the table has none; set data.split.valid")
        here.write_sealed(SETTINGS, settings)
        with progress.stage("tune") as report:
            return _search(config, data, session, report, settings)


def _soft_targets(config: Config, here: RunDir, session: Session, progress: Progress) -> None:
    steps = Steps(config, here, session, progress)
    before = STAGES[:3]
    if not all(steps.finished(stage) for stage in before) or not here.exists(CONFIG):
        write_config(here, config)
    for stage in before:
        steps.do(stage)


def _settings(config: Config) -> dict[str, Any]:
    """What a search is a function of."""
    return {
        "soft_targets": fingerprints(config)["soft_targets"],
        "seed": config.seed,
        "student": config.student.model_dump(exclude={"workers", "replicas"}),
        "tune": config.tune.model_dump(exclude={"pack_size"} if config.tune.search != "optuna" else None),
    }


def _check_same_search(here: RunDir, settings: dict[str, Any]) -> None:
    """Raise ConfigError where another search was begun here."""
    if not here.exists(SETTINGS):
        return
    changed = search.differences(here.read_json(SETTINGS), settings)
    if changed:
        raise ConfigError(
            f"{here}/tune: holds another search: {'; '.join(changed)}; go on with that one, delete the folder, or use "
            "another --name"
        )


def _search(
    config: Config, data: Dataset, session: Session, report: Report, settings: dict[str, Any]
) -> dict[str, Any]:
    task = task_of(data.schema)
    metric = trials.metric_of(task, config.tune.objective)
    work = Work(
        run=data.run, seed=config.seed, student=config.student, metric=metric, fingerprint=fingerprint("tune", settings)
    )
    course = _Course(config=config, work=work, session=session, report=report, measure=task.measures[metric])
    epochs = search.rungs(config.student.epochs, config.tune.rungs, config.tune.eta)
    going = _first_rung(course, epochs[0], data)
    for rung, until in enumerate(epochs[1:], 1):
        scores = {number: course.last[number].score for number in going}
        going = search.promoted(scores, config.tune.eta, course.measure, always=0)
        course.train(going, rung, until)
    board = _leaderboard(course, len(data.rows("valid").row_id_N), settings)
    data.run.write_sealed(LEADERBOARD, board)
    return board


def _first_rung(course: "_Course", epochs: int, data: Dataset) -> list[int]:
    """Train all combinations for the first rung and return their numbers."""
    config = course.config
    if config.tune.search != "optuna":
        course.every = search.combinations(config.tune, config.student, config.seed, is_regression=data.is_regression)
        course.train(range(len(course.every)), 0, epochs)
        return list(range(len(course.every)))
    space = search.space_of(config.tune, is_regression=data.is_regression)
    tpe = proposals.Tpe(space, config.seed, higher_is_better=course.measure.higher_is_better)
    course.every = [search.untuned(space, config.student)]
    size = -(-config.tune.trials // WAVES) if config.tune.pack_size == "auto" else config.tune.pack_size
    while len(course.every) <= config.tune.trials:
        first = len(course.every)
        course.every += [tpe.ask() for _ in range(min(size, config.tune.trials + 1 - first))]
        course.train(range(0 if first == 1 else first, len(course.every)), 0, epochs)
        for number in range(first, len(course.every)):
            tpe.tell(number - 1, course.last[number].score)
    return list(range(len(course.every)))


@dataclass(kw_only=True)
class _Course:
    """A search under way: what is tried, and each combination's last result."""

    config: Config
    work: Work
    session: Session
    report: Report
    measure: Measure
    every: list[Combination] = field(default_factory=list)
    last: dict[int, Tried] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def train(self, numbers: Iterator[int] | range | list[int], rung: int, epochs: int) -> None:
        """Have the combinations trained that no committed pack of this rung has."""
        wanted = list(numbers)
        found = self._found(rung)
        missing = [number for number in wanted if number not in found]
        if missing:
            self.session.ready()
            gpu = self.session.total("GPU") >= 1
            ask = Ask(cpus=1.0, gpus=1.0 if gpu else 0.0)
            slots = self.session.slots(ask, stage="tune")
            size = None if self.config.tune.pack_size == "auto" else self.config.tune.pack_size
            packs = [
                Pack(combinations={n: self.every[n] for n in pack}, rung=rung, epochs=epochs)
                for pack in search.cut(missing, self.every, max(1, slots), size)
            ]
            run_packs(self.work, packs, ask, Watch(packs, self.report, f"rung {rung + 1}"))
            found = self._found(rung)
        for number in wanted:
            if number not in found:
                raise ManifestError(f"{self.work.run}/tune: combination {number} was trained and is not there")
            self.last[number] = found[number]
            self.seconds[number] = self.seconds.get(number, 0.0) + found[number].seconds

    def _found(self, rung: int) -> dict[int, Tried]:
        return {
            tried.number: tried
            for tried, combination in trials.finished(self.work)
            if tried.rung == rung and tried.number < len(self.every) and self.every[tried.number] == combination
        }


def _leaderboard(course: _Course, rows: int, settings: dict[str, Any]) -> dict[str, Any]:
    work, every = course.work, course.every
    order = search.leaderboard(list(course.last.values()), course.measure)
    best, first = order[0], course.last[0]
    gain = None
    if best.score is not None and first.score is not None:
        row_N = [trials.valid_rows(work, every, one) for one in (best, first)]
        value, low, high = recovery.gain(row_N[0], row_N[1], course.measure)
        gain = {"value": value, "low": low, "high": high}
    entries = [
        {
            **asdict(one),
            "knobs": every[one.number],
            "seconds": course.seconds[one.number],
            "is_untuned": one.number == 0,
        }
        for one in order
    ]
    return {
        "metric": work.metric,
        "split": "valid",
        "rows": rows,
        "soft_targets": settings["soft_targets"],
        "best": entries[0],
        "untuned": next(entry for entry in entries if entry["is_untuned"]),
        "gain": gain,
        "combinations": entries,
    }
