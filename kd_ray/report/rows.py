"""The page's tables: which rows and columns they have, and the figure in each cell."""

from dataclasses import dataclass, field
from typing import Any

from kd_ray.report.figures import (
    Figure,
    Figures,
    count,
    duration,
    percent,
    percent_1,
    signed,
    size,
    three_digits,
    times,
    two_decimals,
)
from kd_ray.report.sources import Sources
from kd_ray.wording import LABELS, main_metrics

METRICS = ("accuracy", "balanced_accuracy", "nll", "brier", "ece", "roc_auc", "pr_auc", "rmse", "mae", "r2")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A figure to be seen first; `context` is text and figures that say what it is of."""

    title: str
    figure: Figure | None = None
    text: str = ""
    context: list[str | Figure]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row of the table of models; `role` gives its colour."""

    name: str
    role: str
    mark: str = ""
    figures: list[Figure | None] = field(default_factory=list)


@dataclass(frozen=True)
class Recovery:
    """What was recovered of one measure; `shares` is empty where there is no edge."""

    label: str
    who: str
    shares: list[Figure]
    edge: list[Figure]
    gain: list[Figure]


def figures_of(sources: Sources) -> Figures:
    beside = {
        "bundle": sources.bundle,
        "latency": sources.latency,
        "record": sources.record,
        "search": sources.search,
    }
    return Figures({**sources.evaluation, **{name: found for name, found in beside.items() if found}})


def cards(sources: Sources, figures: Figures) -> list[Card]:
    return [
        _recovered(sources, figures),
        _score(sources, figures),
        _smaller(figures),
        _faster(sources, figures) or _agreement(sources, figures),
    ]


def _recovered(sources: Sources, figures: Figures) -> Card:
    label, say = LABELS[sources.metric]
    key = f"recovered.{sources.metric}"
    mean = f", mean of {sources.config.student.replicas} students" if sources.config.student.replicas > 1 else ""
    if figures.value(f"{key}.value") is not None:
        low, high = (figures(f"{key}.{end}", percent) for end in ("low", "high"))
        context: list[str | Figure] = ["95 % interval ", low, " to ", high, mean]
        return Card(
            title=f"of the ensemble's edge in {label} recovered",
            figure=figures(f"{key}.value", percent),
            context=context,
        )
    context = ["the ensemble leads the baseline by ", *_span(figures, f"{key}.edge", say)]
    context += [", the student by ", *_span(figures, f"{key}.gain", say), mean]
    return Card(title=f"to recover in {label}", text="No edge", context=context)


def _span(figures: Figures, key: str, say: Any) -> list[str | Figure]:
    value, low, high = (figures(f"{key}.{part}", signed(say)) for part in ("value", "low", "high"))
    return [value, " (", low, " to ", high, ")"]


def _score(sources: Sources, figures: Figures) -> Card:
    metric = sources.metric
    ensemble, baseline = (figures(f"metrics.{role}.{metric}") for role in ("ensemble", "baseline"))
    return Card(
        title=f"{LABELS[metric][0]} of the student",
        figure=figures(f"metrics.student.{metric}"),
        context=["ensemble ", ensemble, ", baseline ", baseline],
    )


def _smaller(figures: Figures) -> Card:
    if figures.value("parameters.compression") is not None:
        student, ensemble = (figures(f"parameters.{who}", count) for who in ("student", "ensemble"))
        context: list[str | Figure] = [student, " parameters in place of ", ensemble]
        return Card(title="smaller than the ensemble", figure=figures("parameters.compression", times), context=context)
    student, ensemble = (figures(f"bytes.{who}", size) for who in ("student", "ensemble"))
    context = ["ensemble ", ensemble] if ensemble.value else [figures("parameters.student", count), " parameters"]
    return Card(title="size of the student", figure=student, context=context)


def _faster(sources: Sources, figures: Figures) -> Card | None:
    """The speed-up is of medians of one row on one thread."""
    if sources.latency is None:
        return None
    slow, fast = (figures(f"latency.models.{who}.threads.1.1.p50", duration) for who in ("ensemble_loop", "student"))
    if not slow.value or not fast.value:
        return None
    context: list[str | Figure] = [fast, " a row in place of ", slow, ", one thread, median"]
    return Card(title="faster than the ensemble", text=times(slow.value / fast.value), context=context)


def _agreement(sources: Sources, figures: Figures) -> Card:
    if sources.is_regression:
        figure = figures("fidelity.correlation", LABELS["r2"][1])
        return Card(title="correlation of student and ensemble", figure=figure, context=["on the test rows"])
    context: list[str | Figure] = ["KL(ensemble ‖ student) ", figures("fidelity.kl", three_digits), " nats a row"]
    figure = figures("fidelity.agreement", percent_1)
    return Card(title="of test rows get the ensemble's class from the student", figure=figure, context=context)


def metrics_shown(evaluation: dict[str, Any]) -> list[str]:
    """All metrics of the models that someone has; balanced accuracy where classes are uneven."""
    main, every = main_metrics(evaluation), evaluation["metrics"].values()
    return [
        name
        for name in METRICS
        if any(scores.get(name) is not None for scores in every) and (name != "balanced_accuracy" or name in main)
    ]


def models(sources: Sources, figures: Figures) -> tuple[list[str], list[Model]]:
    """Return the table's headings and its rows; a cell is None where there is no such figure."""
    evaluation, seeds = sources.evaluation, sources.config.student.replicas
    shown = metrics_shown(evaluation)

    def row(name: str, role: str, scores: str, parameters: str, size_key: str = "", mark: str = "") -> Model:
        sizes = [figures(parameters, count), figures(size_key, size) if size_key else None]
        scored = [figures(f"{scores}.{metric}") for metric in shown]
        return Model(name=name, role=role, mark=mark, figures=[*sizes, *scored])

    every = f"ensemble of {len(evaluation['teachers'])}"
    rows = [
        row(every, "ensemble", "metrics.ensemble", "parameters.ensemble", "bytes.ensemble"),
        row("mean teacher", "teacher", "metrics.teacher_mean", "parameters.teacher"),
        row("student", "student", "metrics.student", "parameters.student", "bytes.student", "delivered"),
    ]
    for role in ("student", "augmented_control", "baseline"):
        if role in evaluation["metrics"] and (seeds > 1 or role != "student"):
            name = role.replace("_", " ") + (f", mean of {seeds}" if seeds > 1 else "")
            rows.append(row(name, role, f"replica_means.{role}", "parameters.student", "bytes.student"))
    for i, variant in enumerate(sources.variants):
        key, mark = f"bundle.variants.{i}", "recommended" if variant.get("recommended") else ""
        name = f"exported {variant['name']} ({variant['kind']})"
        rows.append(row(name, "variant", f"{key}.metrics", f"{key}.parameters", f"{key}.bytes", mark))
    return ["parameters", "size", *(LABELS[metric][0] for metric in shown)], rows


def recoveries(sources: Sources, figures: Figures) -> list[Recovery]:
    found = []
    for metric in sources.evaluation["recovered"]:
        for who, root in (("student", "recovered"), ("augmented control", "recovered_by_augmentation")):
            key = f"{root}.{metric}"
            if figures.value(key) is None:
                continue
            label, say = LABELS[metric]
            edge, gain = (
                [figures(f"{key}.{part}.{end}", signed(say)) for end in ("value", "low", "high")]
                for part in ("edge", "gain")
            )
            shares = [figures(f"{key}.{end}", two_decimals) for end in ("value", "low", "high")]
            found.append(Recovery(label, who, shares if shares[0].value is not None else [], edge, gain))
    return found


def latencies(sources: Sources, figures: Figures) -> tuple[list[str], list[Model]]:
    """Return headings and rows of medians, by threads and rows at once."""
    if sources.latency is None:
        return [], []
    every = sources.latency["models"]
    asked = sorted({(int(t), int(n)) for m in every.values() for t, at in m["threads"].items() for n in at})
    headings = [f"{n:,} {'row' if n == 1 else 'rows'}, {t} {'thread' if t == 1 else 'threads'}" for t, n in asked]
    rows = [
        Model(
            name=name.replace("_", " "),
            role=name.split("_")[0] if name.startswith(("ensemble", "student")) else "variant",
            figures=[
                figures(f"latency.models.{name}.peak_memory_bytes", size),
                *(figures(f"latency.models.{name}.threads.{t}.{n}.p50", duration) for t, n in asked),
            ],
        )
        for name in every
    ]
    return ["peak memory", *headings], rows
