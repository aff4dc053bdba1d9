"""What columns are taken for, and tables that are held against a schema."""

import datetime
import decimal
from typing import Any

import pyarrow as pa
import pytest

from kd_ray import schema
from kd_ray.errors import DataError
from kd_ray.schema import Column

SCHEMA = {
    "columns": schema.to_json(
        [
            Column(name="age", kind="numeric"),
            Column(name="city", kind="categorical"),
            Column(name="since", kind="date"),
        ]
    )
}
DAY = datetime.date(2024, 12, 31)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1, 2], pa.int8()), "numeric"),
        (pa.array([1.5]), "numeric"),
        (pa.array([decimal.Decimal("1.50")]), "numeric"),
        (pa.array(["a"]), "categorical"),
        (pa.array(["a"], pa.large_string()), "categorical"),
        (pa.array(["a"]).dictionary_encode(), "categorical"),
        (pa.array([3]).dictionary_encode(), "categorical"),
        (pa.array([True]), "categorical"),
        (pa.array([DAY]), "date"),
        (pa.array([datetime.datetime(2024, 12, 31, 1)]), "date"),
        (pa.array([[1]]), None),
        (pa.array([b"a"]), None),
        (pa.array([datetime.time(1)]), None),
        (pa.nulls(2), None),
    ],
)
def test_a_column_is_taken_for_what_its_type_says(values: pa.Array, kind: str | None) -> None:
    assert schema.kind_of(values.type) == kind


def test_columns_survive_the_way_through_json() -> None:
    columns = [Column(name="age", kind="numeric", note="3 missing"), Column(name="city", kind="categorical")]
    assert schema.columns_of({"columns": schema.to_json(columns)}) == columns


def test_order_and_further_columns_do_not_matter_nor_do_columns_that_are_missing_throughout() -> None:
    schema.check(SCHEMA, pa.table({"more": [1], "since": [DAY], "city": pa.nulls(1), "age": [3]}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"age": None}, "new.csv: must have one column 'age'; there is none; did you mean 'Age'?"),
        ({"age": ["x"]}, "new.csv: column 'age' must be numeric as in training; it is string"),
        ({"since": [7]}, "new.csv: column 'since' must be date as in training; it is int64"),
        ({"city": [DAY]}, "new.csv: column 'city' must be categorical as in training; it is date32[day]"),
    ],
)
def test_a_column_that_is_absent_or_of_another_type_is_named(changes: dict[str, Any], says: str) -> None:
    columns = {"Age": [1], "age": [3], "city": ["a"], "since": [DAY]} | changes
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    with pytest.raises(DataError) as caught:
        schema.check(SCHEMA, table, "new.csv")
    assert says in str(caught.value)


def test_all_columns_that_do_not_fit_are_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        schema.check(SCHEMA, pa.table({"age": ["x"], "city": [DAY]}))
    assert len(str(caught.value).splitlines()) == 3


def test_a_column_that_is_there_twice_is_named() -> None:
    twice = pa.Table.from_arrays(
        [pa.array([1])] * 2 + [pa.array(["a"]), pa.array([DAY])], ["age", "age", "city", "since"]
    )
    with pytest.raises(DataError, match="must have one column 'age'; it is there 2 times"):
        schema.check(SCHEMA, twice)
