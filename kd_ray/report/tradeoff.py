"""Pictures of what is won: the recovered shares, and each model's score against its size and its latency."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kd_ray.report.figures import duration, size
from kd_ray.report.sources import Sources
from kd_ray.report.svg import COLOURS, draw, log_axis
from kd_ray.wording import LABELS

MARKERS = {"ensemble": "o", "student": "D", "baseline": "s", "augmented_control": "^", "teacher": "o", "variant": "v"}
MEMBERS = 200
SHOWN = (-0.5, 2.5)
"""Recovered shares beyond these are drawn as arrows."""
OF_MODEL = {"ensemble_loop": "ensemble", "ensemble_packed": "ensemble", "student_torch": "student"}


@dataclass(frozen=True)
class Point:
    role: str
    cost: float
    score: float
    name: str = ""


def recovered_shares(sources: Sources) -> Markup | None:
    """Intervals of the recovered shares between the baseline, 0, and the ensemble, 1."""
    roles = {"student": "recovered", "augmented_control": "recovered_by_augmentation"}
    rows = [
        (role, LABELS[metric][0], found)
        for metric in sources.evaluation["recovered"]
        for role, key in roles.items()
        if (found := (sources.evaluation.get(key) or {}).get(metric)) and found["value"] is not None
    ]
    if not rows:
        return None

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        low, high = SHOWN
        for y, (role, _, found) in enumerate(reversed(rows)):
            left, right = max(found["low"], low), min(found["high"], high)
            axes.plot([left, right], [y, y], color=COLOURS[role], linewidth=3, alpha=0.45, solid_capstyle="butt")
            for marker, beyond, x in (("<", found["low"] < low, low), (">", found["high"] > high, high)):
                if beyond:
                    axes.plot([x], [y], marker, color=COLOURS[role], markersize=6, clip_on=False)
            if low <= found["value"] <= high:
                axes.plot([found["value"]], [y], MARKERS[role], color=COLOURS[role], markersize=8)
        for x, role in ((0, "baseline"), (1, "ensemble")):
            axes.axvline(x, color=COLOURS[role], linestyle="--", linewidth=1.2)
            axes.text(x, 1.02, role, color=COLOURS[role], ha="center", transform=axes.get_xaxis_transform())
        seen = [found[key] for _, _, found in rows for key in ("low", "high")]
        axes.set_xlim(max(low, min(-0.1, *seen)) - 0.05, min(high, max(1.1, *seen)) + 0.05)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), [label for _, label, _ in reversed(rows)])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of the ensemble's edge")

    return draw("recovered", "recovered shares with 95 % intervals", paint, height=1.2 + 0.35 * len(rows))


def against_size(sources: Sources) -> Markup | None:
    """Score against bytes."""
    metric, evaluation = sources.metric, sources.evaluation
    scores, sizes = evaluation["metrics"], evaluation["bytes"]
    points = [
        Point("teacher", sum(record.bytes for record in manifest.files), teacher[metric])
        for manifest, teacher in list(zip(sources.teachers, evaluation["teachers"], strict=True))[:MEMBERS]
    ]
    points.append(Point("ensemble", sizes["ensemble"], scores["ensemble"][metric]))
    points += [
        Point(role, sizes["student"], scores[role][metric])
        for role in ("baseline", "augmented_control", "student")
        if role in scores
    ]
    points += [
        Point("variant", variant["bytes"], variant["metrics"][metric], _named(variant))
        for variant in sources.variants
        if variant["metrics"].get(metric) is not None
    ]
    return _scatter("size", points, metric, "bytes, fewer is better", size)


def _named(variant: dict[str, Any]) -> str:
    return "" if variant["name"] == "student" else str(variant["name"])


def against_latency(sources: Sources) -> Markup | None:
    """Score against the median seconds of one row on one thread."""
    if sources.latency is None:
        return None
    metric, scores = sources.metric, sources.evaluation["metrics"]
    of_variant = {variant["name"]: variant["metrics"] for variant in sources.variants}
    points = []
    for name, model in sources.latency["models"].items():
        seconds = model["threads"].get("1", {}).get("1", {}).get("p50")
        role = OF_MODEL.get(name, "student" if name == "student" else "variant")
        found = of_variant.get(name) or scores.get(role) or {}
        if seconds and found.get(metric) is not None:
            points.append(Point(role, seconds, found[metric], name.replace("_", " ")))
    return _scatter("latency", points, metric, "median time of one row, one thread", duration)


def _scatter(name: str, points: list[Point], metric: str, costs: str, say: Any) -> Markup | None:
    points = [point for point in points if point.cost > 0]
    if not points:
        return None
    label, named = LABELS[metric][0], [point for point in points if point.name]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        above = {
            point: i % 2 == 0 for i, point in enumerate(sorted(named, key=lambda point: (point.score, point.cost)))
        }
        for point in points:
            marked = {"marker": MARKERS[point.role], "color": COLOURS[point.role], "linewidths": 0}
            axes.scatter([point.cost], [point.score], s=20 if point.role == "teacher" else 55, **marked)
            if point.name:
                place = {
                    "xytext": (0, 7 if above[point] else -16),
                    "textcoords": "offset points",
                    "ha": "center",
                    "fontsize": 9,
                }
                axes.annotate(point.name, (point.cost, point.score), color=COLOURS[point.role], **place)
        axes.margins(x=0.2, y=0.2)
        log_axis(axes.xaxis, say)
        axes.set_xlabel(costs)
        axes.set_ylabel(label)

    return draw(f"against-{name}", f"{label} of each model against {costs}", paint)
