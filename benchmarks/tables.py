"""What is kept on tables: a mixed ensemble's edge on 200,000 customers, and twelve networks' on digits."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.harness import Row, kd_ray, settings
from kd_ray.summary import recovered

SPLITS = 10


def churn(storage: Path, runs: int) -> list[Row]:
    """Networks, boosted trees and forests teach one network; the baseline is the same network on hard labels."""
    found, record, _ = kd_ray(storage, "churn", "examples/churn.yaml")
    nll = {role: f"{scores['nll']:.4f}" for role, scores in found["replica_means"].items()}
    seconds = ", ".join(f"{name} {facts['seconds']:.0f} s" for name, facts in record["stages"].items())
    return [
        Row(
            what="4 networks, 4 XGBoost, 4 forests on 200,000 rows (examples/churn.yaml): NLL, means of 5 seeds",
            ours=f"student {nll['student']}, ensemble {found['metrics']['ensemble']['nll']:.4f}",
            against=f"baseline {nll['baseline']}, augmented control {nll['augmented_control']}",
            found=f"{recovered(found['recovered']['nll'])}; {seconds}",
            must=">= 0.8 of the NLL edge",
        )
    ]


def digits(storage: Path, runs: int) -> list[Row]:
    """The default recipe on scikit-learn's digits, over ten splits, beside plain distillation."""
    recipes = {
        "the default recipe": {},
        "plain distillation": {"soft_targets__transfer__kind": "none", "student__alpha": 0.7},
    }
    return [_digits(storage, name, knobs) for name, knobs in recipes.items()]


def _digits(storage: Path, name: str, knobs: dict[str, Any]) -> Row:
    gains, edges, accuracies = [], [], []
    for seed in range(SPLITS):
        ours = settings(data__source="sklearn:digits", data__split__seed=seed, **knobs)
        found, _, _ = kd_ray(storage, f"digits-{seed}", *ours)
        share = found["recovered"]["accuracy"]
        gains.append(share["gain"]["value"])
        edges.append(share["edge"]["value"])
        means = found["replica_means"]
        accuracies.append(
            (means["student"]["accuracy"], found["metrics"]["ensemble"]["accuracy"], means["baseline"]["accuracy"])
        )
    student, ensemble, baseline = (100 * fmean(column) for column in zip(*accuracies, strict=True))
    share, error = _ratio(gains, edges)
    return Row(
        what=f"digits, 12 networks, {name}: recovered accuracy edge, means of {SPLITS} splits",
        ours=f"student {student:.2f}, ensemble {ensemble:.2f}",
        against=f"baseline {baseline:.2f}",
        found=f"{share:.2f} of the ensemble's edge (standard error {error:.2f})",
        must=">= 0.7" if name.startswith("the default") else "",
    )


def _ratio(gains: list[float], edges: list[float]) -> tuple[float, float]:
    """Return the ratio of means and its standard error over splits, by the jackknife (Quenouille 1956)."""
    whole = sum(gains) / sum(edges)
    without = [(sum(gains) - g) / (sum(edges) - e) for g, e in zip(gains, edges, strict=True)]
    return whole, stdev(without) * (len(gains) - 1) / len(gains) ** 0.5
