"""A search of 64 combinations: in packs against single Ray Tune trials, and what it gains on the default run."""

import time
from pathlib import Path

from benchmarks.harness import Row, spread
from kd_ray import Config, trials
from kd_ray.pipeline import STAGES, Steps
from kd_ray.progress import Silent
from kd_ray.rundir import RunDir
from kd_ray.scheduling import Ask
from kd_ray.search import combinations
from kd_ray.session import Session
from kd_ray.tune import tune as searched
from kd_ray.tune.on_ray import Watch, run_packs
from kd_ray.wording import estimate, share, span

EPOCHS = 40


def tune(storage: Path, runs: int) -> list[Row]:
    """The default grid on the default table, 40 epochs, one rung; Ray is started and the rows labelled before."""
    config = Config.of(
        {
            "name": "tune",
            "storage": str(storage),
            "data": {"split": {"valid": 0.1}},
            "student": {"epochs": EPOCHS},
            "tune": {"rungs": 1},
        }
    )
    here = RunDir.at(config.storage, config.name)
    every = dict(enumerate(combinations(config.tune, config.student, config.seed, is_regression=False)))
    with here.writing(), Session() as session:
        steps = Steps(config, here, session, Silent())
        for stage in STAGES[:3]:
            steps.do(stage)
        cores = session.slots(Ask(cpus=1.0, gpus=0.0), stage="tune")
        numbers = list(every)
        packed = [numbers[core::cores] for core in range(cores)]
        singles = [[number] for number in numbers]
        ratios, ours, theirs = [], 0.0, 0.0
        for turn in range(runs):
            ours = _seconds(config, here, every, packed, f"packed {turn}", at_once=cores)
            theirs = _seconds(config, here, every, singles, f"single {turn}", at_once=1)
            ratios.append(theirs / ours)
    return [
        Row(
            what=f"a search of {len(every)} combinations, {EPOCHS} epochs each, one model each",
            ours=f"{len(packed)} packs, {ours:.0f} s",
            against=f"{len(every)} single Ray Tune trials one after another, {theirs:.0f} s",
            found=spread(ratios, " times faster", 1),
            must=">= 8 times",
            aim="20 times",
        ),
        _gained(storage),
    ]


def _gained(storage: Path) -> Row:
    """What the default search gives the default run, on the half of the validation rows that did not choose."""
    board = searched(Config.of({"name": "gained", "storage": str(storage), "data": {"split": {"valid": 0.1}}}))
    best, untuned, gain = (board["judged"][name] for name in ("best", "untuned", "gain"))
    found = f"{'better' if gain['low'] > 0 else 'not shown to be better'}: {span(gain, share)}"
    if board["best"]["is_untuned"]:
        found = "the recipe as configured was chosen"
    return Row(
        what=f"validation NLL of the best of {len(board['combinations'])} combinations, default run, "
        f"{board['rows']['judging']} rows that did not choose",
        ours=estimate(best, share),
        against=f"as configured, {estimate(untuned, share)}",
        found=found,
        must="better, or said not to be",
    )


def _seconds(
    config: Config, here: RunDir, every: dict[int, dict], groups: list[list[int]], name: str, *, at_once: int
) -> float:
    """Train the groups, each as one trial, `at_once` of them side by side."""
    work = trials.Work(run=here, seed=config.seed, student=config.student, metric="nll", fingerprint=name)
    packs = [
        trials.Pack(combinations={number: every[number] for number in group}, rung=0, epochs=EPOCHS) for group in groups
    ]
    begun = time.perf_counter()
    watch = Watch(packs, lambda done, total, note: None, name)
    run_packs(work, packs, Ask(cpus=1.0, gpus=0.0), watch, at_once=at_once)
    return time.perf_counter() - begun
