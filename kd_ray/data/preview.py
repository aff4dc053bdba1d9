"""What a run would do with its data, for `kd-ray check`."""

from typing import Any

import numpy as np

from kd_ray.config import Config
from kd_ray.data.plan import Plan
from kd_ray.data.splits import SPLITS, TRAIN

_SHOWN_CLASSES = 20


def describe(config: Config, plan: Plan, features: int) -> dict[str, Any]:
    """Return rows, columns, classes, splits, teachers, transfer set and memory, as JSON."""
    train = plan.rows["train"]
    transfer = config.soft_targets.transfer
    labelled = train * (1 if transfer.kind == "none" else 1 + transfer.factor) + plan.rows.get("unlabelled", 0)
    outputs = max(1, len(plan.labels.counts))
    return {
        "source": config.data.source,
        "rows": plan.rows,
        "task": "classification" if plan.labels.classes is not None else "regression",
        "target": plan.roles.target,
        "columns": [{"name": c.name, "kind": c.kind, "note": c.note} for c in plan.columns],
        "left_out": plan.dropped,
        "beside": plan.roles.beside,
        "classes": _classes(plan),
        "features": features,
        "teachers": _teachers(config),
        "transfer_rows": labelled,
        "memory_bytes": {
            "training_rows": train * (4 * features + 12),
            "transfer_set": labelled * 4 * (features + outputs),
        },
    }


def _classes(plan: Plan) -> dict[str, dict[str, int]]:
    """Rows of each class in each split."""
    if plan.labels.classes is None:
        return {}
    counts = [
        np.bincount(plan.labels.values_N[plan.split_N == split], minlength=len(plan.labels.classes))
        for split in range(TRAIN, len(SPLITS))
    ]
    return {
        text: {name: int(counts[split][c]) for split, name in enumerate(SPLITS)}
        for c, text in enumerate(plan.labels.classes)
    }


def _teachers(config: Config) -> dict[str, int]:
    """Members of each kind."""
    if not config.teachers.groups:
        return {"mlp": config.teachers.count}
    counts: dict[str, int] = {}
    for group in config.teachers.groups:
        own = {"saved": len(group.paths), "columns": len(group.columns)}
        counts[group.kind] = counts.get(group.kind, 0) + own.get(group.kind, group.count)
    return counts


def lines(found: dict[str, Any]) -> list[str]:
    """Return what `describe` found as lines for a person."""
    rows = found["rows"]
    out = [
        f"source       {found['source']}: {sum(rows.values()):,} rows",
        f"splits       {', '.join(f'{name} {count:,}' for name, count in rows.items())}",
        f"target       {found['target']}, {found['task']}" + (", of rows:" if found["classes"] else ""),
    ]
    for text, counts in list(found["classes"].items())[:_SHOWN_CLASSES]:
        out.append(f"  {text:<20} {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    if len(found["classes"]) > _SHOWN_CLASSES:
        out.append(f"  and {len(found['classes']) - _SHOWN_CLASSES:,} more classes")
    out.append(f"columns      {len(found['columns']):,} to learn from")
    out += [f"  {c['name']:<20} {c['kind']:<12} {c['note']}".rstrip() for c in found["columns"]]
    if found["left_out"]:
        out.append(f"left out     {len(found['left_out']):,}")
        out += [f"  {name:<20} {why}" for name, why in found["left_out"].items()]
    if found["beside"]:
        out.append(f"kept beside  {', '.join(found['beside'])}")
    memory = {name: f"{count / 2**20:,.0f} MiB" for name, count in found["memory_bytes"].items()}
    return [
        *out,
        f"teachers     {', '.join(f'{count} x {kind}' for kind, count in found['teachers'].items())}",
        f"transfer set {found['transfer_rows']:,} rows",
        f"memory       about {memory['training_rows']} for the training rows, {memory['transfer_set']} for the "
        "transfer set",
    ]
