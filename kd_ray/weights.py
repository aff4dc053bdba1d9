"""How much each member's word counts in the ensemble, by what it says of the validation rows.

Axes: M members, N validation rows, C classes (1 for a regression).
"""

import numpy as np

from kd_ray.metrics import log_softmax

PICKS = 100


def weigh(how: str, logits_MNC: np.ndarray, label_N: np.ndarray, *, is_regression: bool) -> np.ndarray:
    """Return a weight for each member, shape [M], that sum to 1.

    `nll`: in inverse proportion to the member's NLL, or to a regression's squared error, which are the weights of
    least variance where errors are independent (Bates & Granger 1969). `greedy`: the share of picks of forward
    selection with replacement (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of
    models"): each pick is the member that makes the mean's loss least, until none does.
    """
    if how == "greedy":
        counts_M = _greedy(logits_MNC.astype(np.float64), label_N, is_regression)
        return counts_M / counts_M.sum()
    inverse_M = 1 / np.maximum([loss(logits_NC, label_N, is_regression) for logits_NC in logits_MNC], 1e-12)
    return np.asarray(inverse_M / inverse_M.sum())


def loss(logits_NC: np.ndarray, label_N: np.ndarray, is_regression: bool) -> float:
    """Return the mean NLL, or a regression's mean squared error."""
    if is_regression:
        return float(((logits_NC[:, 0] - label_N) ** 2).mean())
    return float(-np.take_along_axis(log_softmax(logits_NC), label_N[:, None], 1).mean())


def _greedy(logits_MNC: np.ndarray, label_N: np.ndarray, is_regression: bool) -> np.ndarray:
    counts_M = np.zeros(len(logits_MNC))
    total_NC, best = np.zeros_like(logits_MNC[0]), np.inf
    for picked in range(1, PICKS + 1):
        losses = [loss((total_NC + logits_NC) / picked, label_N, is_regression) for logits_NC in logits_MNC]
        member = int(np.argmin(losses))
        if losses[member] >= best:
            break
        best = losses[member]
        counts_M[member] += 1
        total_NC += logits_MNC[member]
    return counts_M
