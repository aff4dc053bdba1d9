"""Metrics of classifiers and of regressions. Every row counts once: weights of rows have no part in them.

Axes: N rows, C classes.
"""

from typing import Any

import numpy as np

ECE_BINS = 15
Scores = dict[str, Any]
"""Metrics by name: numbers, None where there is none, or a list of such, one a class."""


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


def areas(score_N: np.ndarray, of_class_N: np.ndarray) -> tuple[float, float]:
    """Return the areas under the ROC and the precision-recall curve of one class against the rest.

    The first is the share of pairs (a row of the class, another row) in the right order, a tie counting half
    (Mann & Whitney 1947); the second is average precision, the mean precision at the score of each row of the class.
    There must be rows of both kinds. One sort of all scores and a binary search for the class's rows: 100 classes of
    200,000 rows take 0.2 s, where scikit-learn's curves take 9 s.
    """
    every_N, own_P = np.sort(score_N), np.sort(score_N[of_class_N])
    rows, own = len(every_N), len(own_P)
    below_P, up_to_P = (np.searchsorted(every_N, own_P, side) for side in ("left", "right"))
    own_below_P, own_up_to_P = (np.searchsorted(own_P, own_P, side) for side in ("left", "right"))
    right_P = (below_P - own_below_P) + (up_to_P - own_up_to_P)
    precision_P = (own - own_below_P) / (rows - below_P)
    return float(right_P.sum() / (2 * own * (rows - own))), float(precision_P.mean())


def curves(prob_NC: np.ndarray, label_N: np.ndarray) -> dict[str, float | None]:
    """Return ROC AUC and PR AUC (average precision): one-vs-rest, the mean over classes; of two classes, PR AUC is
    that of class 1. None where a class has no row.
    """
    classes = prob_NC.shape[1]
    if len(np.unique(label_N)) < classes:
        return {"roc_auc": None, "pr_auc": None}
    found = np.array([areas(prob_NC[:, c], label_N == c) for c in range(classes)])
    return {"roc_auc": float(found[:, 0].mean()), "pr_auc": float(found[1 if classes == 2 else slice(None), 1].mean())}


def recalls(named_N: np.ndarray, label_N: np.ndarray, classes: int) -> Scores:
    """Return each class's recall, None where it has no row, and their mean, balanced accuracy, None where one is."""
    rows_C = np.bincount(label_N, minlength=classes)
    hits_C = np.bincount(label_N[named_N == label_N], minlength=classes)
    recall_C = [float(hits / rows) if rows else None for hits, rows in zip(hits_C, rows_C, strict=True)]
    return {"balanced_accuracy": mean_of(recall_C), "recall": recall_C}


def classification(log_prob_NC: np.ndarray, label_N: np.ndarray) -> Scores:
    """Return accuracy, NLL (nats), Brier score (summed over classes, as Brier 1950), ECE, ROC AUC and PR AUC, balanced
    accuracy and the recall of every class.
    """
    prob_NC = np.exp(log_prob_NC)
    rows = per_row(log_prob_NC, label_N)
    brier_N = np.einsum("nc,nc->n", prob_NC, prob_NC) - 2 * np.exp(-rows["nll"]) + 1
    return {
        "accuracy": float(rows["accuracy"].mean()),
        "nll": float(rows["nll"].mean()),
        "brier": float(brier_N.mean()),
        "ece": expected_calibration_error(prob_NC, label_N),
        **curves(prob_NC, label_N),
        **recalls(log_prob_NC.argmax(-1), label_N, prob_NC.shape[1]),
    }


def fidelity(student_NC: np.ndarray, ensemble_NC: np.ndarray) -> dict[str, float]:
    """Return how often student and ensemble name one class, and KL(ensemble ‖ student) in nats a row."""
    divergence_N = (np.exp(ensemble_NC) * (ensemble_NC - student_NC)).sum(-1)
    return {
        "agreement": float((student_NC.argmax(-1) == ensemble_NC.argmax(-1)).mean()),
        "kl": float(divergence_N.mean()),
    }


def regression(value_N: np.ndarray, label_N: np.ndarray) -> Scores:
    """Return RMSE and MAE, in the target's units, and R², None where all labels are one number."""
    error_N = value_N - label_N
    mse = float((error_N**2).mean())
    r2 = 1 - mse / float(label_N.var()) if np.ptp(label_N) else None
    return {"rmse": mse**0.5, "mae": float(np.abs(error_N).mean()), "r2": r2}


def likeness(student_N: np.ndarray, ensemble_N: np.ndarray) -> Scores:
    """Return the RMSE of student against ensemble, and their correlation, None where one of them never varies."""
    vary = np.ptp(student_N) and np.ptp(ensemble_N)
    return {
        "rmse": float(((student_N - ensemble_N) ** 2).mean() ** 0.5),
        "correlation": float(np.corrcoef(student_N, ensemble_N)[0, 1]) if vary else None,
    }


def mean_of(values: list[Any]) -> Any:
    """Return the mean of numbers, or of lists number by number; None where one of them is None."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], list):
        return [mean_of(list(each)) for each in zip(*values, strict=True)]
    return float(np.mean(values))


def mean_scores(every: list[Scores]) -> Scores:
    """Return the mean of each metric over several models."""
    return {name: mean_of([scores[name] for scores in every]) for name in every[0]}
