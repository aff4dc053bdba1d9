"""The recovered share against hand-worked values, a plain loop and a simulation."""

from typing import Any

import numpy as np
import pytest

from kd_ray.recovery import COUNTS_AT_ONCE, Measure, Recovered, recovered


def share(
    ensemble_N: np.ndarray,
    student_RN: np.ndarray,
    baseline_RN: np.ndarray,
    *,
    higher_is_better: bool,
    of_mean: Any = np.asarray,
    **how: int,
) -> Recovered:
    measures = {"m": Measure(higher_is_better=higher_is_better, of_mean=of_mean)}
    found = recovered({"m": ensemble_N[None]}, {"m": baseline_RN}, {"student": {"m": student_RN}}, measures, **how)
    return found["student"]["m"]


def hits(rate: float, n: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(n) < rate).astype(float)


def test_recovered_is_a_ratio_of_means_over_replicas() -> None:
    ensemble = np.ones(1000)
    student = np.stack([np.r_[np.ones(900), np.zeros(100)], np.r_[np.ones(800), np.zeros(200)]])
    baseline = np.stack([np.r_[np.ones(700), np.zeros(300)], np.r_[np.ones(500), np.zeros(500)]])
    found = share(ensemble, student, baseline, higher_is_better=True)
    assert found.value == pytest.approx((0.85 - 0.6) / (1 - 0.6))
    assert found.edge[0] == pytest.approx(0.4)
    assert found.gain[0] == pytest.approx(0.25)
    assert found.low < found.value < found.high


def test_recovered_counts_a_lower_loss_as_better() -> None:
    ensemble, student, baseline = np.full(50, 1.0), np.full((1, 50), 1.5), np.full((1, 50), 3.0)
    found = share(ensemble, student, baseline, higher_is_better=False)
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high) == pytest.approx((0.75, 0.75))


def test_no_ratio_is_given_where_the_edge_touches_zero() -> None:
    rng = np.random.default_rng(0)
    found = share(hits(0.9, 500, rng), hits(0.9, 500, rng)[None], hits(0.9, 500, rng)[None], higher_is_better=True)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.edge[1] <= 0
    assert found.to_json()["note"] == "no edge to recover"


def test_recovered_is_not_clipped() -> None:
    student = np.ones((1, 400))
    baseline, ensemble = np.r_[np.zeros(200), np.ones(200)], np.r_[np.zeros(100), np.ones(300)]
    found = share(ensemble, student, baseline[None], higher_is_better=True)
    assert found.value == pytest.approx(2.0)


def test_the_bootstrap_is_the_plain_loop_over_resampled_rows() -> None:
    rng = np.random.default_rng(5)
    ensemble, student, baseline = hits(0.95, 300, rng), hits(0.9, 300, rng), hits(0.7, 300, rng)
    found = share(ensemble, student[None], baseline[None], higher_is_better=True, seed=1, resamples=400)
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
        found = share(
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


def test_of_a_root_mean_square_the_root_is_taken_of_each_replicas_mean() -> None:
    rng = np.random.default_rng(3)
    ensemble, student, baseline = rng.normal(size=400), 1.2 * rng.normal(size=(2, 400)), 2 * rng.normal(size=(2, 400))
    found = share(ensemble**2, student**2, baseline**2, higher_is_better=False, of_mean=np.sqrt, seed=4, resamples=200)

    def rmse(errors_XN: np.ndarray) -> np.ndarray:
        return np.sqrt((errors_XN**2).mean(-1))

    base = rmse(baseline).mean()
    assert found.edge[0] == pytest.approx(base - rmse(ensemble))
    assert found.value == pytest.approx((base - rmse(student).mean()) / (base - rmse(ensemble)))
    again = np.random.default_rng(4)
    gains = []
    for _ in range(200):
        rows = again.integers(0, 400, 400)
        mine, its = again.integers(0, 2, 2), again.integers(0, 2, 2)
        gains.append(rmse(baseline[its][:, rows]).mean() - rmse(student[mine][:, rows]).mean())
    assert found.gain[1:] == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))


def test_every_role_and_metric_has_the_share_it_has_alone() -> None:
    rng = np.random.default_rng(8)
    measures = {"hit": Measure(higher_is_better=True), "miss": Measure()}

    def model(rate: float, replicas: int) -> dict[str, np.ndarray]:
        hit_RN = np.stack([hits(rate, 500, rng) for _ in range(replicas)])
        return {"hit": hit_RN, "miss": 1 - hit_RN}

    ensemble, baseline = model(0.95, 1), model(0.7, 3)
    students = {"student": model(0.9, 3), "augmented_control": model(0.8, 3)}
    found = recovered(ensemble, baseline, students, measures, resamples=100)
    for role, rows in students.items():
        alone = share(ensemble["hit"][0], rows["hit"], baseline["hit"], higher_is_better=True, resamples=100)
        for part in ("edge", "gain"):
            assert getattr(found[role]["hit"], part) == pytest.approx(getattr(alone, part))
        assert found[role]["miss"].value == pytest.approx(alone.value)


def test_rows_that_do_not_fit_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = hits(0.9, 300, rng), hits(0.8, 300, rng)[None], hits(0.6, 300, rng)[None]
    at_once = share(*rows, higher_is_better=True, resamples=50)
    assert COUNTS_AT_ONCE >= 50 * 300
    monkeypatch.setattr("kd_ray.recovery.COUNTS_AT_ONCE", 7 * 300)
    in_parts = share(*rows, higher_is_better=True, resamples=50)
    assert (in_parts.low, in_parts.high) == pytest.approx((at_once.low, at_once.high))
