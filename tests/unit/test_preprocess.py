import datetime
import decimal
import itertools
import json
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.special import ndtri
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from kd_ray import knobs, statistics
from kd_ray.errors import DataError
from kd_ray.preprocess import Preprocessor, Statistics
from kd_ray.schema import Column

X, C, D = (Column(name=name, kind=kind) for name, kind in (("x", "numeric"), ("c", "categorical"), ("d", "date")))
BOTH = [X, C]


def fit(columns: list[Column], table: pa.Table, **how: Any) -> Preprocessor:
    return Preprocessor.fit(columns, Statistics.of(columns, table), knobs.Preprocess(**how))


def fit_x(values: Any, **how: Any) -> Preprocessor:
    return fit([X], pa.table({"x": pa.array(values, from_pandas=True)}), **how)


def apply_x(fitted: Preprocessor, values: Any) -> np.ndarray:
    return fitted.apply(pa.table({"x": pa.array(values, from_pandas=True)}))


def merged(parts: list[Statistics]) -> Statistics:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


# Tables of anything that a row may hold


NUMBER = st.none() | st.sampled_from([0.0, -0.0, 1.0, 7.5]) | st.floats(-1e6, 1e6)
TEXT = st.none() | st.sampled_from(["a", "b", "", "ä", "a b"]) | st.text(max_size=3)
DATE = st.none() | st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
MIXED = [
    X,
    C,
    D,
    Column(name="n", kind="numeric"),
    Column(name="b", kind="categorical"),
    Column(name="z", kind="categorical"),
]


@st.composite
def tables(draw: st.DrawFn, min_size: int = 0) -> pa.Table:
    rows = draw(st.lists(st.tuples(NUMBER, TEXT, DATE), min_size=min_size, max_size=30))
    whole = [draw(st.none() | st.integers(-(2**53), 2**53)) for _ in rows]
    return pa.table(
        {
            "x": pa.array([x for x, _, _ in rows], pa.float64()),
            "c": pa.array([c for _, c, _ in rows], pa.string()),
            "d": pa.array([d for _, _, d in rows], pa.timestamp("us")),
            "n": pa.array(whole, pa.int64()),
            "b": pa.array([None if n is None else n % 2 == 0 for n in whole], pa.bool_()),
            "z": pa.array([None if n is None else n % 5 for n in whole], pa.int64()),
        }
    )


TRAINING = pa.table(
    {
        "x": pa.array([0.1, None, 7.5, -3.0, 1e5], pa.float64()),
        "c": pa.array(["a", "a", None, "b", "b"]),
        "d": pa.array([datetime.datetime(2024, 2, 29, 13), None, datetime.datetime(1969, 12, 31), None, None]),
        "n": pa.array([1, 2, 2**53, None, 0]),
        "b": pa.array([True, False, None, True, False]),
        "z": pa.array([0, 1, 1, 0, None]),
    }
)


@pytest.fixture(scope="module", params=["standard", "quantile", "none"])
def fitted(request: pytest.FixtureRequest) -> Preprocessor:
    return fit(MIXED, TRAINING, scale=request.param)


@given(table=tables(min_size=1), data=st.data())
@settings(deadline=None)
def test_a_row_is_encoded_the_same_whatever_else_is_in_the_table(
    fitted: Preprocessor, table: pa.Table, data: st.DataObject
) -> None:
    expected_ND = fitted.apply(table)
    assert expected_ND.dtype == np.float32
    assert expected_ND.flags.c_contiguous
    assert expected_ND.shape == (table.num_rows, len(fitted.names))
    order = data.draw(st.permutations(range(table.num_columns)))
    shuffled = table.select(list(order)).append_column("extra", pa.array(range(table.num_rows)))
    start, past = sorted(data.draw(st.tuples(*[st.integers(0, table.num_rows)] * 2)))
    chunked = pa.concat_tables([shuffled.slice(0, start), shuffled.slice(start)])
    assert np.array_equal(fitted.apply(chunked), expected_ND)
    assert np.array_equal(fitted.apply(shuffled.slice(start, past - start)), expected_ND[start:past])
    one_by_one = [fitted.apply(table.slice(row, 1)) for row in range(table.num_rows)]
    assert np.array_equal(np.concatenate(one_by_one), expected_ND)
    rows = data.draw(st.permutations(range(table.num_rows)))
    assert np.array_equal(fitted.apply(table.take(list(rows))), expected_ND[list(rows)])


@given(table=tables())
@settings(deadline=None)
def test_a_pandas_frame_is_encoded_as_the_table_it_came_from(fitted: Preprocessor, table: pa.Table) -> None:
    table = table.set_column(2, "d", table["d"].cast(pa.timestamp("us")))
    frame = pa.Table.from_pandas(table.to_pandas())
    assert np.array_equal(fitted.apply(frame), fitted.apply(table))


@given(training=tables(min_size=1), table=tables(), scale=st.sampled_from(["standard", "quantile", "none"]))
@settings(deadline=None)
def test_what_was_fitted_gives_the_same_bits_after_saving_and_loading(
    training: pa.Table, table: pa.Table, scale: str
) -> None:
    table, training = (pa.concat_tables([TRAINING, part]) for part in (table, training))
    fitted = fit(MIXED, training, scale=scale, min_rows=1)
    json_text, bytes_ = json.dumps(fitted.to_json(), allow_nan=False), save(fitted.arrays())
    again = Preprocessor.of(json.loads(json_text), load(bytes_))
    assert (again.names, again.levels) == (fitted.names, fitted.levels)
    assert again.apply(table).tobytes() == fitted.apply(table).tobytes()


@given(table=tables(min_size=1), data=st.data())
@settings(deadline=None)
def test_fitting_does_not_depend_on_how_rows_are_cut_or_merged(table: pa.Table, data: st.DataObject) -> None:
    table = pa.concat_tables([TRAINING, table])
    how = knobs.Preprocess(scale=data.draw(st.sampled_from(["standard", "quantile"])), min_rows=2)
    cuts = sorted(data.draw(st.sets(st.integers(0, table.num_rows), max_size=4)) | {0, table.num_rows})
    parts = [Statistics.of(MIXED, table.slice(first, past - first)) for first, past in itertools.pairwise(cuts)]
    parts = [pickle.loads(pickle.dumps(part)) for part in data.draw(st.permutations(parts))]
    whole = fit(MIXED, table, **how.model_dump())
    cut = Preprocessor.fit(MIXED, merged(parts), how)
    assert cut.to_json() == whole.to_json()
    assert (cut.names, cut.levels) == (whole.names, whole.levels)
    for name, values in whole.arrays().items():
        np.testing.assert_allclose(cut.arrays()[name], values, rtol=1e-9, atol=1e-9 * np.nanmax(np.abs(values)))


def test_statistics_of_many_small_tables_are_those_of_the_whole() -> None:
    parts = [TRAINING.slice(row, 1) for row in range(TRAINING.num_rows)]
    parts[1] = parts[1].set_column(3, "n", parts[1]["n"].cast(pa.float64()))  # a file may hold floats
    whole, small = fit(MIXED, TRAINING), Statistics.of_all(MIXED, iter(parts))
    assert Preprocessor.fit(MIXED, small, knobs.Preprocess()).to_json() == whole.to_json()
    assert small.rows == TRAINING.num_rows
    assert Statistics.of_all(MIXED, []).rows == 0


# Numbers


def test_numbers_without_missing_ones_are_standardized_in_float64() -> None:
    values_ND = np.random.default_rng(0).normal(1e6, 3, size=(500, 3))
    table = pa.table({f"x{d}": values_ND[:, d] for d in range(3)})
    fitted = fit([Column(name=f"x{d}", kind="numeric") for d in range(3)], table)
    scaler = StandardScaler().fit(values_ND)
    _, mean_D, scale_D = fitted.arrays()["scaling"].T
    np.testing.assert_allclose(mean_D, scaler.mean_, rtol=1e-14)
    np.testing.assert_allclose(scale_D, scaler.scale_, rtol=1e-12)
    assert np.array_equal(fitted.apply(table), ((values_ND - mean_D) / scale_D).astype(np.float32))
    assert (fitted.names, fitted.levels) == (["x0", "x1", "x2"], [0, 0, 0])


@pytest.mark.parametrize("missing", ["median", "mean"])
def test_missing_numbers_are_filled_and_scaled_as_by_scikit_learn_and_pointed_out(missing: str) -> None:
    rng = np.random.default_rng(1)
    values_N = rng.gamma(2, size=1001)
    values_N[rng.random(1001) < 0.3] = np.nan
    filled_N1 = SimpleImputer(strategy=missing).fit_transform(values_N[:, None])
    expected_N = StandardScaler().fit_transform(filled_N1)[:, 0]
    fitted = fit_x(values_N, missing=missing)
    assert fitted.names == ["x", "x=missing"]
    features_ND = apply_x(fitted, values_N)
    np.testing.assert_allclose(features_ND[:, 0], expected_N, rtol=1e-6, atol=1e-6)
    assert np.array_equal(features_ND[:, 1], np.isnan(values_N))


def test_nan_and_null_are_both_missing() -> None:
    values = pa.array([1.0, float("nan"), None, 3.0])
    assert fit([X], pa.table({"x": values})).apply(pa.table({"x": values})).tolist() == pytest.approx(
        np.array([[-np.sqrt(2), 0], [0, 1], [0, 1], [np.sqrt(2), 0]])
    )


def test_without_missing_training_rows_there_is_no_indicator_and_later_ones_are_filled() -> None:
    fitted = fit_x([1.0, 2.0, 9.0], scale="none")
    assert fitted.names == ["x"]
    assert apply_x(fitted, [None, 5.0]).tolist() == [[2.0], [5.0]]


def test_a_constant_column_is_only_centred() -> None:
    assert apply_x(fit_x([0.1] * 7), [0.1, 1.1]).ravel() == pytest.approx([0, 1], abs=1e-7)


def test_moments_merge_without_losing_digits_far_from_zero() -> None:
    values_N = 1e9 + np.random.default_rng(2).normal(0, 1e-3, 10_000)
    parts = [statistics.Moments.of(part) for part in np.array_split(values_N, 97)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    exact = [decimal.Decimal(value) for value in values_N.tolist()]
    mean = sum(exact) / len(exact)
    assert whole.mean == pytest.approx(float(mean), rel=1e-15)
    assert whole.squares == pytest.approx(float(sum((value - mean) ** 2 for value in exact)), rel=1e-6)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(21, 2), pa.bool_()])
def test_numbers_of_any_type_are_read(kind: pa.DataType) -> None:
    values = pa.array([0, 1, None, 1]).cast(pa.float32() if kind == pa.float16() else kind).cast(kind)
    fitted = fit([X], pa.table({"x": values}), scale="none")
    assert fitted.apply(pa.table({"x": values})).tolist() == [[0, 0], [1, 0], [1, 1], [1, 0]]


# Quantiles


def test_the_median_is_exact_up_to_a_hundred_thousand_distinct_numbers() -> None:
    values_N = np.random.default_rng(3).normal(size=99_999)
    assert statistics.Sketch.of(values_N).median() == np.median(values_N)
    assert statistics.Sketch.of(values_N[:-1]).median() == np.median(values_N[:-1])


@pytest.mark.parametrize("draw", ["normal", "uniform", "lognormal", "days", "half zeros"])
def test_ranks_beyond_are_right_to_a_thousandth_and_numbers_that_come_often_are_exact(draw: str) -> None:
    rng = np.random.default_rng(4)
    values_N = {
        "normal": lambda: rng.normal(5, 2, 400_000),
        "uniform": lambda: rng.random(400_000),
        "lognormal": lambda: rng.lognormal(0, 5, 400_000),
        "days": lambda: 19_000 + rng.random(400_000) * 2_000,
        "half zeros": lambda: np.maximum(0, rng.normal(size=400_000)),
    }[draw]()
    sketch = statistics.Sketch.of(values_N)
    assert len(sketch.low_Q) <= statistics.BINS
    assert sketch.count_Q.sum() == len(values_N)
    ordered_N = np.sort(values_N)
    for share in (0.001, 0.1, 0.25, 0.5, 0.9, 0.999):
        found = sketch.ranked(int(share * len(values_N)))
        low, high = np.searchsorted(ordered_N, found, "left"), np.searchsorted(ordered_N, found, "right")
        assert low / len(values_N) - 1e-3 <= share <= high / len(values_N) + 1e-3
    if draw == "half zeros":
        assert sketch.ranked(100_000) == 0.0


def test_a_sketch_is_the_same_whatever_it_was_merged_of() -> None:
    rng = np.random.default_rng(5)
    values_N = np.concatenate([rng.normal(size=150_000), rng.lognormal(0, 9, 100_000), np.full(50_000, 0.1)])
    rng.shuffle(values_N)
    whole = statistics.Sketch.of(values_N)
    assert whole.shift > 0
    for cuts in ([10], [3, 120_000, 120_001], [40_000, 80_000, 299_999]):
        parts = [statistics.Sketch.of(part) for part in np.split(values_N, cuts)]
        left = parts[0]
        for part in parts[1:]:
            left = left.merge(part)
        right = parts[-1]
        for part in parts[-2::-1]:
            right = part.merge(right)
        for other in (left, right):
            assert other.shift == whole.shift
            assert np.array_equal(other.low_Q, whole.low_Q)
            assert np.array_equal(other.high_Q, whole.high_Q)
            assert np.array_equal(other.count_Q, whole.count_Q)


def test_quantile_scaling_is_scikit_learns_but_for_the_ends() -> None:
    values_N = np.random.default_rng(6).lognormal(size=5_000)
    theirs_N = QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None).fit_transform(
        values_N[:, None]
    )[:, 0]
    ours_N = apply_x(fit_x(values_N, scale="quantile"), values_N)[:, 0]
    inner = np.abs(theirs_N) < 2.5
    np.testing.assert_allclose(ours_N[inner], theirs_N[inner], atol=0.02)
    assert np.array_equal(np.argsort(ours_N, kind="stable"), np.argsort(values_N, kind="stable"))


def test_few_numbers_get_the_normal_score_of_the_middle_of_their_ranks_and_ends_are_clipped() -> None:
    fitted = fit_x([1.0, 2.0, 2.0, 4.0], scale="quantile")
    found = apply_x(fitted, [1.0, 2.0, 3.0, 4.0, -9.0, 1e30]).ravel()
    one, two, four = ndtri([1 / 8, 1 / 2, 7 / 8])
    assert found == pytest.approx([one, two, (two + four) / 2, four, one, four], abs=1e-6)


def test_quantile_scaling_of_a_large_column_is_normal_and_keeps_few_knots() -> None:
    values_N = np.random.default_rng(7).standard_cauchy(300_000)
    fitted = fit_x(values_N, scale="quantile")
    assert len(fitted.arrays()["knots.0"]) <= 1001
    features_N = np.sort(apply_x(fitted, values_N)[:, 0])
    expected_N = ndtri((np.arange(300_000) + 0.5) / 300_000)
    np.testing.assert_allclose(features_N, expected_N, atol=0.03)


# Categories


def test_levels_are_ordered_by_count_then_text_and_rare_ones_are_one() -> None:
    texts = ["b"] * 3 + ["a"] * 3 + ["z"] * 4 + ["rare", None, "é", "é"]
    fitted = fit([C], pa.table({"c": texts}))
    assert fitted.to_json()["columns"][0]["levels"] == ["z", "a", "b", "é"]
    assert (fitted.names, fitted.levels) == (["c"], [6])
    table = pa.table({"c": ["z", "a", "b", "é", "rare", "unseen", None, ""]})
    assert fitted.apply(table).ravel().tolist() == [2, 3, 4, 5, 1, 1, 0, 1]


def test_where_no_level_is_kept_all_are_other() -> None:
    fitted = fit([C], pa.table({"c": ["a", "b"]}))
    assert fitted.levels == [2]
    assert fitted.apply(pa.table({"c": ["a", None]})).ravel().tolist() == [1, 0]


def test_no_more_levels_are_kept_than_asked_for() -> None:
    fitted = fit([C], pa.table({"c": list("aabbccddd")}), max_levels=2)
    assert fitted.apply(pa.table({"c": list("abcd")})).ravel().tolist() == [3, 1, 1, 2]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_a_text_is_the_same_in_every_type(kind: pa.DataType) -> None:
    fitted = fit([C], pa.table({"c": ["a", "a", "b", "b", "b"]}))
    values = pa.array(["a", "b", None, "new"])
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    assert fitted.apply(pa.table({"c": values})).ravel().tolist() == [3, 2, 0, 1]


def test_whole_numbers_as_categories_are_the_same_as_floats_or_decimals() -> None:
    big = 10**15
    fitted = fit([C], pa.table({"c": [7, 7, 7, big, big, 1]}))
    assert fitted.to_json()["columns"][0]["levels"] == ["7", str(big)]
    for kind in (pa.float64(), pa.decimal128(21, 2)):
        values = pa.array([7, big, None, 2]).cast(kind)
        assert fitted.apply(pa.table({"c": values})).ravel().tolist() == [2, 3, 0, 1]
    assert fitted.apply(pa.table({"c": [7.5, float("nan")]})).ravel().tolist() == [1, 0]


def test_booleans_may_be_categories() -> None:
    fitted = fit([C], pa.table({"c": [True, True, True, False, False, None]}))
    assert fitted.apply(pa.table({"c": [True, False, None]})).ravel().tolist() == [2, 3, 0]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(2, 5), st.integers(1, 5))
@settings(deadline=None)
def test_counts_beyond_the_limit_are_low_by_no_more_than_was_taken(texts: list[str], limit: int, cuts: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(statistics, "MAX_TEXTS", limit)
        parts = [pa.chunked_array([part], pa.large_string()) for part in np.array_split(np.array(texts), cuts)]
        found = statistics.Texts.of(parts[0])
        for part in parts[1:]:
            found = found.merge(statistics.Texts.of(part))
    assert len(found.text_L) <= limit
    assert found.taken <= len(texts) / (limit + 1)
    held = dict(zip(found.text_L.to_pylist(), found.count_L.tolist(), strict=True))
    for text, count in Counter(texts).items():
        assert count - found.taken <= held.get(text, 0) <= count


# Dates


def test_a_date_becomes_days_and_places_in_the_year_and_the_week() -> None:
    days = [datetime.date(1970, 1, 1), datetime.date(2024, 12, 31), datetime.date(1969, 7, 20)]
    fitted = fit([D], pa.table({"d": days}), scale="none")
    assert fitted.names == ["d=days"] + [
        f"d={cycle}_{side}" for cycle in ("month", "weekday", "yearday") for side in ("sin", "cos")
    ]
    for day, features in zip(days, fitted.apply(pa.table({"d": days})), strict=True):
        turns = [(day.month - 1) / 12, day.weekday() / 7, (day.timetuple().tm_yday - 1) / 366]
        expected = [f(2 * np.pi * turn) for turn in turns for f in (np.sin, np.cos)]
        assert features.tolist() == pytest.approx([(day - datetime.date(1970, 1, 1)).days, *expected], abs=1e-6)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_has_an_hour_in_every_unit(unit: str) -> None:
    moment = datetime.datetime(1965, 3, 4, 18, 30)
    table = pa.table({"d": pa.array([moment, None], pa.timestamp(unit))})
    fitted = fit([D], table, scale="none")
    assert fitted.names[-3:] == ["d=hour_sin", "d=hour_cos", "d=missing"]
    known, missing = fitted.apply(table)
    assert known[0] == (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
    assert known[-3:].tolist() == pytest.approx([-1, 0, 0], abs=1e-6)
    assert missing.tolist() == [known[0], *[0] * 8, 1]


def test_a_moment_is_read_in_utc_whatever_its_time_zone() -> None:
    moments = [datetime.datetime(2024, 1, 1, 3, tzinfo=datetime.UTC)]
    tables = [pa.table({"d": pa.array(moments, pa.timestamp("us", zone))}) for zone in ("UTC", "Asia/Tokyo")]
    fitted = fit([D], tables[0])
    assert np.array_equal(fitted.apply(tables[0]), fitted.apply(tables[1]))


def test_dates_of_days_and_milliseconds_are_the_same() -> None:
    days = pa.array([datetime.date(2024, 5, 6), datetime.date(2023, 1, 1), None])
    fitted = fit([D], pa.table({"d": days}))
    assert np.array_equal(fitted.apply(pa.table({"d": days})), fitted.apply(pa.table({"d": days.cast(pa.date64())})))


# The order of features, and what is refused


def test_numbers_come_first_then_indicators_then_codes() -> None:
    table = pa.table({"c": ["a", "a", None], "x": [1.0, None, 3.0], "d": [datetime.date(2024, 1, 1), None, None]})
    fitted = fit([C, X, D], table)
    assert fitted.names[:2] == ["x", "d=days"]
    assert fitted.names[-3:] == ["x=missing", "d=missing", "c"]
    assert fitted.levels == [0] * (len(fitted.names) - 1) + [3]


def test_a_column_without_a_type_is_missing_throughout() -> None:
    fitted = fit(BOTH, pa.table({"x": [1.0, 3.0], "c": ["a", "a"]}))
    table = pa.table({"x": pa.nulls(2), "c": pa.nulls(2)})
    assert fitted.apply(table).tolist() == [[0, 0], [0, 0]]
    whole = Statistics.of(BOTH, table).merge(Statistics.of(BOTH, pa.table({"x": [1.0], "c": ["a"]})))
    assert whole.held == {"x": "numbers", "c": "texts"}


def test_no_rows_are_encoded_to_no_rows() -> None:
    fitted = fit(BOTH, pa.table({"x": [1.0, 3.0], "c": ["a", "a"]}))
    assert fitted.apply(pa.table({"x": pa.array([], pa.float64()), "c": pa.array([], pa.string())})).shape == (0, 2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": ["1"], "c": ["a"]}, "column 'x': must hold numbers or booleans to be numeric; found string"),
        ({"x": [True], "c": ["a"]}, r"column 'x': must hold numbers, as in the training rows; found booleans \(bool\)"),
        ({"x": [1.0], "c": [1]}, r"column 'c': must hold texts, as in the training rows; found numbers \(int64\)"),
        (
            {"x": [1.0], "c": [b"a"]},
            "column 'c': must hold texts or numbers or booleans to be categorical; found binary",
        ),
        ({"x": [1.0]}, "column 'c': must be there once; it comes 0 times among x"),
        ({"x": [float("inf")], "c": ["a"]}, "column 'x': must hold finite numbers; found inf"),
        ({"x": [1e300], "c": ["a"]}, r"column 'x': must fit into float32 once scaled; found .*e\+"),
    ],
)
def test_a_table_unlike_the_training_rows_is_refused_by_column(table: dict[str, Any], message: str) -> None:
    fitted = fit(BOTH, pa.table({"x": [1.0, 3.0], "c": ["a", "a"]}))
    with pytest.raises(DataError, match=message):
        fitted.apply(pa.table(table))


def test_a_column_that_comes_twice_is_refused() -> None:
    fitted = fit_x([1.0, 2.0])
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    with pytest.raises(DataError, match="column 'x': must be there once; it comes 2 times"):
        fitted.apply(twice)


def test_integers_may_become_floats_and_back() -> None:
    fitted = fit_x([1, 3])
    assert np.array_equal(apply_x(fitted, [3.0, 1.0]), apply_x(fitted, [3, 1]))


def test_times_with_and_without_a_zone_are_not_mixed() -> None:
    fitted = fit([D], pa.table({"d": pa.array([0, 1], pa.timestamp("s"))}))
    with pytest.raises(DataError, match=r"column 'd': must hold dates, as in the .* found dates with a time zone"):
        fitted.apply(pa.table({"d": pa.array([0], pa.timestamp("s", "UTC"))}))


def test_parts_that_hold_different_types_are_refused() -> None:
    first, second = (Statistics.of([C], pa.table({"c": [value]})) for value in ("a", 1))
    with pytest.raises(DataError, match=r"column 'c': must hold one type in all .*; found numbers and texts"):
        first.merge(second)


@pytest.mark.parametrize("column", BOTH)
def test_a_column_that_is_missing_in_all_training_rows_is_refused(column: Column) -> None:
    with pytest.raises(DataError, match=f"column '{column.name}': must have a value in the training rows; all are"):
        fit([column], pa.table({column.name: pa.nulls(3)}))


def test_numbers_too_large_to_square_are_refused_where_that_is_needed() -> None:
    assert fit_x([1e200, 2e200, -1e200], scale="quantile").arrays()["scaling"][0, 0] == 1e200
    with pytest.raises(DataError, match="column 'x': must hold numbers whose squares add up"):
        fit_x([1e200, -1e200])


def test_infinite_training_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="column 'x': must hold finite numbers; found -inf"):
        fit_x([1.0, -np.inf])


def test_a_column_called_as_a_feature_of_another_is_refused() -> None:
    columns = [X, Column(name="x=missing", kind="numeric")]
    with pytest.raises(DataError, match="column 'x=missing': must not be called as a feature made of another column"):
        fit(columns, pa.table({"x": [1.0, None], "x=missing": [1.0, 2.0]}))
