"""What a task makes of a model's numbers, worked by hand."""

import numpy as np
import pytest

from kd_ray.tasks import Classification, Regression, selection_score, task_of

SALES = {"task": {"kind": "regression", "mean": 100.0, "scale": 10.0}}


def test_a_regression_is_scored_in_the_targets_own_units() -> None:
    task = task_of(SALES)
    truth_N = task.truth(np.array([0.0, 1.0, -1.0], np.float32))
    says_N = task.says(np.array([[0.3], [1.0], [-1.0]], np.float32))
    assert truth_N.tolist() == [100, 110, 90]
    assert task.scores(says_N, truth_N) == pytest.approx({"rmse": 3**0.5, "mae": 1.0, "r2": 1 - 9 / 200}, rel=1e-6)


def test_a_replica_of_a_regression_is_chosen_by_its_rmse() -> None:
    values_NC = np.array([[0.3], [0.4]], np.float32)
    assert selection_score(task_of(SALES), values_NC, np.array([100.0, 100.0])) == pytest.approx((25 / 2) ** 0.5)


def test_a_replica_of_a_classifier_is_chosen_by_its_nll() -> None:
    task = task_of({"task": {"kind": "classification", "classes": ["no", "yes"]}})
    values_NC = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    expected = -(np.log(0.75) + np.log(0.5)) / 2
    assert selection_score(task, values_NC, np.array([1, 0])) == pytest.approx(expected)


def test_members_of_a_classifier_disagree_on_the_class_that_the_ensemble_names() -> None:
    ensemble = np.log([[0.6, 0.4], [0.2, 0.8]])
    member = np.log([[0.9, 0.1], [0.3, 0.7]])
    assert Classification().opinion(member, ensemble) == pytest.approx([0.9, 0.7])


def test_members_of_a_regression_disagree_on_the_number() -> None:
    assert Regression(mean=0, scale=1).opinion(np.array([1.0, 2.0]), np.array([5.0, 5.0])).tolist() == [1, 2]
