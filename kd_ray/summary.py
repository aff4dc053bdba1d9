"""The table at the end of a run."""

from typing import Any

from rich.console import Console
from rich.table import Table

from kd_ray.pipeline import Part, Result
from kd_ray.wording import LABELS, left_out, main_metrics, recovered, span


def show(result: Result, console: Console) -> None:
    """Print what each model scored, what was recovered, how long it took and where the files are."""
    evaluation = result.evaluation
    metrics = main_metrics(evaluation)
    table = Table(title=f"{evaluation['rows']['test']:,} test rows", title_justify="left")
    table.add_column("model")
    for heading in ("parameters", *(LABELS[metric][0] for metric in metrics)):
        table.add_column(heading, justify="right")
    for label, size, scores in _models(result):
        figures = ("" if size is None else f"{size:,.0f}", *(LABELS[metric][1](scores[metric]) for metric in metrics))
        table.add_row(label, *figures, style="bold" if label == "student" else None)
    console.print(table)
    if failed := left_out(evaluation):
        console.print(failed, highlight=False)
    console.print(_how_much_smaller(evaluation), highlight=False)
    for metric, found in evaluation["recovered"].items():
        label, say = LABELS[metric]
        console.print(f"recovered, {label}: {recovered(found, say)}", highlight=False)
    console.print(_deploy(result), highlight=False, soft_wrap=True)
    show_stages(result, console)


def show_stages(part: Part, console: Console) -> None:
    """Print how long each stage took and where the files are."""
    spent = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in part.seconds.items())
    console.print(f"seconds: {spent}", highlight=False)
    console.print(f"files: {part.path}", highlight=False, soft_wrap=True)


def _deploy(result: Result) -> str:
    """The file to deploy, and smaller ones that lose no more than they may."""
    size = {entry["name"]: f"{entry['bytes'] / 1000:.1f} kB" for entry in result.bundle["variants"]}
    smaller = [entry["name"] for entry in result.bundle["variants"][1:] if entry["recommended"]]
    also = "".join(f"; {name}, {size[name]}" for name in smaller)
    return f"to deploy: {result.student_path}, {size['student']}{also}"


def show_latency(found: dict[str, Any], console: Console) -> None:
    """Print the seconds of a call for each model, and how many times faster than the first it is: the ensemble's loop,
    or the torch student where no member can be asked.
    """
    models, machine = found["models"], found["machine"]
    base = next(iter(models.values()))["threads"]
    for threads, by_rows in base.items():
        cores = "one thread" if threads == "1" else f"{threads} threads"
        table = Table(title=f"median time of a call, {cores}, {machine['cpu']}", title_justify="left")
        table.add_column("rows", no_wrap=True)
        for rows in by_rows:
            table.add_column(f"{int(rows):,}", justify="right", no_wrap=True)
        for name, model in models.items():
            own = model["threads"][threads]
            cells = [f"{duration(own[r]['p50'])}\n{by_rows[r]['p50'] / own[r]['p50']:.3g} x" for r in by_rows]
            table.add_row(name.replace("_", " "), *cells, style="bold" if name == "student" else None)
        console.print(table)


def show_leaderboard(board: dict[str, Any], console: Console, top: int = 10) -> None:
    """Print the best combinations of a search, and whether the best is better than the recipe as configured."""
    entries, (label, say) = board["combinations"], LABELS[board["metric"]]
    names = list(board["best"]["knobs"])
    title = f"{len(entries)} combinations on {board['rows']:,} validation rows"
    table = Table(title=title, title_justify="left")
    for heading in (*(name.rpartition(".")[2].replace("_", " ") for name in names), "epochs", "seconds", label):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    shown = entries[:top] if board["untuned"] in entries[:top] else [*entries[:top], board["untuned"]]
    for entry in shown:
        values = (_brief(entry["knobs"][name]) for name in names)
        note = "as configured" if entry["is_untuned"] else ""
        table.add_row(*values, str(entry["epochs"]), f"{entry['seconds']:.2f}", say(entry["score"]), note)
    console.print(table)
    console.print(_found_better(board), highlight=False, soft_wrap=True)


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _found_better(board: dict[str, Any]) -> str:
    """One sentence: the best against the recipe as configured, on the rows that it was chosen by."""
    label, say = LABELS[board["metric"]]
    gain = board["gain"]
    if board["best"]["is_untuned"]:
        return "No combination is better than the recipe as configured."
    if gain is None:
        return "The recipe as configured diverged." if board["best"]["score"] is not None else "All of them diverged."
    clear = "better than the recipe as configured" if gain["low"] > 0 else "not clearly better than the recipe"
    return f"The best is {clear}: {label} better by {span(gain, say)} on the rows that it was chosen by."


def duration(seconds: float) -> str:
    """Three digits in the unit that suits."""
    unit, scale = next(((u, s) for u, s in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if seconds * s >= 1), ("µs", 1e6))
    return f"{seconds * scale:.3g} {unit}"


def _how_much_smaller(evaluation: dict[str, Any]) -> str:
    """By parameters, or by bytes where a teacher has none to count."""
    compression, sizes = evaluation["parameters"]["compression"], evaluation["bytes"]
    if compression is not None:
        return f"The student is {compression:.0f} times smaller than the ensemble."
    if not sizes["ensemble"]:
        return f"The student has {sizes['student']:,} bytes."
    times = sizes["ensemble"] / sizes["student"]
    return f"The student's {sizes['student']:,} bytes are {times:.0f} times less than the ensemble's."


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
