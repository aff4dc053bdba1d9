"""What a search found: the best against the recipe as configured, and a heat map of two of its knobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_ray.report.figures import Figure, Figures, count, duration, signed
from kd_ray.report.sources import Sources
from kd_ray.wording import LABELS, beyond_limits, brief

MAPPED = ("student.temperature", "student.alpha")
MOST_VALUES, BINS = 10, 6
TOP = 10
SHADES = (8, 70)
"""Percent of colour that the worst and the best cell have."""


@dataclass(frozen=True)
class Axis:
    """One side of the map; `place` is where each combination stands on it."""

    name: str
    labels: list[str]
    place: list[int]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The best score of its combinations; `shade` is None where none of them was trained to the end."""

    figure: Figure
    shade: int | None
    is_best: bool
    is_untuned: bool


@dataclass(frozen=True)
class HeatMap:
    down: Axis
    across: Axis
    cells: list[list[Cell | None]]

    @property
    def has_stopped(self) -> bool:
        return any(cell is not None and cell.shade is None for row in self.cells for cell in row)


@dataclass(frozen=True)
class Entry:
    knobs: list[str]
    epochs: Figure
    score: Figure
    seconds: Figure
    note: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """`judged` are the recipe as configured, the best and its gain, each with its interval, where none diverged."""

    label: str
    combinations: int
    choosing: Figure
    judging: Figure
    verdict: str
    beyond_limits: str
    judged: list[tuple[str, list[Figure]]]
    heat: HeatMap | None
    knobs: list[str]
    top: list[Entry]
    is_students: bool


def found(sources: Sources, figures: Figures) -> Search | None:
    """Return what the run's search found; None where there was none, or it was of other soft targets."""
    board = sources.search
    if board is None:
        return None
    label, say = LABELS[board["metric"]]
    lines = (
        (f"{label} as configured", "untuned", say),
        (f"{label} of the best", "best", say),
        ("better by", "gain", signed(say)),
    )
    entries = board["combinations"]
    shown = list(enumerate(entries))[:TOP]
    if not any(entry["is_untuned"] for _, entry in shown):
        shown += [(i, entry) for i, entry in enumerate(entries) if entry["is_untuned"]]
    return Search(
        label=label,
        combinations=len(entries),
        choosing=figures("search.rows.choosing", count),
        judging=figures("search.rows.judging", count),
        verdict=verdict(board),
        beyond_limits=beyond_limits(board["measured"]),
        judged=[
            (name, [figures(f"search.judged.{key}.{end}", how) for end in ("value", "low", "high")])
            for name, key, how in lines
            if board["judged"][key] is not None
        ],
        heat=heat_map(board, figures, say),
        knobs=[_named(knob) for knob in board["best"]["knobs"]],
        top=[_entry(i, entry, figures, say) for i, entry in shown],
        is_students=all(_of(sources.config, name) == value for name, value in board["best"]["knobs"].items()),
    )


def verdict(board: dict[str, Any]) -> str:
    gain = board["judged"]["gain"]
    if board["judged"]["best"] is None:
        return "All combinations diverged."
    if board["best"]["is_untuned"]:
        return "No combination was chosen before the recipe as configured."
    if gain is None:
        return "The recipe as configured diverged."
    if gain["low"] > 0:
        return "The search found a better recipe."
    return "The best of the search is not clearly better than the recipe as configured."


def heat_map(board: dict[str, Any], figures: Figures, say: Any) -> HeatMap | None:
    """Return the best score for each pair of values of two knobs; None where fewer than two were varied."""
    entries = board["combinations"]
    values = {name: [entry["knobs"][name] for entry in entries] for name in board["best"]["knobs"]}
    varied = [name for name, of_knob in values.items() if len(set(map(repr, of_knob))) > 1]
    chosen = MAPPED if set(MAPPED) <= set(varied) else varied[:2]
    if len(chosen) < 2:
        return None
    down, across = (axis(_named(name), values[name]) for name in chosen)
    first: dict[tuple[int, int], int] = {}
    for i, entry in enumerate(entries):  # the furthest come first, and of these the best
        if entry["score"] is not None:
            first.setdefault((down.place[i], across.place[i]), i)
    untuned = entries.index(board["untuned"])
    shades = _shades([entries[i]["score"] for i in first.values() if entries[i]["rung"] == entries[0]["rung"]])

    def cell(at: tuple[int, int]) -> Cell | None:
        i = first.get(at)
        if i is None:
            return None
        ended = entries[i]["rung"] == entries[0]["rung"]
        return Cell(
            figure=figures(f"search.combinations.{i}.score", say),
            shade=shades(entries[i]["score"]) if ended else None,
            is_best=i == 0,
            is_untuned=at == (down.place[untuned], across.place[untuned]),
        )

    cells = [[cell((y, x)) for x in range(len(across.labels))] for y in range(len(down.labels))]
    return HeatMap(down, across, cells)


def axis(name: str, values: Sequence[Any]) -> Axis:
    """Return a place for each value, or for ranges of equally many where numbers are more than ten."""
    distinct = {repr(value): value for value in values}
    numbers = all(isinstance(value, int | float) for value in values)
    if numbers and len(distinct) > MOST_VALUES:
        inner = np.quantile(values, np.linspace(0, 1, BINS + 1))[1:-1]
        at = np.searchsorted(inner, values, side="right")
        held = [[value for value, place in zip(values, at, strict=True) if place == b] for b in np.unique(at)]
        labels = [f"{min(some):.2g}–{max(some):.2g}" for some in held]
        return Axis(name, labels, np.unique(at, return_inverse=True)[1].tolist())
    ordered = sorted(distinct.values()) if numbers else list(distinct.values())
    return Axis(name, [brief(value) for value in ordered], [ordered.index(value) for value in values])


def _shades(scores: list[float]) -> Any:
    """Return what shades a score by how near it is to the best, the first of them."""
    best = scores[0] if scores else 0.0
    worst = max(scores, key=lambda score: abs(score - best), default=0.0)
    low, high = SHADES
    return lambda score: high if worst == best else round(low + (high - low) * (score - worst) / (best - worst))


def _entry(i: int, entry: dict[str, Any], figures: Figures, say: Any) -> Entry:
    key = f"search.combinations.{i}"
    note = "best" if i == 0 else "as configured" if entry["is_untuned"] else ""
    knobs = [brief(value) for value in entry["knobs"].values()]
    epochs, seconds = figures(f"{key}.epochs", count), figures(f"{key}.seconds", duration)
    return Entry(knobs, epochs, figures(f"{key}.score", say), seconds, note)


def _named(knob: str) -> str:
    return knob.removeprefix("student.").replace("model.hidden", "hidden layers").replace("_", " ")


def _of(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = getattr(config, key)
    return config
