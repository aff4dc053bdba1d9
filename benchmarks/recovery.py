"""How much of the ensemble's edge is kept: the article's recipe, and the recommended one on three draws."""

from pathlib import Path
from typing import Any

from benchmarks.harness import Row, kd_ray, settings
from kd_ray.summary import recovered

ARTICLE = {"ensemble": 0.978, "student": 0.972, "baseline": 0.965}
SEEDS = 24


def article(storage: Path, runs: int) -> list[Row]:
    """Accuracy on the article's 1,000 test rows, means over seeds, beside what the article reports."""
    found, _, _ = kd_ray(storage, "article-seeds", "examples/article.yaml", *settings(student__replicas=SEEDS))
    means = {role: found["replica_means"].get(role, found["metrics"][role])["accuracy"] for role in ARTICLE}
    first = {role: found["metrics"][role]["accuracy"] for role in ARTICLE}
    ours = " / ".join(f"{100 * value:.1f}" for value in means.values())
    apart = max(abs(means[role] - ARTICLE[role]) for role in ARTICLE)
    return [
        Row(
            what=f"article.yaml: ensemble / student / baseline accuracy, means of {SEEDS} seeds",
            ours=f"{ours} (first seed {' / '.join(f'{100 * value:.1f}' for value in first.values())})",
            against="the article: 97.8 / 97.2 / 96.5",
            found=f"{100 * apart:.1f} points apart at most; "
            f"student {100 * (means['student'] - means['baseline']):+.1f} over baseline",
            must="within 0.5 points of each, student above baseline",
        )
    ]


def draws(storage: Path, runs: int) -> list[Row]:
    """Recovered accuracy on the three draws of the generator that the recipe was chosen by."""
    return _recovered_on(storage, (42, 43, 44), "chosen by these draws")


def fresh(storage: Path, runs: int) -> list[Row]:
    """The same on three draws that had no part in choosing the recipe."""
    return _recovered_on(storage, (45, 46, 47), "fresh draws")


def _recovered_on(storage: Path, states: tuple[int, ...], which: str) -> list[Row]:
    rows: list[Row] = []
    values: list[float] = []
    for state in states:
        knobs = settings(data__options__n_samples=24000, data__split__test=20000, data__options__random_state=state)
        found, _, _ = kd_ray(storage, f"draw-{state}", *knobs, *settings(student__replicas=12))
        share = found["recovered"]["accuracy"]
        if share["value"] is not None:
            values.append(share["value"])
        accuracy = {role: f"{100 * scores['accuracy']:.2f}" for role, scores in found["replica_means"].items()}
        control = found["recovered_by_augmentation"]
        rows.append(
            Row(
                what=f"recommended recipe, random_state {state}: recovered accuracy edge, means of 12 seeds",
                ours=f"student {accuracy['student']}, ensemble {100 * found['metrics']['ensemble']['accuracy']:.2f}",
                against=f"baseline {accuracy['baseline']}; augmented control {accuracy['augmented_control']}, "
                f"which recovers {_share(control['accuracy'])} of accuracy, {_share(control['nll'])} of NLL",
                found=f"{recovered(share)}; NLL {_share(found['recovered']['nll'])}",
                must=">= 0.95",
            )
        )
    mean = f"{sum(values) / len(values):.2f}" if values else "no edge to recover"
    what = f"mean of the {len(values)} with an edge ({which})"
    return [*rows, Row(what=what, ours="", against="", found=mean, must="", aim=">= 1.05")]


def _share(found: dict[str, Any]) -> str:
    return "none" if found["value"] is None else f"{found['value']:.2f}"
