"""Who is in the ensemble, and what each member learns from."""

import numpy as np
import pytest

from kd_ray.config import Config
from kd_ray.groups import columns_of, fold_of, members, rows_of, saw
from kd_ray.knobs import Teachers

FOREST = {"kind": "sklearn", "estimator": "sklearn.ensemble.RandomForestClassifier", "count": 2}
COLUMNS = {"kind": "columns", "columns": [["a", "b"], ["c", "d"]]}
SAVED = {"kind": "saved", "paths": ["x", "y.onnx"]}


def teachers(**changes: object) -> Teachers:
    return Config.of({"teachers": changes}).teachers


def test_members_are_numbered_through_the_groups_and_files_and_columns_count_for_themselves() -> None:
    every = members(teachers(groups=[FOREST, SAVED, COLUMNS, {"kind": "mlp"}]))
    assert [m.number for m in every] == list(range(7))
    assert [m.group.kind for m in every] == ["sklearn"] * 2 + ["saved"] * 2 + ["columns"] * 2 + ["mlp"]
    assert [m.is_network for m in every] == [False, False, True, False, False, False, True]
    assert teachers(groups=[FOREST, COLUMNS]).words == ["a", "b", "c", "d"]
    assert every[0].name == "teacher 0 (sklearn)"


def test_without_groups_there_are_count_networks_of_the_model() -> None:
    every = members(teachers(count=3, model={"hidden": [5]}))
    assert [(m.number, m.group.kind, m.group.model.hidden) for m in every] == [(n, "mlp", [5]) for n in range(3)]


def test_a_member_stays_the_same_when_its_group_grows_or_a_later_one_comes() -> None:
    small = [m.fingerprint("t") for m in members(teachers(groups=[FOREST]))]
    grown = [m.fingerprint("t") for m in members(teachers(groups=[{**FOREST, "count": 4}, COLUMNS]))]
    assert grown[:2] == small
    other = members(teachers(groups=[{**FOREST, "parameters": {"n_estimators": 3}}]))
    assert not set(small) & {m.fingerprint("t") for m in other}
    assert not set(small) & {m.fingerprint("u") for m in members(teachers(groups=[FOREST]))}


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_a_row_is_kept_from_the_members_of_its_fold_and_no_others(folds: int) -> None:
    ids, knobs = np.arange(5_000) * 3, teachers(folds=folds, count=folds)
    fold_N = fold_of(ids, folds, seed=4)
    np.testing.assert_allclose(np.bincount(fold_N, minlength=folds) / len(ids), 1 / folds, atol=0.03)
    order = np.random.default_rng(0).permutation(len(ids))
    assert np.array_equal(fold_of(ids[order], folds, seed=4), fold_N[order])
    for member in range(2 * folds):
        assert np.array_equal(saw(member, ids, knobs, 4), fold_N != member % folds)
        assert np.array_equal(rows_of(member, ids, knobs, 4), np.flatnonzero(fold_N != member % folds))


def test_bootstrap_draws_as_many_rows_with_replacement_by_the_members_seed() -> None:
    ids, knobs = np.arange(4_000), teachers(bootstrap=True)
    drawn = rows_of(3, ids, knobs, 42)
    assert len(drawn) == 4_000
    assert len(np.unique(drawn)) / 4_000 == pytest.approx(1 - np.exp(-1), abs=0.03)
    assert np.array_equal(rows_of(3, ids, knobs, 42), drawn)
    assert not np.array_equal(rows_of(4, ids, knobs, 42), drawn)


def test_a_member_sees_the_asked_share_of_the_columns_and_at_least_one() -> None:
    seen = [columns_of(member, 10, teachers(features=0.3), 42) for member in range(200)]
    assert {int(seen_D.sum()) for seen_D in seen} == {3}
    np.testing.assert_allclose(np.mean(seen, 0), 0.3, atol=0.12)
    assert columns_of(0, 10, teachers(features=0.01), 42).sum() == 1
    assert columns_of(0, 10, teachers(), 42).all()


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ({"kind": "sklearn"}, "teachers.groups: sklearn needs estimator"),
        ({"kind": "torch"}, "teachers.groups: torch needs estimator"),
        ({"kind": "saved"}, "teachers.groups: saved needs paths"),
        ({"kind": "columns"}, "teachers.groups: columns needs columns"),
    ],
)
def test_a_group_without_what_its_kind_needs_is_refused(group: dict, says: str) -> None:
    with pytest.raises(Exception, match=says):
        teachers(groups=[group])
