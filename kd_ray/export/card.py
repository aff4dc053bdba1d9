"""The model card, in the convention of the Hugging Face hub: Markdown under a YAML header, of the run's own facts."""

from typing import Any

import yaml

from kd_ray.config import Config
from kd_ray.judging import evaluation_of
from kd_ray.rundir import RunDir
from kd_ray.tables import Dataset
from kd_ray.wording import LABELS, left_out, recovered

_SHOWN = 20


def text(config: Config, run: RunDir, data: Dataset, bundle: dict[str, Any]) -> str:
    """Return MODEL_CARD.md. Texts of the user's (names of columns and classes) are set as code, escaped."""
    evaluation = evaluation_of(run)
    parts = [
        _header(config, data, evaluation),
        _about(config, run, data, evaluation),
        _data(data, evaluation),
        _metrics(evaluation, bundle),
        _limits(data, evaluation),
        _made(config, bundle, evaluation),
        _load(run, data),
    ]
    return "\n".join(parts)


def code(value: Any) -> str:
    """Return a text as Markdown code that ends where it should: no backtick, no line break, no bar of a table."""
    cut = str(value).replace("`", "'").replace("|", "\\|")
    return f"`{' '.join(cut.split()) or ' '}`"


def _header(config: Config, data: Dataset, evaluation: dict[str, Any]) -> str:
    task = "tabular-regression" if data.is_regression else "tabular-classification"
    metrics = [
        {"type": name, "value": value}
        for name, value in evaluation["metrics"]["student"].items()
        if isinstance(value, int | float)
    ]
    result = {
        "task": {"type": task},
        "dataset": {"name": str(config.data.source), "type": "tabular", "split": "test"},
        "metrics": metrics,
    }
    header = {
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": ["kd-ray", "knowledge-distillation", "tabular", "onnx"],
        "model-index": [{"name": config.name, "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _about(config: Config, run: RunDir, data: Dataset, evaluation: dict[str, Any]) -> str:
    schema, parameters = data.schema, evaluation["parameters"]
    what = "a number" if data.is_regression else f"one of {data.n_classes} classes"
    smaller = f", {parameters['compression']:.0f} times fewer than the ensemble's" if parameters["compression"] else ""
    return f"""# {config.name}

A small network that predicts {what} ({code(schema["target"])}) of a row of {len(schema["columns"])} columns. It was
distilled from an ensemble of {len(evaluation["teachers"])} by kd_ray; it has {parameters["student"]:,}
parameters{smaller}.

## Intended use

Rows like those it was trained on: the same columns, from the same source, of the same time. It says what its ensemble
would say, in microseconds on one core. It was not tested on other people, places or times than the test rows', nor
for fairness between groups; do so before it decides about people.
"""


def _data(data: Dataset, evaluation: dict[str, Any]) -> str:
    schema, rows = data.schema, evaluation["rows"]
    lines = [
        "## Data",
        "",
        f"Source: {code(schema['source'])}. Rows: "
        + ", ".join(f"{count:,} {name}" for name, count in rows.items() if count)
        + ".",
        "",
        "| column | kind |",
        "|---|---|",
        *(f"| {code(column['name'])} | {column['kind']} |" for column in schema["columns"][:_SHOWN]),
    ]
    if len(schema["columns"]) > _SHOWN:
        lines.append(f"| and {len(schema['columns']) - _SHOWN:,} more | |")
    if not data.is_regression:
        classes = [code(name) for name in schema["task"]["classes"][:_SHOWN]]
        more = f" and {data.n_classes - _SHOWN} more" if data.n_classes > _SHOWN else ""
        lines += ["", f"Classes: {', '.join(classes)}{more}."]
    return "\n".join(lines) + "\n"


def _metrics(evaluation: dict[str, Any], bundle: dict[str, Any]) -> str:
    metrics = [name for name in LABELS if name in evaluation["metrics"]["ensemble"]]
    heading = " | ".join(LABELS[name][0] for name in metrics)
    lines = ["## Metrics", "", f"On {evaluation['rows']['test']:,} test rows.", ""]
    lines += [f"| model | {heading} |", "|---|" + "---|" * len(metrics)]
    for role, scores in evaluation["metrics"].items():
        figures = " | ".join(LABELS[name][1](scores.get(name)) for name in metrics)
        lines.append(f"| {role.replace('_', ' ')} | {figures} |")
    for entry in bundle["variants"][1:]:
        figures = " | ".join(LABELS[name][1](entry["metrics"].get(name)) for name in metrics)
        lines.append(f"| student, {entry['name']} | {figures} |")
    lines += [
        "",
        *(f"- Recovered, {LABELS[n][0]}: {recovered(r, LABELS[n][1])}." for n, r in evaluation["recovered"].items()),
    ]
    return "\n".join(lines) + "\n"


def _limits(data: Dataset, evaluation: dict[str, Any]) -> str:
    return f"""## Limits

- The figures are of {evaluation["rows"]["test"]:,} rows held out of one table; their intervals cover the draw of test
  rows and of seeds, nothing else.
- The student is as right, as wrong and as confident as its ensemble.
- Categories that the training rows had rarely or never are one and the same to it; a missing cell is
  {"known as such" if any(column["note"] for column in data.schema["columns"]) else "filled in"}.
"""


def _made(config: Config, bundle: dict[str, Any], evaluation: dict[str, Any]) -> str:
    student, transfer = config.student, config.soft_targets.transfer
    groups = ", ".join(f"{group.count} x {group.kind}" for group in config.teachers.groups)
    failed = left_out(evaluation)
    versions = ", ".join(f"{name} {number}" for name, number in bundle["versions"].items())
    return f"""## How it was made

- Teachers: {groups or f"{config.teachers.count} networks"}{f"; {failed}" if failed else ""}.
- Transfer set: {transfer.kind}{"" if transfer.kind == "none" else f" x {transfer.factor}"}.
- Student: temperature {student.temperature:g}, alpha {student.alpha:g} (weight of the ensemble's word against the
  label's), {student.epochs} epochs, {student.schedule} schedule from {student.learning_rate:g}.
- The whole recipe is in the run's `config.yaml`; id `{bundle["id"]}`, made {bundle["created"]}
  with {versions}.
"""


def _load(run: RunDir, data: Dataset) -> str:
    ask = "predict(table)" if data.is_regression else "predict_proba(table)"
    return f"""## How to load

```python
from kd_ray import load_student

student = load_student("{run.name}")     # the run's directory; needs numpy and onnxruntime
student.{ask}     # a pandas, polars or pyarrow table with the columns above
```

`student.onnx` also runs alone in any onnxruntime; its metadata names the columns of its inputs.
"""
