"""What the cells of an Arrow column say, whatever type they came in: numbers, texts or moments in time."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray.errors import DataError
from kd_ray.schema import Column

NOTHING = "nothing"
"""What a column without a type holds: it is missing in every row."""

_HELD = {
    "numeric": ("numbers", "booleans"),
    "categorical": ("texts", "numbers", "booleans"),
    "date": ("dates", "dates with a time zone"),
}
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_EXACT_WHOLE = 2.0**53


def take(table: pa.Table, column: Column) -> pa.ChunkedArray:
    """Return the cells of a column. Raises DataError where the table does not have it exactly once."""
    found = table.schema.get_all_field_indices(column.name)
    if len(found) != 1:
        raise DataError(
            f"column {column.name!r}: must be there once; it comes {len(found)} times "
            f"among {', '.join(table.column_names[:20])}"
        )
    return table.column(found[0])


def held(column: Column, kind: pa.DataType) -> str:
    """Say in a word what cells of an Arrow type hold. Raises DataError where the column's kind has no use for it."""
    word = _word(kind)
    if word != NOTHING and word not in _HELD[column.kind]:
        raise DataError(
            f"column {column.name!r}: must hold {' or '.join(_HELD[column.kind])} to be {column.kind}; "
            f"found {kind}: convert it, exclude it, or set data.columns.kinds"
        )
    return word


def _word(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _word(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "texts"
    if pa.types.is_boolean(kind):
        return "booleans"
    if pa.types.is_date(kind):
        return "dates"
    if pa.types.is_timestamp(kind):
        return "dates with a time zone" if kind.tz else "dates"
    return NOTHING if pa.types.is_null(kind) else str(kind)


def _plain(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    return cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells


def numbers(column: Column, cells: pa.ChunkedArray) -> np.ndarray:
    """Return float64, NaN where a cell is missing. Raises DataError at an infinite one."""
    values_N = _plain(cells).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(values_N).any():
        raise DataError(
            f"column {column.name!r}: must hold finite numbers; found {values_N[np.isinf(values_N)][0]}: "
            "make it missing or leave the row out"
        )
    return values_N


def texts(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return large strings, null where a cell is missing; a whole number has one text, integer or floating."""
    cells = _plain(cells)
    if pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        values = cells.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), _EXACT_WHOLE))
        as_whole = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.large_string())
        return pc.if_else(whole, as_whole, values.cast(pa.large_string()))
    return cells.cast(pa.large_string())


@dataclass(frozen=True, kw_only=True)
class Instants:
    """Moments as whole days since 1970-01-01 and the share of the day gone, in UTC where there is a time zone."""

    day_N: np.ndarray
    share_N: np.ndarray
    missing_N: np.ndarray

    @classmethod
    def of(cls, cells: pa.ChunkedArray) -> "Instants":
        cells = _plain(cells)
        missing_N = cells.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_null(cells.type) or pa.types.is_date32(cells.type):
            per_day, count = 1, cells.cast(pa.int32())
        else:
            per_day, count = _PER_DAY["ms" if pa.types.is_date64(cells.type) else cells.type.unit], cells
        count_N = count.cast(pa.int64()).fill_null(0).to_numpy()
        day_N = count_N // per_day
        return cls(day_N=day_N, share_N=(count_N - day_N * per_day) / per_day, missing_N=missing_N)

    @property
    def has_time(self) -> bool:
        return bool(self.share_N.any())

    def days(self) -> np.ndarray:
        """Return days since 1970-01-01 with their fractions, NaN where missing."""
        return np.where(self.missing_N, np.nan, self.day_N + self.share_N)

    def microseconds(self) -> np.ndarray:
        """Return whole microseconds since 1970-01-01, of no meaning where missing."""
        gone_N = np.rint(self.share_N * _PER_DAY["us"]).astype(np.int64)
        return self.day_N * _PER_DAY["us"] + np.minimum(gone_N, _PER_DAY["us"] - 1)

    def cycles(self) -> dict[str, np.ndarray]:
        """Return month 0-11, weekday 0-6 from Monday, day of the year 0-365 and hour 0-23."""
        date_N = self.day_N.astype("datetime64[D]")
        return {
            "month": date_N.astype("datetime64[M]").astype(np.int64) % 12,
            "weekday": (self.day_N + 3) % 7,
            "yearday": (date_N - date_N.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64),
            "hour": (self.share_N * 24).astype(np.int64),
        }
