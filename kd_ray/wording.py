"""How figures are put in words, wherever a person reads them."""

import math
from collections.abc import Callable
from typing import Any

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
    "brier": ("Brier", share),
    "ece": ("ECE", share),
    "roc_auc": ("ROC AUC", share),
    "pr_auc": ("PR AUC", share),
    "rmse": ("RMSE", quantity),
    "mae": ("MAE", quantity),
    "r2": ("R²", share),
}


def brief(value: object) -> str:
    """A knob's value, a number in four digits; a mix says the shares of the kinds that it does not have all of."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {brief(each)}" for name, each in value.items()) or "all"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def main_metrics(evaluation: dict[str, Any]) -> list[str]:
    """The metrics that come first; accuracy alone would flatter a model where one class has most rows."""
    if "rmse" in evaluation["metrics"]["ensemble"]:
        return ["rmse", "r2"]
    rows = evaluation["class_rows"]
    uneven = max(rows) > UNEVEN * sum(rows) / len(rows)
    return ["accuracy", "balanced_accuracy", "nll"] if uneven else ["accuracy", "nll"]


def recovered(found: dict[str, Any], say: Say = share) -> str:
    """Say a recovered share with its interval, or that there is no edge to recover."""
    if found["value"] is not None:
        return f"{found['value']:.2f} of the ensemble's edge (95 % interval {found['low']:.2f} to {found['high']:.2f})"
    edge, gain = (span(found[key], say) for key in ("edge", "gain"))
    return f"no edge to recover: the ensemble leads the baseline by {edge}, the student by {gain}"


def span(interval: dict[str, float], say: Say) -> str:
    """Say a difference with its sign and its interval."""

    def signed(value: float) -> str:
        return ("-" if value < 0 else "+") + say(abs(value))

    return f"{signed(interval['value'])} ({signed(interval['low'])} to {signed(interval['high'])})"


def beyond_limits(measured: list[dict[str, Any]]) -> str:
    """Say which layers a search's limits kept out, nothing where none."""
    said = [f"{o['hidden']} ({o['bytes']:,} bytes, {o['milliseconds']:.3g} ms)" for o in measured if not o["is_within"]]
    return f"Left out by the limits: {', '.join(said)}." if said else ""


def estimate(interval: dict[str, float], say: Say) -> str:
    """Say a figure and its interval."""
    return f"{say(interval['value'])} ({say(interval['low'])} to {say(interval['high'])})"


def left_out(evaluation: dict[str, Any]) -> str | None:
    """Say which members failed and are not in the ensemble; None where all are."""
    failed = evaluation.get("failed_teachers", [])
    if not failed:
        return None
    every = len(failed) + len(evaluation["teachers"])
    names = ", ".join(str(entry["seed"]) for entry in failed)
    return f"{len(failed)} of {every} teachers failed and were left out: {names}"
