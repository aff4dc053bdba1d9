"""Metrics of a classifier, and how much of an ensemble's edge a student recovered.

Axes: N rows, C classes, R replicas.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

ECE_BINS = 15
RESAMPLES = 2000


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Return log-probabilities in float64; the last axis holds classes."""
    shifted = logits_NC.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def per_row(log_prob_NC: np.ndarray, label_N: np.ndarray) -> dict[str, np.ndarray]:
    """Return each row's accuracy (0 or 1) and negative log-likelihood in nats: what intervals resample."""
    picked = np.take_along_axis(log_prob_NC, label_N[:, None], -1)[:, 0]
    return {"accuracy": (log_prob_NC.argmax(-1) == label_N).astype(np.float64), "nll": -picked}


def expected_calibration_error(prob_NC: np.ndarray, label_N: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the mean gap of confidence and accuracy over `bins` groups of equally many rows.

    Rows are sorted by the probability of their predicted class and cut into equal-mass bins; the gaps are
    weighted by rows: Nixon et al. 2019, "Measuring Calibration in Deep Learning".
    """
    confidence_N = prob_NC.max(-1)
    correct_N = (prob_NC.argmax(-1) == label_N).astype(np.float64)
    groups = np.array_split(np.argsort(confidence_N, kind="stable"), min(bins, len(label_N)))
    gaps = [abs(confidence_N[g].mean() - correct_N[g].mean()) * len(g) for g in groups]
    return float(sum(gaps) / len(label_N))


def roc_auc(prob_NC: np.ndarray, label_N: np.ndarray) -> float | None:
    """Return the one-vs-rest ROC AUC, the mean over classes; None where a class has no row."""
    from sklearn.metrics import roc_auc_score

    classes = prob_NC.shape[1]
    if len(np.unique(label_N)) < classes:
        return None
    one_NC = label_N[:, None] == np.arange(classes)
    return float(np.mean([roc_auc_score(one_NC[:, c], prob_NC[:, c]) for c in range(classes)]))


def classification(log_prob_NC: np.ndarray, label_N: np.ndarray) -> dict[str, float | None]:
    """Return accuracy, NLL (nats), Brier score (summed over classes, as Brier 1950), ECE and ROC AUC."""
    prob_NC = np.exp(log_prob_NC)
    rows = per_row(log_prob_NC, label_N)
    one_hot_NC = label_N[:, None] == np.arange(prob_NC.shape[1])
    return {
        "accuracy": float(rows["accuracy"].mean()),
        "nll": float(rows["nll"].mean()),
        "brier": float(((prob_NC - one_hot_NC) ** 2).sum(-1).mean()),
        "ece": expected_calibration_error(prob_NC, label_N),
        "roc_auc": roc_auc(prob_NC, label_N),
    }


def fidelity(student_NC: np.ndarray, ensemble_NC: np.ndarray) -> dict[str, float]:
    """Return how often student and ensemble name one class, and KL(ensemble ‖ student) in nats a row."""
    divergence_N = (np.exp(ensemble_NC) * (ensemble_NC - student_NC)).sum(-1)
    return {
        "agreement": float((student_NC.argmax(-1) == ensemble_NC.argmax(-1)).mean()),
        "kl": float(divergence_N.mean()),
    }


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
    edge: tuple[float, float, float]
    gain: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        def interval(v: tuple[float, float, float]) -> dict[str, float]:
            return dict(zip(("value", "low", "high"), v, strict=True))

        out: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        out |= {"edge": interval(self.edge), "gain": interval(self.gain)}
        return out if self.value is not None else out | {"note": "no edge to recover"}


def recovered(
    ensemble_N: np.ndarray,
    student_RN: np.ndarray,
    baseline_RN: np.ndarray,
    *,
    higher_is_better: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Recovered:
    """Return the recovered share of the ensemble's edge on a metric, given each row's value of it.

    The interval is the percentile interval of a paired bootstrap: each resample draws test rows, the same for
    all three, and replicas of student and baseline (Efron & Tibshirani 1993, chapter 13).
    """
    sign = 1.0 if higher_is_better else -1.0
    edge, gain = _differences(ensemble_N.mean(), student_RN.mean(1), baseline_RN.mean(1), sign)
    rng = np.random.default_rng(seed)
    n_rows = len(ensemble_N)
    stacked_MN = np.vstack([ensemble_N[None], student_RN, baseline_RN])
    n_student = len(student_RN)
    drawn = np.empty((resamples, 2))
    for b in range(resamples):
        counts_N = np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows)
        means_M = stacked_MN @ counts_N / n_rows
        student_R, baseline_R = means_M[1 : 1 + n_student], means_M[1 + n_student :]
        drawn[b] = _differences(
            means_M[0],
            rng.choice(student_R, len(student_R)),
            rng.choice(baseline_R, len(baseline_R)),
            sign,
        )
    edge_low, edge_high = np.quantile(drawn[:, 0], (0.025, 0.975))
    gain_low, gain_high = np.quantile(drawn[:, 1], (0.025, 0.975))
    found = {
        "edge": (edge, float(edge_low), float(edge_high)),
        "gain": (gain, float(gain_low), float(gain_high)),
    }
    if edge_low <= 0:
        return Recovered(value=None, low=None, high=None, **found)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(drawn[:, 1] / drawn[:, 0], (0.025, 0.975))
    return Recovered(value=gain / edge, low=float(low), high=float(high), **found)


def _differences(ensemble: float, student_R: np.ndarray, baseline_R: np.ndarray, sign: float) -> tuple[float, float]:
    """Return the ensemble's and the student's lead over the baseline."""
    base = float(baseline_R.mean())
    return sign * (float(ensemble) - base), sign * (float(student_R.mean()) - base)
