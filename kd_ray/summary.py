"""The table at the end of a run."""

import math
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from kd_ray.pipeline import Result

UNEVEN = 1.5
Say = Callable[[float | None], str]


def share(value: float | None) -> str:
    """Four decimals, as suits a metric near 1."""
    return "-" if value is None else f"{value:.4f}"


def quantity(value: float | None) -> str:
    """Four digits of a number in the target's own units."""
    if value is None:
        return "-"
    decimals = 3 - math.floor(math.log10(abs(value))) if value else 3
    return f"{value:,.{min(max(decimals, 0), 12)}f}"


LABELS: dict[str, tuple[str, Say]] = {
    "accuracy": ("accuracy", share),
    "balanced_accuracy": ("balanced accuracy", share),
    "nll": ("NLL", share),
    "rmse": ("RMSE", quantity),
    "r2": ("R²", share),
}


def show(result: Result, console: Console) -> None:
    """Print what each model scored, what was recovered, how long it took and where the files are."""
    evaluation = result.evaluation
    metrics = _metrics(evaluation)
    table = Table(title=f"{evaluation['rows']['test']:,} test rows", title_justify="left")
    table.add_column("model")
    for heading in ("parameters", *(LABELS[metric][0] for metric in metrics)):
        table.add_column(heading, justify="right")
    for label, size, scores in _models(result):
        figures = ("" if size is None else f"{size:,.0f}", *(LABELS[metric][1](scores[metric]) for metric in metrics))
        table.add_row(label, *figures, style="bold" if label == "student" else None)
    console.print(table)
    console.print(_how_much_smaller(evaluation), highlight=False)
    for metric, found in evaluation["recovered"].items():
        label, say = LABELS[metric]
        console.print(f"recovered, {label}: {recovered(found, say)}", highlight=False)
    spent = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in result.seconds.items())
    console.print(f"seconds: {spent}", highlight=False)
    console.print(f"files: {result.path}", highlight=False, soft_wrap=True)


def _how_much_smaller(evaluation: dict[str, Any]) -> str:
    """By parameters, or by bytes where a teacher has none to count."""
    compression, sizes = evaluation["parameters"]["compression"], evaluation["bytes"]
    if compression is not None:
        return f"The student is {compression:.0f} times smaller than the ensemble."
    if not sizes["ensemble"]:
        return f"The student has {sizes['student']:,} bytes."
    times = sizes["ensemble"] / sizes["student"]
    return f"The student's {sizes['student']:,} bytes are {times:.0f} times less than the ensemble's."


def _metrics(evaluation: dict[str, Any]) -> list[str]:
    """The table's metrics; accuracy alone would flatter a model where one class has most rows."""
    if "rmse" in evaluation["metrics"]["ensemble"]:
        return ["rmse", "r2"]
    rows = evaluation["class_rows"]
    uneven = max(rows) > UNEVEN * sum(rows) / len(rows)
    return ["accuracy", "balanced_accuracy", "nll"] if uneven else ["accuracy", "nll"]


def _models(result: Result) -> list[tuple[str, float | None, dict[str, float]]]:
    """Each row of the table: a label, parameters, scores. What has several seeds shows their mean as well."""
    evaluation, config = result.evaluation, result.config
    scores, sizes = evaluation["metrics"], evaluation["parameters"]
    rows = [
        (f"ensemble of {len(evaluation['teachers'])}", sizes["ensemble"], scores["ensemble"]),
        ("mean teacher", sizes["teacher"], scores["teacher_mean"]),
        ("student", sizes["student"], scores["student"]),
    ]
    seeds = config.student.replicas
    for role in ("student", "augmented_control", "baseline"):
        if role in scores and (seeds > 1 or role != "student"):
            label = role.replace("_", " ") + (f", mean of {seeds}" if seeds > 1 else "")
            rows.append((label, sizes["student"], evaluation["replica_means"][role]))
    return rows


def recovered(found: dict[str, Any], say: Say = share) -> str:
    """Say a recovered share with its interval, or that there is no edge to recover."""
    if found["value"] is not None:
        return f"{found['value']:.2f} of the ensemble's edge (95 % interval {found['low']:.2f} to {found['high']:.2f})"
    edge, gain = (_span(found[key], say) for key in ("edge", "gain"))
    return f"no edge to recover: the ensemble leads the baseline by {edge}, the student by {gain}"


def _span(interval: dict[str, float], say: Say) -> str:
    def signed(value: float) -> str:
        return ("-" if value < 0 else "+") + say(abs(value))

    return f"{signed(interval['value'])} ({signed(interval['low'])} to {signed(interval['high'])})"
