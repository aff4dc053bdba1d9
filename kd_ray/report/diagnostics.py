"""What models say of the test rows: how sure they are, what they confuse, how far they miss, where two differ.

Axes: N test rows, C classes, B bins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from kd_ray.report.sources import Answers, Sources
from kd_ray.report.svg import COLOURS, draw, log_axis
from kd_ray.wording import quantity

BINS = 15
SHOWN_CLASSES = 20
PAIRS = 20
ROWS = 10
SCATTERED = 800
HEXAGONS = 26


@dataclass(frozen=True)
class Cell:
    """`share` of the rows of its class, 0 to 1."""

    rows: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """What one model takes classes for: all cells, row by row, or the pairs most often confused."""

    role: str
    cells: list[list[Cell]]
    pairs: list[tuple[str, str, Cell]]


@dataclass(frozen=True)
class Difference:
    row_id: int
    label: str
    ensemble: str
    student: str
    distance: str


def reliability(role: str, answers: Answers) -> Markup:
    """Accuracy against confidence in bins of equal width, with the rows of each bin below."""
    prob_NC = np.exp(answers.says[role])
    confidence_N, right_N = prob_NC.max(1), prob_NC.argmax(1) == answers.truth_N
    at_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    rows_B = np.bincount(at_N, minlength=BINS)
    seen_B = rows_B > 0
    sure_B, right_B = (
        np.bincount(at_N, weights=of_row, minlength=BINS)[seen_B] / rows_B[seen_B] for of_row in (confidence_N, right_N)
    )

    def paint(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=COLOURS["ink"], linestyle=":", linewidth=1)
        upper.plot(sure_B, right_B, color=COLOURS[role], linewidth=0.9, alpha=0.6)
        area_B = 12 + 110 * np.sqrt(rows_B[seen_B] / rows_B.sum())
        upper.scatter(sure_B, right_B, s=area_B, color=COLOURS[role], linewidths=0, zorder=3, clip_on=False)
        upper.set_ylabel("accuracy")
        upper.set_ylim(-0.03, 1.03)
        lower.bar((np.arange(BINS) + 0.5) / BINS, rows_B, width=0.85 / BINS, color=COLOURS[role], linewidth=0)
        lower.set_ylabel("rows")
        lower.set_yscale("log")
        lower.set_ylim(0.6, 1.6 * rows_B.max())
        log_axis(lower.yaxis, "{:,.0f}".format)
        lower.set_xlabel("confidence")
        lower.set_xlim(0, 1.02)

    return draw(f"reliability-{role}", f"reliability diagram of the {role}", paint, height=3.9)


def confusion(role: str, sources: Sources) -> Confusion:
    """Return all cells, or of more than 20 classes the pairs most often confused."""
    classes, answers = sources.classes, sources.answers
    named_N = answers.says[role].argmax(1)
    count = len(classes)
    rows_CC = np.bincount(answers.truth_N * count + named_N, minlength=count * count).reshape(count, count)
    share_CC = rows_CC / np.maximum(rows_CC.sum(1, keepdims=True), 1)

    def cell(c: int, d: int) -> Cell:
        return Cell(int(rows_CC[c, d]), float(share_CC[c, d]))

    if count <= SHOWN_CLASSES:
        return Confusion(role, [[cell(c, d) for d in range(count)] for c in range(count)], [])
    wrong_CC = rows_CC - np.diag(np.diag(rows_CC))
    worst = np.argsort(-wrong_CC, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(at // count), int(at % count)) for at in worst]
    return Confusion(role, [], [(classes[c], classes[d], cell(c, d)) for c, d in pairs if wrong_CC[c, d]])


def predicted(role: str, answers: Answers) -> Markup:
    """Predictions against the truth: a dot a row, or of many rows hexagons."""
    says_N, truth_N = answers.says[role], answers.truth_N
    every = [truth_N, *answers.says.values()]
    ends = [float(min(of.min() for of in every)), float(max(of.max() for of in every))]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        if len(truth_N) <= SCATTERED:
            axes.scatter(truth_N, says_N, s=14, color=COLOURS[role], alpha=0.6, linewidths=0)
        else:
            hexagons = axes.hexbin(truth_N, says_N, gridsize=HEXAGONS, mincnt=1, linewidths=0)
            shade = hexagons.get_array() / hexagons.get_array().max()
            hexagons.set_array(None)
            hexagons.set_facecolors([(*_rgb(COLOURS[role]), 0.12 + 0.88 * one**0.5) for one in shade])
        axes.plot(ends, ends, color=COLOURS["ink"], linestyle=":", linewidth=1)
        axes.set_xlabel("actual")
        axes.set_ylabel("predicted")
        margin = 0.04 * (ends[1] - ends[0]) or 1.0
        axes.set_xlim(ends[0] - margin, ends[1] + margin)
        axes.set_ylim(ends[0] - margin, ends[1] + margin)

    return draw(f"predicted-{role}", f"predictions of the {role} against the truth", paint, height=3.6)


def residuals(role: str, answers: Answers) -> Markup:
    """How many rows are missed by how much."""
    error_N = answers.says[role] - answers.truth_N
    widest = max(float(np.abs(of - answers.truth_N).max()) for of in answers.says.values()) or 1.0

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.hist(error_N, bins=30, range=(-widest, widest), color=COLOURS[role], linewidth=0)
        axes.axvline(0, color=COLOURS["ink"], linestyle=":", linewidth=1)
        axes.set_xlabel("predicted − actual")
        axes.set_ylabel("rows")

    return draw(f"residuals-{role}", f"residuals of the {role}", paint, height=2.6)


def differences(sources: Sources) -> list[Difference]:
    """The test rows on which student and ensemble differ most: by total variation, or in the target's units."""
    answers = sources.answers
    ensemble, student = answers.says["ensemble"], answers.says["student"]
    if sources.is_regression:
        distance_N = np.abs(student - ensemble)
    else:
        distance_N = np.abs(np.exp(student) - np.exp(ensemble)).sum(1) / 2
    worst = np.argsort(-distance_N, kind="stable")[:ROWS]
    return [_difference(sources, int(n), float(distance_N[n])) for n in worst]


def _difference(sources: Sources, n: int, distance: float) -> Difference:
    answers = sources.answers
    truth, row_id = answers.truth_N[n], int(answers.row_id_N[n])
    ensemble, student = answers.says["ensemble"][n], answers.says["student"][n]
    if sources.is_regression:
        return Difference(row_id, quantity(truth), quantity(ensemble), quantity(student), quantity(distance))
    first, second = (f"{sources.classes[one.argmax()]} ({np.exp(one.max()):.2f})" for one in (ensemble, student))
    return Difference(row_id, sources.classes[truth], first, second, f"{distance:.2f}")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
