"""What a search tries, which combinations share a pack, and who goes on: pure decisions, no Ray.

A combination is a mapping of the searched knobs, dotted, to values. The recipe as it is configured is always the first
of them, so that a search says what it gains.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_ray import knobs
from kd_ray.config import Config
from kd_ray.errors import ConfigError
from kd_ray.recovery import Measure
from kd_ray.scheduling import packs

FOLDER = "tune"
LEADERBOARD = f"{FOLDER}/leaderboard.json"
SEARCH_STREAM = 5  # first word of the seed that random combinations are drawn by
WHOLE = ("student.batch_size",)
TEMPERATURE = "student.temperature"
HIDDEN = "student.model.hidden"
Combination = dict[str, Any]


def student_of(student: knobs.Student, combination: Combination) -> knobs.Student:
    """Return the student's section with a combination's values. Raises ConfigError where they do not fit it."""
    values = student.model_dump()
    for name, value in combination.items():
        *parents, leaf = name.split(".")[1:]
        node = values
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    try:
        return knobs.Student.model_validate(values)
    except ValueError:
        raise ConfigError(
            f"tune.space: student.model.hidden: must have as many layers as student.model.dropout, "
            f"{len(student.model.dropout)}; got {combination.get('student.model.hidden')}"
        ) from None


def untuned(space: dict[str, Any], student: knobs.Student) -> Combination:
    """Return the values that the searched knobs have as configured."""
    found: Combination = {}
    for name in space:
        value: Any = student
        for key in name.split(".")[1:]:
            value = getattr(value, key)
        found[name] = value
    return found


def space_of(tune: knobs.Tune, *, is_regression: bool) -> dict[str, Any]:
    """Return what is searched; a regression has no temperature to vary. Raises ConfigError where nothing is left."""
    left = {name: values for name, values in tune.space.items() if not (is_regression and name == TEMPERATURE)}
    if not left:
        raise ConfigError("tune.space: a regression has no temperature: name another knob to vary")
    return left


def check(config: Config) -> None:
    """Raise ConfigError where the space cannot be searched with this student, or nothing can be chosen by."""
    if not config.data.split.valid and config.data.columns.split is None:
        raise ConfigError("tune: chooses by the validation rows and there are none; set data.split.valid, such as 0.1")
    for name, values in config.tune.space.items():
        for value in values if isinstance(values, list) else []:
            student_of(config.student, {name: value})
    space_of(config.tune, is_regression=config.data.task == "regression")


def combinations(tune: knobs.Tune, student: knobs.Student, seed: int, *, is_regression: bool) -> list[Combination]:
    """Return what a grid or random search tries, the untuned recipe first, each combination once."""
    space = space_of(tune, is_regression=is_regression)
    first = untuned(space, student)
    if tune.search == "grid":
        return distinct(
            [first, *(dict(zip(space, values, strict=True)) for values in itertools.product(*space.values()))]
        )
    rng = np.random.default_rng((seed, SEARCH_STREAM))
    return distinct([first, *({name: _drawn(rng, name, space[name]) for name in space} for _ in range(tune.trials))])


def distinct(found: list[Combination]) -> list[Combination]:
    """Return each combination once, in order of first appearance."""
    first: dict[str, Combination] = {}
    for one in found:
        first.setdefault(repr(_plain(one)), one)
    return list(first.values())


def _plain(combination: Combination) -> Combination:
    return {name: float(v) if isinstance(v, int | float) else v for name, v in combination.items()}


def _drawn(rng: np.random.Generator, name: str, values: Any) -> Any:
    """Draw from a list, or from a range evenly or evenly in the logarithm, to six digits."""
    if isinstance(values, list):
        return values[int(rng.integers(len(values)))]
    low, high = values["low"], values["high"]
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if values.get("log") else rng.uniform(low, high)
    return rounded(name, min(max(drawn, low), high))


def rounded(name: str, value: float) -> float | int:
    return round(value) if name in WHOLE else float(f"{value:.6g}")


def cut(numbers: Sequence[int], every: Sequence[Combination], slots: int, pack_size: int | None) -> list[list[int]]:
    """Cut combinations into packs: those of one architecture and batch size, of like temperatures side by side.

    A pack holds the soft targets once for each of its temperatures.
    """
    alike: dict[str, list[int]] = {}
    for number in numbers:
        shape = [every[number].get(name) for name in ("student.model.hidden", "student.batch_size")]
        alike.setdefault(repr(shape), []).append(number)
    share = max(1, round(slots / max(1, len(alike))))
    by_temperature = [sorted(group, key=lambda n: (every[n].get(TEMPERATURE, 0), n)) for group in alike.values()]
    return [pack for group in by_temperature for pack in packs(group, share, pack_size)]


def halves(label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the validation rows that choose, and of those that judge what was chosen.

    Rows take turns in order of their labels, so that both halves have a class, or a range of targets, alike.
    """
    order_N = np.argsort(label_N, kind="stable")
    return np.sort(order_N[::2]), np.sort(order_N[1::2])


def rungs(epochs: int, count: int, eta: int) -> list[int]:
    """Return the epochs at which each rung ends: the last is `epochs`, each before it an eta-th; none comes twice."""
    return sorted({max(1, math.ceil(epochs / eta**before)) for before in range(count)})


def promoted(scores: dict[int, float | None], eta: int, measure: Measure, always: int) -> list[int]:
    """Return who goes on: the best of each `eta`, at least one, and `always`. Who has no score does not."""
    best = ranked(scores, measure)[: max(1, math.ceil(len(scores) / eta))]
    return sorted({*best, always})


def ranked(scores: dict[int, float | None], measure: Measure) -> list[int]:
    """Return those with a score, best first; of equal ones the first comes first."""
    sign = -1.0 if measure.higher_is_better else 1.0
    there = {number: sign * score for number, score in scores.items() if score is not None}
    return sorted(there, key=lambda number: (there[number], number))


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A combination's last result: the rung it came to, its score on validation rows (None: diverged), its seconds."""

    number: int
    rung: int
    epochs: int
    score: float | None
    loss: float | None
    seconds: float
    pack: str


def leaderboard(tried: Sequence[Tried], measure: Measure) -> list[Tried]:
    """Return all combinations, those that came furthest first, best first among them, diverged ones last."""
    place = {number: i for i, number in enumerate(ranked({one.number: one.score for one in tried}, measure))}
    return sorted(tried, key=lambda one: (-one.rung, place.get(one.number, len(place)), one.number))


def differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Return a line for each setting that is another now."""
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key, "nothing"), now.get(key, "nothing")
        here = f"{path}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{here}: " if key == "space" else f"{here}.")
        elif old != new:
            found.append(f"{here} was {old}, is {new}")
    return found
