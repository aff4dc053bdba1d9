"""The page that compares finished runs."""

from dataclasses import dataclass
from typing import Any

import yaml

from kd_ray.finished import read_config
from kd_ray.judging import evaluation_of
from kd_ray.report.figures import Figure, Figures, count, duration, size, times, two_decimals
from kd_ray.report.page import render
from kd_ray.report.rows import metrics_shown
from kd_ray.report.sources import optional
from kd_ray.rundir import RunDir
from kd_ray.wording import LABELS

MODELS = {
    "student": "metrics.student",
    "student, mean of replicas": "replica_means.student",
    "ensemble": "metrics.ensemble",
    "mean teacher": "metrics.teacher_mean",
    "augmented control, mean of replicas": "replica_means.augmented_control",
    "baseline, mean of replicas": "replica_means.baseline",
}
LOWER_IS_BETTER = {"nll", "brier", "ece", "rmse", "mae"}
BESIDE = {"name", "storage"}


@dataclass(frozen=True)
class Line:
    """One figure of every run: a cell is one figure, or one with the two ends of its interval; `best` is marked."""

    label: str
    cells: list[list[Figure]]
    best: frozenset[int] = frozenset()


def of_runs(runs: list[RunDir]) -> str:
    """Return the page as HTML. Raises ManifestError."""
    evaluations = [evaluation_of(run) for run in runs]
    records = [optional(run, "run.json") or {} for run in runs]
    figures = Figures(
        {"runs": [{**found, "record": record} for found, record in zip(evaluations, records, strict=True)]}
    )
    made = {_fingerprint(record) for record in records}
    return render(
        "compare.html",
        names=[run.name for run in runs],
        paths=[str(run) for run in runs],
        same_data=len(made) == 1 and None not in made,
        groups=_groups(figures, evaluations, same_data=len(made) == 1),
        differences=_differences(runs),
    )


def _fingerprint(record: dict[str, Any]) -> str | None:
    found: str | None = record.get("stages", {}).get("data", {}).get("fingerprint")
    return found


def _groups(figures: Figures, evaluations: list[dict[str, Any]], *, same_data: bool) -> list[tuple[str, list[Line]]]:
    """Return the table's parts, each with its title; the best of a row is marked where all have the same data."""
    runs = len(evaluations)

    def line(label: str, key: str, say: Any = None, better: int = 0) -> Line:
        cells = [figures(f"runs.{i}.{key}", say) for i in range(runs)]
        return Line(label, [[cell] for cell in cells], _best(cells, better if same_data else 0))

    metrics = list(dict.fromkeys(name for found in evaluations for name in metrics_shown(found)))
    measures = list(dict.fromkeys(name for found in evaluations for name in found["recovered"]))
    models = [
        (
            title,
            [line(LABELS[m][0], f"{key}.{m}", better=-1 if m in LOWER_IS_BETTER else 1) for m in metrics],
        )
        for title, key in MODELS.items()
        if any(figures.value(f"runs.{i}.{key}") for i in range(runs))
    ]
    return [
        ("recovered of the ensemble's edge", [_shares(figures, measure, runs) for measure in measures]),
        (
            "size",
            [
                line("compression", "parameters.compression", times),
                line("student's parameters", "parameters.student", count),
                line("ensemble's parameters", "parameters.ensemble", count),
                line("student's file", "bytes.student", size),
                line("ensemble's files", "bytes.ensemble", size),
            ],
        ),
        *models,
        ("rows", [line(split, f"rows.{split}", count) for split in ("train", "valid", "test", "transfer")]),
        ("time of a stage", [_seconds(figures, stage, runs) for stage in _stages(figures, runs)]),
    ]


def _shares(figures: Figures, measure: str, runs: int) -> Line:
    keys = [f"runs.{i}.recovered.{measure}" for i in range(runs)]
    cells = [[figures(f"{key}.{part}", two_decimals) for part in ("value", "low", "high")] for key in keys]
    return Line(LABELS[measure][0], [cell if cell[0].value is not None else cell[:1] for cell in cells])


def _stages(figures: Figures, runs: int) -> list[str]:
    return list(dict.fromkeys(name for i in range(runs) for name in figures.value(f"runs.{i}.record.stages") or {}))


def _seconds(figures: Figures, stage: str, runs: int) -> Line:
    key = f"record.stages.{stage}.seconds"
    return Line(stage.replace("_", " "), [[figures(f"runs.{i}.{key}", duration)] for i in range(runs)])


def _best(cells: list[Figure], better: int) -> frozenset[int]:
    values = [better * cell.value for cell in cells if cell.value is not None]
    if not better or len(set(values)) < 2:
        return frozenset()
    return frozenset(i for i, cell in enumerate(cells) if cell.value is not None and better * cell.value == max(values))


def _differences(runs: list[RunDir]) -> list[tuple[str, list[str]]]:
    """Return the knobs that are not alike in all configs, with the value in each, an empty text where there is none."""
    configs = [_flat(read_config(run).model_dump()) for run in runs]
    knobs = dict.fromkeys(key for config in configs for key in config)
    rows = [(key, [config.get(key, "") for config in configs]) for key in knobs if key not in BESIDE]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(config, dict) or not config:
        return {prefix: yaml.safe_dump(config, default_flow_style=True, width=1000).removesuffix("...\n").strip()}
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
