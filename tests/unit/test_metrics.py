"""Metrics against scikit-learn, plain loops and hand-worked values."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from kd_ray import metrics


def example(classes: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return metrics.log_softmax(rng.normal(size=(400, classes)) * 2), rng.integers(0, classes, 400)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_accuracy_nll_brier_and_auc_are_scikit_learns(classes: int) -> None:
    log_prob_NC, label_N = example(classes)
    found, prob_NC = metrics.classification(log_prob_NC, label_N), np.exp(log_prob_NC)
    one_hot = np.eye(classes)[label_N]
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(label_N, prob_NC.argmax(1)))
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(label_N, prob_NC))
    assert found["brier"] == pytest.approx(((prob_NC - one_hot) ** 2).sum(1).mean())
    auc = sklearn.metrics.roc_auc_score(one_hot, prob_NC, average="macro")
    assert found["roc_auc"] == pytest.approx(auc)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_recalls_and_balanced_accuracy_are_scikit_learns(classes: int) -> None:
    log_prob_NC, label_N = example(classes)
    found, named_N = metrics.classification(log_prob_NC, label_N), log_prob_NC.argmax(1)
    assert found["recall"] == pytest.approx(sklearn.metrics.recall_score(label_N, named_N, average=None))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(label_N, named_N))


def test_pr_auc_is_scikit_learns_mean_average_precision() -> None:
    log_prob_NC, label_N = example(5)
    expected = sklearn.metrics.average_precision_score(np.eye(5)[label_N], np.exp(log_prob_NC), average="macro")
    assert metrics.classification(log_prob_NC, label_N)["pr_auc"] == pytest.approx(expected)


def test_pr_auc_of_two_classes_is_that_of_class_1() -> None:
    log_prob_NC, label_N = example(2)
    expected = sklearn.metrics.average_precision_score(label_N, np.exp(log_prob_NC[:, 1]))
    assert metrics.classification(log_prob_NC, label_N)["pr_auc"] == pytest.approx(expected)


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({of_class for _, of_class in rows}) == 2
    )
)
def test_areas_of_tied_scores_are_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    score_N, of_class_N = np.array([s for s, _ in rows]) / 4, np.array([of_class for _, of_class in rows])
    roc, pr = metrics.areas(score_N, of_class_N)
    assert roc == pytest.approx(sklearn.metrics.roc_auc_score(of_class_N, score_N))
    assert pr == pytest.approx(sklearn.metrics.average_precision_score(of_class_N, score_N))


def test_what_needs_a_row_of_every_class_is_not_given_without() -> None:
    log_prob_NC, label_N = example(3)
    label_N[label_N == 1] = 0
    found = metrics.classification(log_prob_NC, label_N)
    assert (found["roc_auc"], found["pr_auc"], found["balanced_accuracy"]) == (None, None, None)
    hits = log_prob_NC.argmax(1) == label_N
    assert found["recall"] == [pytest.approx(hits[label_N == 0].mean()), None, pytest.approx(hits[label_N == 2].mean())]


def test_regression_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    label_N = 100 + 20 * rng.normal(size=300)
    value_N = label_N + 7 * rng.normal(size=300)
    assert metrics.regression(value_N, label_N) == pytest.approx(
        {
            "rmse": sklearn.metrics.mean_squared_error(label_N, value_N) ** 0.5,
            "mae": sklearn.metrics.mean_absolute_error(label_N, value_N),
            "r2": sklearn.metrics.r2_score(label_N, value_N),
        }
    )


def test_r2_is_not_given_where_all_labels_are_one_number() -> None:
    assert metrics.regression(np.array([1.0, 3.0]), np.array([0.1, 0.1]))["r2"] is None


def test_likeness_worked_by_hand() -> None:
    # Errors 0, 0, 3: RMSE sqrt 3; centred (-1, 0, 1) and (-2, -1, 3): 5 / sqrt(2 * 14).
    found = metrics.likeness(np.array([1.0, 2.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx({"rmse": 3**0.5, "correlation": 5 / 28**0.5})


def test_there_is_no_correlation_with_what_never_varies() -> None:
    assert metrics.likeness(np.array([1.0, 2.0]), np.array([0.1, 0.1]))["correlation"] is None


def test_mean_scores_go_number_by_number_and_miss_what_one_model_misses() -> None:
    every = [{"nll": 1.0, "recall": [0.5, None], "r2": None}, {"nll": 3.0, "recall": [1.0, 0.2], "r2": 0.5}]
    assert metrics.mean_scores(every) == {"nll": 2.0, "recall": [0.75, None], "r2": None}


def test_calibration_error_worked_by_hand() -> None:
    # Two bins of two rows: confidences 0.6, 0.6 with one hit (gap 0.1) and 0.9, 0.9 with two hits (gap 0.1).
    prob_NC = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    label_N = np.array([0, 1, 0, 1])
    assert metrics.expected_calibration_error(prob_NC, label_N, bins=2) == pytest.approx(0.1)


def test_log_softmax_stands_large_logits() -> None:
    found = metrics.log_softmax(np.array([[1e4, 0.0], [-1e4, 1e4]]))
    np.testing.assert_allclose(found, [[0, -1e4], [-2e4, 0]])


def test_fidelity_worked_by_hand() -> None:
    ensemble = np.log([[0.5, 0.5], [0.9, 0.1]])
    student = np.log([[0.25, 0.75], [0.9, 0.1]])
    found = metrics.fidelity(student, ensemble)
    assert found["agreement"] == 0.5
    assert found["kl"] == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2)
