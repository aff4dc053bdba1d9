"""What each kind of transfer set is worth: a table of numbers alone, and one with categorical columns."""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, kd_ray, settings

KINDS = ("none", "noise", "mixup", "swap", "munge", "mix")
MIX = "{noise: 1, mixup: 1, swap: 1, munge: 1}"
SEEDS = (42, 43, 44)
LEVELS = (2, 4, 8, 20, 60, 150)
ROLES = ("student", "ensemble", "baseline", "augmented_control")
COMMON = {"data__split__test": 0.5, "student__replicas": 4, "soft_targets__transfer__factor": 20}


def transfer(storage: Path, runs: int) -> list[Row]:
    """Recovered accuracy and NLL of every kind, ratios of means over seeds of the split and the training.

    Teachers of the mixed table stop after 10 passes: after 30 they are surer of themselves than they are right.
    """
    mixed = storage / "mixed.parquet"
    pq.write_table(mixed_table(8_000), mixed)
    digits = {"data__source": "sklearn:digits", "student__epochs": 360}
    codes = {
        "data__source": str(mixed),
        "data__columns__target": "label",
        "student__epochs": 40,
        "teachers__epochs": 10,
    }
    return [
        _row(storage, name, kind, COMMON | knobs)
        for name, knobs in (("digits", digits), ("mixed columns", codes))
        for kind in KINDS
    ]


def mixed_table(rows: int) -> pa.Table:
    """Return 8 numbers, a twentieth of them missing, and 6 categorical columns of 2 to 150 levels with a yes or no.

    The answer hangs on waves of the numbers, on an effect of every level, and on levels that turn a number's effect.
    """
    rng = np.random.default_rng(0)
    number_ND = rng.normal(size=(rows, 8))
    code_NJ = np.column_stack([rng.integers(0, levels, rows) for levels in LEVELS])
    effect_NJ, turn_NJ = (
        np.column_stack([rng.normal(size=levels)[code_N] for levels, code_N in zip(LEVELS, code_NJ.T, strict=True)])
        for _ in range(2)
    )
    logit_N = np.sin(1.5 * number_ND[:, :4]).sum(1) + 0.7 * effect_NJ.sum(1) + (turn_NJ * number_ND[:, :6]).sum(1) - 1
    label_N = rng.random(rows) < 1 / (1 + np.exp(-2 * logit_N))
    missing_ND = rng.random(number_ND.shape) < 0.05
    return pa.table(
        {f"x{d}": pa.array(number_ND[:, d], mask=missing_ND[:, d]) for d in range(8)}
        | {f"c{j}": [f"level {code}" for code in code_NJ[:, j]] for j in range(len(LEVELS))}
        | {"label": np.where(label_N, "yes", "no")}
    )


def _row(storage: Path, name: str, kind: str, knobs: dict[str, Any]) -> Row:
    scores = [_scores(storage, f"{name.replace(' ', '-')}-{seed}", kind, seed, knobs) for seed in SEEDS]
    mean = {
        role: {metric: fmean(found[role][metric] for found in scores) for metric in ("accuracy", "nll")}
        for role in ROLES
        if role in scores[0]
    }
    said = {role: f"{100 * found['accuracy']:.2f} / {found['nll']:.4f}" for role, found in mean.items()}
    against = f"ensemble {said['ensemble']}, baseline {said['baseline']}"
    if "augmented_control" in said:
        against += (
            f", augmented control {said['augmented_control']}, which recovers {_shares(mean, 'augmented_control')}"
        )
    return Row(
        what=f"{name}, transfer set {kind}: accuracy / NLL of the student, means of {len(SEEDS)} seeds",
        ours=said["student"],
        against=against,
        found=f"recovered {_shares(mean, 'student')}",
        must="",
    )


def _scores(storage: Path, run: str, kind: str, seed: int, knobs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """One run's scores, means over replicas. Kinds share a run and so its teachers."""
    ours = settings(**knobs, seed=seed, data__split__seed=seed, soft_targets__transfer__kind=kind)
    mix = settings(soft_targets__transfer__mix=MIX) if kind == "mix" else []
    found, _, _ = kd_ray(storage, run, *ours, *mix)
    return found["replica_means"] | {"ensemble": found["metrics"]["ensemble"]}


def _shares(mean: dict[str, dict[str, float]], role: str) -> str:
    """Which part of the ensemble's edge over the baseline a role has, by accuracy and by NLL."""
    edges = {metric: mean["ensemble"][metric] - mean["baseline"][metric] for metric in ("accuracy", "nll")}
    gains = {metric: mean[role][metric] - mean["baseline"][metric] for metric in edges}
    return " / ".join(f"{gains[metric] / edges[metric]:.2f}" if edges[metric] else "none" for metric in edges)
