"""The table at the end of a run."""

from typing import Any

from rich.console import Console
from rich.table import Table

from kd_ray.pipeline import Result


def show(result: Result, console: Console) -> None:
    """Print what each model scored, what was recovered, how long it took and where the files are."""
    evaluation = result.evaluation
    table = Table(title=f"{evaluation['rows']['test']:,} test rows", title_justify="left")
    table.add_column("model")
    for heading in ("parameters", "accuracy", "NLL"):
        table.add_column(heading, justify="right")
    for label, size, scores in _models(result):
        figures = (f"{size:,}", f"{scores['accuracy']:.4f}", f"{scores['nll']:.4f}")
        table.add_row(label, *figures, style="bold" if label == "student" else None)
    console.print(table)
    compression = evaluation["parameters"]["compression"]
    console.print(f"The student is {compression:.0f} times smaller than the ensemble.", highlight=False)
    for metric, label in (("accuracy", "accuracy"), ("nll", "NLL")):
        console.print(f"recovered, {label}: {recovered(evaluation['recovered'][metric])}", highlight=False)
    spent = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in result.seconds.items())
    console.print(f"seconds: {spent}", highlight=False)
    console.print(f"files: {result.path}", highlight=False, soft_wrap=True)


def _models(result: Result) -> list[tuple[str, int, dict[str, float]]]:
    """Each row of the table: a label, parameters, scores. What has several seeds shows their mean as well."""
    evaluation, config = result.evaluation, result.config
    scores, sizes = evaluation["metrics"], evaluation["parameters"]
    rows = [
        (f"ensemble of {config.teachers.count}", sizes["ensemble"], scores["ensemble"]),
        ("mean teacher", sizes["teacher"], scores["teacher_mean"]),
        ("student", sizes["student"], scores["student"]),
    ]
    seeds = config.student.replicas
    for role in ("student", "augmented_control", "baseline"):
        if role in scores and (seeds > 1 or role != "student"):
            label = role.replace("_", " ") + (f", mean of {seeds}" if seeds > 1 else "")
            rows.append((label, sizes["student"], evaluation["replica_means"][role]))
    return rows


def recovered(found: dict[str, Any]) -> str:
    """Say a recovered share with its interval, or that there is no edge to recover."""
    if found["value"] is not None:
        return f"{found['value']:.2f} of the ensemble's edge (95 % interval {found['low']:.2f} to {found['high']:.2f})"
    edge, gain = found["edge"], found["gain"]
    return f"no edge to recover: the ensemble leads the baseline by {_span(edge)}, the student by {_span(gain)}"


def _span(interval: dict[str, float]) -> str:
    return f"{interval['value']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f})"
