"""What a table's columns are: inferred from their types and values, kept in data/schema.json, checked ever after."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from kd_ray.mistakes import Mistakes, near

Kind = Literal["numeric", "categorical", "date"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column to learn from; `note` says in words what was decided about it, and why."""

    name: str
    kind: Kind
    note: str = ""


def kind_of(column: pa.DataType) -> Kind | None:
    """Return what a column of an Arrow type is taken for; None for types that cannot be learned from."""
    types = pa.types
    if types.is_dictionary(column):
        return kind_of(column.value_type) and "categorical"
    if types.is_integer(column) or types.is_floating(column) or types.is_decimal(column):
        return "numeric"
    if types.is_boolean(column) or types.is_string(column) or types.is_large_string(column):
        return "categorical"
    if types.is_string_view(column):
        return "categorical"
    return "date" if types.is_date(column) or types.is_timestamp(column) else None


def can_be(kind: Kind, column: pa.DataType) -> bool:
    """Whether a column of an Arrow type can be taken for `kind`; one that is missing throughout can be anything."""
    if pa.types.is_null(column) or kind_of(column) == kind:
        return True
    if kind == "categorical":
        return bool(pa.types.is_integer(column) or pa.types.is_floating(column))
    return bool(kind == "numeric" and pa.types.is_boolean(column))


def to_json(columns: list[Column]) -> list[dict[str, str]]:
    return [asdict(column) for column in columns]


def columns_of(schema: dict[str, Any]) -> list[Column]:
    """Return the columns that data/schema.json names."""
    return [Column(**column) for column in schema["columns"]]


def check(schema: dict[str, Any], table: pa.Table | pa.Schema, what: str = "the table") -> None:
    """Raise DataError with a line for each column that `table` lacks, or has of a type that is not the schema's.

    `schema` is the content of data/schema.json. The order of columns does not matter, nor do further ones.
    """
    mistakes = Mistakes()
    found = table if isinstance(table, pa.Schema) else table.schema
    for column in columns_of(schema):
        count = found.names.count(column.name)
        if count != 1:
            came = f"it is there {count} times" if count else f"there is none{near(column.name, found.names)}"
            mistakes.add(f"{what}: must have one column {column.name!r}; {came}")
        elif not can_be(column.kind, found.field(column.name).type):
            kind = found.field(column.name).type
            mistakes.add(f"{what}: column {column.name!r} must be {column.kind} as in training; it is {kind}")
    mistakes.check()
