"""Splits of many rows, drawn in little memory, and the codes that a survey keeps of a column."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.data import splits
from kd_ray.data.splits import SPLITS, TEST, TRAIN, VALID
from kd_ray.data.survey import Interest, Survey
from kd_ray.errors import DataError
from kd_ray.knobs import Split


@pytest.fixture
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MANY", 100)


@pytest.mark.usefixtures("_many")
def test_many_rows_are_shared_out_by_class_to_within_one_row() -> None:
    label_N = np.random.default_rng(1).choice(4, 10_007, p=[0.7, 0.2, 0.09, 0.01])
    split_N = splits.drawn(len(label_N), Split(test=0.2, valid=500, seed=5), label_N, None)
    assert [int((split_N == s).sum()) for s in (TEST, VALID)] == [2_002, 500]  # the share is rounded up
    for split, share in ((TEST, 2_002 / 10_007), (VALID, 500 / 10_007)):
        found_C = np.bincount(label_N[split_N == split], minlength=4)
        assert (np.abs(found_C - share * np.bincount(label_N)) < 1.5).all()


@pytest.mark.usefixtures("_many")
def test_the_seed_decides_which_of_many_rows_and_every_row_may_be_held_out() -> None:
    draws = [splits.drawn(1_000, Split(test=0.5, valid=0, seed=seed), None, None) for seed in (1, 1, *range(2, 30))]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert (np.array(draws) == TEST).any(0).all()
    assert set(draws[0].tolist()) == {TRAIN, TEST}


@pytest.mark.usefixtures("_many")
def test_too_large_a_split_of_many_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.split.valid: must leave rows to train on; it takes 150 of 150 rows"):
        splits.drawn(200, Split(test=50, valid=150), None, None)


def test_few_rows_are_drawn_by_scikit_learn() -> None:
    label_N = np.arange(90) % 3
    config = Split(test=0.2, valid=0.1, seed=2)
    split_N = splits.drawn(90, config, label_N, None)
    for name, ids in splits.draw(90, config, label_N).items():
        np.testing.assert_array_equal(np.flatnonzero(split_N == SPLITS.index(name)), ids)


TEXT = st.sampled_from([*"abc"])
CELLS = {
    "few texts": (pa.string(), TEXT),
    "many texts": (pa.string(), st.integers(0, 400).map(str)),
    "few numbers": (pa.int64(), st.integers(0, 3)),
    "many numbers": (pa.int64(), st.integers(0, 2**60)),
    "fractions": (pa.float64(), st.floats(allow_nan=False)),
    "booleans": (pa.bool_(), st.booleans()),
}


@pytest.mark.parametrize("kind", CELLS)
@given(data=st.data())
def test_a_column_that_a_survey_holds_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    type_, cells = CELLS[kind]
    parts = data.draw(st.lists(st.lists(cells, min_size=1, max_size=200), min_size=1, max_size=4))
    interest = Interest(columns=["x"], held=["x"])
    survey: Survey | None = None
    for part in parts:
        look = Survey.of(pa.table({"x": pa.array(part, type_)}), 0, interest)
        survey = look if survey is None else survey.merge(look)
    assert survey is not None
    column = survey.column("x")
    assert column.cast(type_).to_pylist() == [cell for part in parts for cell in part]


def test_labels_of_few_values_take_a_byte_a_row() -> None:
    interest = Interest(columns=["x"], held=["x"])
    looks = [Survey.of(pa.table({"x": pa.array([at, at + 1] * 5_000)}), 0, interest) for at in (0, 1, 2)]
    column = looks[0].merge(looks[1]).merge(looks[2]).column("x")
    assert column.type == pa.dictionary(pa.int8(), pa.int64())
    assert column.nbytes < 31_000
