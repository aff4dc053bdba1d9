"""Raw cells of any table in memory, as the exported graph takes them; numpy is all that it needs.

Axes: N rows, D columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_ray.errors import DataError

MISSING_WHOLE = -(2**63)
OTHER_WHOLE = MISSING_WHOLE + 1
"""Stands for what is no whole number of 64 bits: a category never seen."""
_EXACT_WHOLE = 2.0**53


def inputs(table: Any, bundle: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what the graph takes. Raises DataError at a column that is absent or not as in training."""
    cells = _columns(table, [column["name"] for column in bundle["columns"]])
    parts: dict[str, list[np.ndarray]] = {}
    for column, values_N in zip(bundle["columns"], cells, strict=True):
        parts.setdefault(column["input"], []).append(_READ[column["input"]](column, values_N, bundle))
    return {name: np.stack(values, 1) for name, values in parts.items()}


def _columns(table: Any, names: Sequence[str]) -> list[np.ndarray]:
    """Return the columns by their names, or by their places where the table has no names."""
    known = getattr(table, "column_names", None)  # pyarrow
    if known is None and isinstance(table, Mapping):
        known = list(table)
    if known is None and hasattr(table, "columns"):
        known = list(table.columns)
    if known is not None:
        absent = [name for name in names if name not in known]
        if absent:
            raise DataError(
                f"the table: must have the columns that the student learned from; it lacks {', '.join(absent[:5])}"
                + (f" and {len(absent) - 5} more" if absent[5:] else "")
            )
        return [_as_array(table[name]) for name in names]
    values_ND = np.asarray(table)
    if values_ND.ndim != 2 or values_ND.shape[1] != len(names):
        raise DataError(
            f"the table: must be two-dimensional with {len(names)} columns; got shape {values_ND.shape}. Reshape your "
            f"data: X has {values_ND.shape[-1] if values_ND.ndim else 0} features, but the student is expecting "
            f"{len(names)} features as input"
        )
    return list(values_ND.T)


def _as_array(column: Any) -> np.ndarray:
    if hasattr(column, "to_numpy"):
        return np.asarray(column.to_numpy())
    return np.asarray(column)


def _numeric(column: dict[str, Any], values_N: np.ndarray, bundle: dict[str, Any]) -> np.ndarray:
    try:
        read_N = values_N.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(_wrong(column, "numbers", values_N)) from None
    if np.isinf(read_N).any():
        raise DataError(f"column {column['name']!r}: must hold finite numbers; found infinity: make it missing")
    return read_N


def _date(column: dict[str, Any], values_N: np.ndarray, bundle: dict[str, Any]) -> np.ndarray:
    """Return microseconds since 1970-01-01 in UTC; NaT is MISSING_WHOLE already."""
    try:
        moments_N = np.array(_instants(values_N), "datetime64[us]")
    except (TypeError, ValueError):
        raise DataError(_wrong(column, "dates", values_N)) from None
    return moments_N.view(np.int64)


def _instants(values_N: np.ndarray) -> Any:
    """Dates and times with a zone become those of UTC."""
    if values_N.dtype.kind != "O":
        if values_N.dtype.kind not in "MU":
            raise TypeError
        return values_N
    from datetime import UTC

    zoned = (
        value.astimezone(UTC).replace(tzinfo=None) if getattr(value, "tzinfo", None) else value for value in values_N
    )
    return [None if value is None or value != value else value for value in zoned]


def _whole(column: dict[str, Any], values_N: np.ndarray, bundle: dict[str, Any]) -> np.ndarray:
    if values_N.dtype.kind in "iu":
        return values_N.astype(np.int64)
    read_N = _numeric(column, values_N, bundle)
    is_whole_N = (read_N == np.floor(read_N)) & (np.abs(read_N) < _EXACT_WHOLE)
    whole_N = np.where(is_whole_N, read_N, OTHER_WHOLE).astype(np.int64)
    return np.where(np.isnan(read_N), MISSING_WHOLE, whole_N)


def _text(column: dict[str, Any], values_N: np.ndarray, bundle: dict[str, Any]) -> np.ndarray:
    missing, held = bundle["missing_text"], column["holds"]
    texts = [missing if _is_missing(value) else _as_text(value, column, held) for value in values_N]
    for at, text in enumerate(texts):
        if text == missing and not _is_missing(values_N[at]):
            texts[at] = bundle["unseen_text"]
    return np.array(texts, object)


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _as_text(value: Any, column: dict[str, Any], held: str) -> str:
    if held == "texts" and isinstance(value, str):
        return str(value)
    if held == "booleans" and isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if held == "numbers" and isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number == int(number) and abs(number) < _EXACT_WHOLE else repr(number)
    found = value.item() if isinstance(value, np.generic) else value
    raise DataError(f"column {column['name']!r}: must hold {held}, as in training; found {found!r:.60}")


def _wrong(column: dict[str, Any], wanted: str, values_N: np.ndarray) -> str:
    found = f"{values_N.dtype} such as {values_N[0]!r:.60}"
    return f"column {column['name']!r}: must hold {wanted}, as in training; found {found}"


_READ = {"numeric": _numeric, "date": _date, "whole": _whole, "text": _text}
