"""Metrics against scikit-learn and hand-worked values; recovered against a plain loop and a simulation."""

import numpy as np
import pytest
import sklearn.metrics

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


def test_auc_is_not_given_where_a_class_has_no_row() -> None:
    log_prob_NC, _ = example(3)
    assert metrics.classification(log_prob_NC, np.zeros(400, np.int64))["roc_auc"] is None


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


def hits(rate: float, n: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(n) < rate).astype(float)


def test_recovered_is_a_ratio_of_means_over_replicas() -> None:
    ensemble = np.ones(1000)
    student = np.stack([np.r_[np.ones(900), np.zeros(100)], np.r_[np.ones(800), np.zeros(200)]])
    baseline = np.stack([np.r_[np.ones(700), np.zeros(300)], np.r_[np.ones(500), np.zeros(500)]])
    found = metrics.recovered(ensemble, student, baseline, higher_is_better=True)
    assert found.value == pytest.approx((0.85 - 0.6) / (1 - 0.6))
    assert found.edge[0] == pytest.approx(0.4)
    assert found.gain[0] == pytest.approx(0.25)
    assert found.low < found.value < found.high


def test_recovered_counts_a_lower_loss_as_better() -> None:
    ensemble, student, baseline = np.full(50, 1.0), np.full((1, 50), 1.5), np.full((1, 50), 3.0)
    found = metrics.recovered(ensemble, student, baseline, higher_is_better=False)
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high) == pytest.approx((0.75, 0.75))


def test_no_ratio_is_given_where_the_edge_touches_zero() -> None:
    rng = np.random.default_rng(0)
    found = metrics.recovered(
        hits(0.9, 500, rng), hits(0.9, 500, rng)[None], hits(0.9, 500, rng)[None], higher_is_better=True
    )
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.edge[1] <= 0
    assert found.to_json()["note"] == "no edge to recover"


def test_recovered_is_not_clipped() -> None:
    student = np.ones((1, 400))
    baseline, ensemble = np.r_[np.zeros(200), np.ones(200)], np.r_[np.zeros(100), np.ones(300)]
    found = metrics.recovered(ensemble, student, baseline[None], higher_is_better=True)
    assert found.value == pytest.approx(2.0)


def test_the_bootstrap_is_the_plain_loop_over_resampled_rows() -> None:
    rng = np.random.default_rng(5)
    ensemble, student, baseline = hits(0.95, 300, rng), hits(0.9, 300, rng), hits(0.7, 300, rng)
    found = metrics.recovered(ensemble, student[None], baseline[None], higher_is_better=True, seed=1, resamples=400)
    again = np.random.default_rng(1)
    ratios = []
    for _ in range(400):
        rows = again.integers(0, 300, 300)
        again.choice(1, 1), again.choice(1, 1)
        e, s, b = ensemble[rows].mean(), student[rows].mean(), baseline[rows].mean()
        ratios.append((s - b) / (e - b))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, (0.025, 0.975))))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(100):
        found = metrics.recovered(
            hits(0.9, 800, rng),
            hits(0.85, 800, rng)[None],
            hits(0.7, 800, rng)[None],
            higher_is_better=True,
            seed=trial,
            resamples=300,
        )
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= (0.85 - 0.7) / (0.9 - 0.7) <= found.high
    assert 88 <= covered <= 100
