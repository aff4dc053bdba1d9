"""How much each member's word counts."""

import numpy as np
import pytest
from scipy.special import log_softmax

from kd_ray.weights import loss, weigh

RNG = np.random.default_rng(3)


def test_nll_weights_are_inverse_to_the_members_losses() -> None:
    # Two rows of class 0: NLL ln 2 for even logits, ln(4/3) for odds of 3.
    logits_MNC = np.array([[[0.0, 0.0]] * 2, [[np.log(3), 0.0]] * 2])
    weight_M = weigh("nll", logits_MNC, np.array([0, 0]), is_regression=False)
    inverse = 1 / np.log([2, 4 / 3])
    np.testing.assert_allclose(weight_M, inverse / inverse.sum())


def test_regression_weights_are_inverse_to_squared_errors() -> None:
    values_MNC = np.array([[[1.0]], [[2.0]]])
    np.testing.assert_allclose(weigh("nll", values_MNC, np.array([0.0]), is_regression=True), [0.8, 0.2])


def plain_greedy(logits_MNC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    picks: list[int] = []
    best = np.inf
    while len(picks) < 100:
        losses = []
        for member in range(len(logits_MNC)):
            mean_NC = logits_MNC[[*picks, member]].mean(0)
            losses.append(-log_softmax(mean_NC, 1)[np.arange(len(label_N)), label_N].mean())
        if min(losses) >= best:
            break
        best = min(losses)
        picks.append(int(np.argmin(losses)))
    return np.bincount(picks, minlength=len(logits_MNC)) / len(picks)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_selection_is_that_of_a_plain_loop_and_beats_the_best_member(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, 3, 60)
    logits_MNC = 1.5 * np.eye(3)[label_N] + 2 * rng.normal(size=(5, 60, 3))
    weight_M = weigh("greedy", logits_MNC, label_N, is_regression=False)
    np.testing.assert_allclose(weight_M, plain_greedy(logits_MNC, label_N))
    mean_NC = np.tensordot(weight_M, logits_MNC, 1)
    assert loss(mean_NC, label_N, False) <= min(loss(logits_NC, label_N, False) for logits_NC in logits_MNC)


def test_greedy_selection_takes_the_two_whose_errors_cancel() -> None:
    label_N = RNG.normal(size=50)
    error_N = RNG.normal(size=50)
    values_MNC = np.stack([label_N + error_N, label_N - error_N, label_N + 3 * RNG.normal(size=50)])[..., None]
    np.testing.assert_allclose(weigh("greedy", values_MNC, label_N, is_regression=True), [0.5, 0.5, 0])
