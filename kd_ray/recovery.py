"""How much of an ensemble's edge a student recovered, with an interval from a paired bootstrap.

Axes: N test rows, R replicas, B resamples, X whatever is averaged over rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
COUNTS_AT_ONCE = 1 << 22  # 32 MB of float64
Interval = tuple[float, float, float]
Rows = dict[str, np.ndarray]
"""For each metric its values of every row, shape [R, N]; the ensemble is a single replica."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric as a function of a mean over rows: `of_mean` is the square root where rows have squared errors."""

    higher_is_better: bool = False
    of_mean: Callable[[np.ndarray], np.ndarray] = np.asarray


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """(student - baseline) / (ensemble - baseline) of means over replicas, unclipped, with a 95 % interval.

    `value`, `low` and `high` are None where the edge's own interval touches zero: there is no edge to recover.
    `edge` and `gain` are the differences themselves, positive where the ensemble or the student is better;
    each is (value, low, high).
    """

    value: float | None
    low: float | None
    high: float | None
    edge: Interval
    gain: Interval

    def to_json(self) -> dict[str, Any]:
        def interval(v: Interval) -> dict[str, float]:
            return dict(zip(("value", "low", "high"), v, strict=True))

        out: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        out |= {"edge": interval(self.edge), "gain": interval(self.gain)}
        return out if self.value is not None else out | {"note": "no edge to recover"}


def recovered(
    ensemble: Rows,
    baseline: Rows,
    students: dict[str, Rows],
    measures: dict[str, Measure],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Recovered]]:
    """Return for each of `students` (a role) and each metric the recovered share of the ensemble's edge.

    The interval is the percentile interval of a paired bootstrap: each resample draws test rows, the same for
    every model and metric, and replicas of student and baseline (Efron & Tibshirani 1993, chapter 13). Every role
    has as many replicas as the baseline. Two metrics of 13 models
    on 200,000 rows take 3 s, and 32 MB beside the rows' own 40 MB.
    """
    models = {"ensemble": ensemble, "baseline": baseline, **students}
    keys = [(name, metric) for name in models for metric in measures]
    columns = [models[name][metric] for name, metric in keys]
    replicas = len(next(iter(baseline.values())))
    draws = _draw(np.concatenate(columns), replicas, seed, resamples)
    ends = np.cumsum([len(column) for column in columns])
    parts = np.split(draws.mean_BX, ends[:-1], axis=1)
    value = {key: measures[key[1]].of_mean(mean_BR) for key, mean_BR in zip(keys, parts, strict=True)}

    def one(role: str, metric: str) -> Recovered:
        base_B = draws.of(value["baseline", metric], draws.second_BR)
        sign = 1.0 if measures[metric].higher_is_better else -1.0
        edge_B = sign * (value["ensemble", metric][:, 0] - base_B)
        return _share(edge_B, sign * (draws.of(value[role, metric], draws.first_BR) - base_B))

    return {role: {metric: one(role, metric) for metric in measures} for role in students}


def compared(
    ours_N: np.ndarray, theirs_N: np.ndarray, measure: Measure, *, seed: int = 0
) -> tuple[Interval, Interval, Interval]:
    """Return the metric of two models on the same rows, and by how much the first is better, with 95 % intervals.

    Each resample of a paired bootstrap draws rows, the same for both; the last is positive where the first is better.
    """
    value_B2 = measure.of_mean(_draw(np.stack([ours_N, theirs_N]), 1, seed, RESAMPLES).mean_BX)
    sign = 1.0 if measure.higher_is_better else -1.0
    ours_B, theirs_B = value_B2[:, 0], value_B2[:, 1]
    return _interval(ours_B), _interval(theirs_B), _interval(sign * (ours_B - theirs_B))


@dataclass(frozen=True, kw_only=True)
class _Draws:
    """Means over the rows (B = 0) and over each resample of them, and which replicas go into it."""

    mean_BX: np.ndarray
    first_BR: np.ndarray
    second_BR: np.ndarray

    def of(self, value_BR: np.ndarray, drawn_BR: np.ndarray) -> np.ndarray:
        """Return the mean over the replicas drawn, shape [B]."""
        return np.asarray(np.take_along_axis(value_BR, drawn_BR, 1).mean(1))


def _draw(values_XN: np.ndarray, replicas: int, seed: int, resamples: int) -> _Draws:
    """Draw rows and replicas; the means are products of how often a row was drawn and its values."""
    rng = np.random.default_rng(seed)
    n_rows = values_XN.shape[1]
    mean_BX = np.empty((1 + resamples, len(values_XN)))
    mean_BX[0] = values_XN.mean(1)
    drawn_BPR = np.tile(np.arange(replicas), (1 + resamples, 2, 1))
    at_once = max(1, COUNTS_AT_ONCE // n_rows)
    counts_BN = np.empty((min(at_once, resamples), n_rows))
    for start in range(1, 1 + resamples, at_once):
        past = min(start + at_once, 1 + resamples)
        for b in range(start, past):
            counts_BN[b - start] = np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows)
            drawn_BPR[b] = [rng.integers(0, replicas, replicas) for _ in range(2)]
        mean_BX[start:past] = counts_BN[: past - start] @ values_XN.T / n_rows
    return _Draws(mean_BX=mean_BX, first_BR=drawn_BPR[:, 0], second_BR=drawn_BPR[:, 1])


def _share(edge_B: np.ndarray, gain_B: np.ndarray) -> Recovered:
    """Return the share and its intervals from the differences (B = 0: of the rows themselves)."""
    found: dict[str, Any] = {"edge": _interval(edge_B), "gain": _interval(gain_B)}
    edge, gain = found["edge"], found["gain"]
    if edge[1] <= 0:
        return Recovered(value=None, low=None, high=None, **found)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _percentiles(gain_B[1:] / edge_B[1:])
    return Recovered(value=gain[0] / edge[0], low=low, high=high, **found)


def _interval(difference_B: np.ndarray) -> Interval:
    return (float(difference_B[0]), *_percentiles(difference_B[1:]))


def _percentiles(drawn: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
