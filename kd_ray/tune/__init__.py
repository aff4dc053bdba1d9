"""A search over the student's knobs on the soft targets that are there: nothing is labelled again.

Ray Tune runs packs of combinations, one a trial; a pack commits what it found to the run directory, and that alone is
read back, so that a search that was killed goes on where it stopped. One half of the validation rows chooses, the other
judges what was chosen: nothing that led to it has seen them. Neither training nor choice reads a test row.

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
from kd_ray.gauges import Gauges
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
from kd_ray.tune import limits
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
    with (
        here.writing(progress.note) as here,
        Session(address, run=here) as session,
        Gauges(progress, session, here) as seen,
    ):
        settings = _settings(config)
        _check_same_search(here, settings)
        steps = _soft_targets(config, here, session, seen)
        data = Dataset.open(here)
        if (found := len(data.rows("valid").label_N)) < 2:
            raise ConfigError(
                f"tune: one half of the validation rows chooses and the other judges; the table has {found} of them: "
                "set data.split.valid"
            )
        before = here.read_json(LEADERBOARD) if here.exists(LEADERBOARD) else None
        with seen.stage("tune") as tell:
            tell(0, 1, "sizes and latencies")
            narrowed, measured = limits.within(config, data, settings["soft_targets"])
            here.write_sealed(SETTINGS, settings)
            board = _search(narrowed, data, session, tell, settings, measured)
        if board != before and steps.finished(STAGES[-1]):
            steps.again(STAGES[-1])  # a page from before says nothing of the search
        return board


def _soft_targets(config: Config, here: RunDir, session: Session, progress: Progress) -> Steps:
    steps = Steps(config, here, session, progress)
    before = STAGES[:3]
    if not all(steps.finished(stage) for stage in before) or not here.exists(CONFIG):
        write_config(here, config)
    for stage in before:
        steps.do(stage)
    return steps


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
    config: Config,
    data: Dataset,
    session: Session,
    tell: Report,
    settings: dict[str, Any],
    measured: list[dict[str, Any]],
) -> dict[str, Any]:
    task = task_of(data.schema)
    metric = trials.metric_of(task, config.tune.objective)
    work = Work(
        run=data.run,
        seed=config.seed,
        student=config.student,
        metric=metric,
        fingerprint=fingerprint("tune by halves", settings),
    )
    course = _Course(config=config, work=work, session=session, tell=tell, measure=task.measures[metric])
    epochs = search.rungs(config.student.epochs, config.tune.rungs, config.tune.eta)
    going = _first_rung(course, epochs[0], data)
    for rung, until in enumerate(epochs[1:], 1):
        scores = {number: course.last[number].score for number in going}
        going = search.promoted(scores, config.tune.eta, course.measure, always=0)
        course.train(going, rung, until)
    data.run.remove(trials.CHECKPOINTS)
    board = _leaderboard(course, settings, measured)
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
    tell: Report
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
            run_packs(self.work, packs, ask, Watch(packs, self.tell, f"rung {rung + 1}"))
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


def _leaderboard(course: _Course, settings: dict[str, Any], measured: list[dict[str, Any]]) -> dict[str, Any]:
    work, every = course.work, course.every
    order = search.leaderboard(list(course.last.values()), course.measure)
    if measured and not measured[0]["is_within"]:  # the recipe as configured may be compared with, not chosen
        order = [*(one for one in order if one.number), course.last[0]]
    choosing, judging = search.halves(Dataset.open(work.run).rows("valid").label_N)
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
        "rows": {"choosing": len(choosing), "judging": len(judging)},
        "soft_targets": settings["soft_targets"],
        "measured": measured,
        "best": entries[0],
        "untuned": next(entry for entry in entries if entry["is_untuned"]),
        "judged": _judged(course, order[0]),
        "combinations": entries,
    }


def _judged(course: _Course, best: Tried) -> dict[str, Any]:
    """The best and the recipe as configured on the rows that had no part in the choice; None where one diverged."""
    best_N, untuned_N = (trials.judged(course.work, course.every, one) for one in (best, course.last[0]))
    if best_N is None:
        return {"best": None, "untuned": None, "gain": None}
    found = recovery.compared(best_N, best_N if untuned_N is None else untuned_N, course.measure)
    said = [dict(zip(("value", "low", "high"), interval, strict=True)) for interval in found]
    named = dict(zip(("best", "untuned", "gain"), said, strict=True))
    return named if untuned_N is not None else {**named, "untuned": None, "gain": None}
