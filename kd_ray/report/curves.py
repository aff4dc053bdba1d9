"""Pictures of training: losses by epoch, and each teacher's score.

Axes: E epochs, R replicas, M teachers.
"""

from typing import Any

import numpy as np
from markupsafe import Markup

from kd_ray.report.sources import Sources
from kd_ray.report.svg import COLOURS, draw, log_axis
from kd_ray.series import History, evenly
from kd_ray.wording import LABELS

POINTS = 120
LINES = 40
DOTS = 400
WIDE = 10.0
"""Losses whose largest is this many times their smallest are shown on a logarithmic axis."""


def learning_curves(sources: Sources) -> list[tuple[str, Markup]]:
    """Return (caption, picture) of the teachers, the student, what it is compared with, and validation."""
    summaries = [manifest.summary for manifest in sources.teachers]
    losses = [summary["metrics"]["loss"] for summary in summaries if _has_loss(summary)]
    found = []
    if losses:
        shown = [losses[i] for i in evenly(len(losses), LINES)]
        some = f"{len(shown)} of {len(losses)}" if len(shown) < len(losses) else f"all {len(losses)}"
        found.append((f"Teachers: loss of {some}", draw("loss-teachers", "losses of teachers", _thin(shown))))
    every = sources.histories
    groups = {
        "student": ("Student: loss against the ensemble's soft targets", ["student"]),
        "controls": ("Baseline and augmented control: loss against labels", ["baseline", "augmented_control"]),
    }
    for name, (caption, roles) in groups.items():
        curves = {role: every[role].loss_ER for role in roles if role in every}
        if curves:
            found.append((caption, draw(f"loss-{name}", caption, _bands(curves, "loss"))))
    valid = {role: history.valid_ER for role, history in every.items() if _was_validated(history)}
    if valid:
        label = LABELS["rmse" if sources.is_regression else "nll"][0]
        found.append((f"Validation rows: {label}", draw("valid", f"validation {label}", _bands(valid, label))))
    return found


def teacher_scores(sources: Sources) -> Markup:
    """Each teacher's score, and lines where the ensemble and the student stand."""
    metric, evaluation = sources.metric, sources.evaluation
    scores = [teacher[metric] for teacher in evaluation["teachers"]]
    at = evenly(len(scores), DOTS)
    label = LABELS[metric][0]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.scatter(at, [scores[i] for i in at], s=28, color=COLOURS["teacher"], linewidths=0)
        for role, style in (("ensemble", "-"), ("student", "--"), ("baseline", ":")):
            axes.axhline(evaluation["metrics"][role][metric], color=COLOURS[role], linestyle=style)
        axes.set_xlabel("teacher")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return draw("teacher-scores", f"{label} of each teacher, the ensemble, the student and the baseline", paint)


def _has_loss(summary: dict[str, Any]) -> bool:
    """Whether its loss was kept: members that were trained elsewhere have none, nor have estimators."""
    return len(summary.get("metrics", {}).get("loss") or []) > 1


def _was_validated(history: History) -> bool:
    return bool(np.isfinite(history.valid_ER).any())


def _thin(losses: list[list[float]]) -> Any:
    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for loss in losses:
            at = evenly(len(loss), POINTS)
            axes.plot([i + 1 for i in at], [loss[i] for i in at], color=COLOURS["teacher"], linewidth=0.7, alpha=0.7)
        _finish(axes, np.concatenate([np.asarray(loss) for loss in losses]), "loss")

    return paint


def _bands(curves: dict[str, np.ndarray], label: str) -> Any:
    styles = {"student": "-", "baseline": "-", "augmented_control": "--"}

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for role, value_ER in curves.items():
            at = evenly(len(value_ER), POINTS)
            epochs, value_ER = [i + 1 for i in at], value_ER[at]
            axes.fill_between(epochs, value_ER.min(1), value_ER.max(1), color=COLOURS[role], alpha=0.25, linewidth=0)
            axes.plot(epochs, value_ER.mean(1), color=COLOURS[role], linestyle=styles[role])
        _finish(axes, np.concatenate([value_ER.ravel() for value_ER in curves.values()]), label)

    return paint


def _finish(axes: Any, values: np.ndarray, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    seen = values[np.isfinite(values)]
    if len(seen) and seen.min() > 0 and seen.max() > WIDE * seen.min():
        axes.set_yscale("log")
        log_axis(axes.yaxis, "{:g}".format)
