"""A source of rows: a schema, rows that are counted, and pieces that are read one by one in batches.

A row's id is its position: the files in order of their paths, the rows in their order there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from kd_ray.mistakes import Mistakes

BATCH_ROWS = 131_072


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows that are read as one: `rows` of them, the first being row `first` of the source."""

    first: int
    rows: int
    file: int = 0
    group: int = 0


class Source(Protocol):
    """Small enough to travel to a worker, but for a table in memory."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def pieces(self) -> list[Piece]: ...

    def batches(self, piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
        """Yield a piece's rows in order, `columns` alone, each of the schema's type. Raises DataError."""
        ...

    def where(self, row: int) -> str:
        """Say where row `row` of the source is, for a person."""
        ...


def n_rows(source: Source) -> int:
    return sum(piece.rows for piece in source.pieces)


@dataclass(frozen=True)
class TableSource:
    """A table that is in memory."""

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    @property
    def pieces(self) -> list[Piece]:
        rows = self.table.num_rows
        return [Piece(first=at, rows=min(BATCH_ROWS, rows - at)) for at in range(0, rows, BATCH_ROWS)]

    def batches(self, piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
        yield self.table.select(columns).slice(piece.first, piece.rows)

    def where(self, row: int) -> str:
        return f"row {row}"


def holding(pieces: list[Piece], row: int) -> Piece:
    return next(piece for piece in pieces if piece.first <= row < piece.first + piece.rows)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that columns of `kind` are read as: texts are strings, dictionaries their values, decimals floats."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return pa.float64()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def common_schema(schemas: dict[str, pa.Schema], mistakes: Mistakes) -> pa.Schema:
    """Return the columns that all files have, in the first file's order; where files disagree is a mistake.

    Numbers of several widths become the widest; a column that is missing throughout in a file agrees with any type.
    """
    if not schemas:
        return pa.schema([])
    (first, reference), *others = schemas.items()
    types = {field.name: plain_type(field.type) for field in reference}
    for path, schema in others:
        lacks = [name for name in reference.names if name not in schema.names]
        more = [name for name in schema.names if name not in reference.names]
        if lacks or more:
            says = [f"it lacks {', '.join(map(repr, lacks))}"] if lacks else []
            says += [f"it has {', '.join(map(repr, more))} besides"] if more else []
            mistakes.add(f"{path}: must have the columns of {first}; {' and '.join(says)}")
        for name in list(types):
            if name in lacks:
                del types[name]
            elif schema.names.count(name) == 1:
                types[name] = _joined(first, path, name, types[name], plain_type(schema.field(name).type), mistakes)
    return pa.schema(list(types.items()))


def _joined(first: str, path: str, name: str, a: pa.DataType, b: pa.DataType, mistakes: Mistakes) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if is_number(a) and is_number(b):
        return pa.int64() if pa.types.is_integer(a) and pa.types.is_integer(b) else pa.float64()
    mistakes.add(f"{path}: column {name!r} must be {a} as in {first}; it is {b}")
    return a


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
