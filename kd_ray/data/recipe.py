"""A commented config to begin with, made for the user's table."""

import tempfile
from pathlib import Path

from kd_ray import yaml_io
from kd_ray.config import Config
from kd_ray.data import passes, plan
from kd_ray.data.plan import Plan
from kd_ray.knobs import Student

RECIPE_ROWS = 20_000
RECIPE_FACTOR, RECIPE_EPOCHS = 40, 400
MAX_VISITS, MAX_SYNTHESIZED = 100_000_000, 2_000_000
MIN_FACTOR, MIN_EPOCHS = 1, 5
VALID = 0.1


def starter(source: str, target: str) -> str:
    """Return a config for a table as commented YAML. Raises DataError where the table cannot be learned from."""
    data = {"source": source, "columns": {"target": target}, "split": {"valid": VALID}}
    with tempfile.TemporaryDirectory() as aside:
        found = plan.make(Config.of({"data": data}), Path(aside), passes.in_line)
    task = "regression" if found.labels.classes is None else "classification"
    factor, epochs = sizes(found.rows["train"])
    config = Config.of(
        {
            "name": _name(source),
            "data": {
                **data,
                "columns": {"target": target, "kinds": {column.name: column.kind for column in found.columns}},
                "task": task,
                "split": {"valid": VALID, "stratify": task == "classification"},
            },
            "soft_targets": {"transfer": {"factor": factor}},
            "student": {"epochs": epochs},
        }
    )
    return "".join(f"# {line}\n" for line in _about(found)) + yaml_io.annotated(config)


def sizes(train_rows: int) -> tuple[int, int]:
    """Return synthesized rows for each training row, and the student's passes over the training rows.

    The recommended 40 and 400 hold below 20,000 training rows. Above, all replicas together visit at most some
    100 million rows, and some 2 million are synthesized: what many real rows say needs fewer made ones.
    """
    if train_rows < RECIPE_ROWS:
        return RECIPE_FACTOR, RECIPE_EPOCHS
    epochs = MAX_VISITS // (Student().replicas * train_rows)
    return (
        max(MIN_FACTOR, min(RECIPE_FACTOR, MAX_SYNTHESIZED // train_rows)),
        max(MIN_EPOCHS, min(RECIPE_EPOCHS, epochs)),
    )


def _about(found: Plan) -> list[str]:
    rows = sum(count for name, count in found.rows.items() if name != "unlabelled")
    lines = [f"{rows:,} rows, {len(found.columns)} columns to learn from. Left out, and why:"]
    lines += [f"  {name}: {why}" for name, why in found.dropped.items()] or ["  nothing"]
    if found.labels.counts:
        few = list(found.labels.counts.items())
        lines.append("Rows of each class: " + ", ".join(f"{text} {count:,}" for text, count in few[:20]))
    return [*(" ".join(line.splitlines()) for line in lines), "Every knob has its default unless said otherwise below."]


def _name(source: str) -> str:
    """A run's name after the source's: letters, digits, '.', '_' and '-'."""
    stem = Path(source.rstrip("/")).name.split(".")[0].rpartition(":")[2]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in stem).strip("-_")
    return clean[:63] or "default"
