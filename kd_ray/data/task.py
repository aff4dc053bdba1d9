"""What is predicted: classes or a number; and the weight and the split that columns of the table say."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray.data.pieces import is_number
from kd_ray.data.splits import SPLITS
from kd_ray.mistakes import Mistakes, short

MAX_WHOLE_CLASSES = 100
SHOWN = 5

Where = Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """`values_N`: the class of each row as its place in `classes`, in as few bytes as they take; of a regression (no
    classes) float64."""

    classes: list[str] | None
    values_N: np.ndarray
    class_values: list[Any] = field(default_factory=list)
    """The classes as the table holds them: texts, numbers or booleans."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each class; none for a regression."""
        if self.classes is None:
            return {}
        return dict(zip(self.classes, np.bincount(self.values_N, minlength=len(self.classes)).tolist(), strict=True))


def labels_of(name: str, column: pa.ChunkedArray, wanted: str, mistakes: Mistakes) -> Labels | None:
    """Return the labels, None where they cannot be had. `column` has no missing and no infinite values.

    `wanted` is auto, classification or regression; auto takes numbers with fractions, or more than 100 different
    ones, for a regression.
    """
    kind = value_type(column)
    if not (is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)):
        mistakes.add(f"column {name!r}: the target must be numbers, texts or booleans; it is {kind}")
        return None
    if wanted == "regression" and not is_number(kind):
        mistakes.add(f"column {name!r}: must be numbers for data.task: regression; it is {kind}")
        return None
    if wanted == "regression" or (wanted == "auto" and is_number(kind) and _is_measured(column)):
        return _regression(name, column, mistakes)
    return _classification(name, column, kind, mistakes)


def value_type(column: pa.ChunkedArray) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(value_type(column)).to_numpy()


def _is_measured(column: pa.ChunkedArray) -> bool:
    values = column.chunk(0).dictionary if pa.types.is_dictionary(column.type) else column
    whole = not pa.types.is_floating(values.type) or pc.all(pc.equal(values, pc.round(values))).as_py()
    return not whole or pc.count_distinct(values).as_py() > MAX_WHOLE_CLASSES


def _regression(name: str, column: pa.ChunkedArray, mistakes: Mistakes) -> Labels | None:
    values_N = _numbers(column).astype(np.float64)
    if len(values_N) and values_N.min() == values_N.max():
        mistakes.add(f"column {name!r}: the target must vary; every value is {values_N[0]:g}")
        return None
    return Labels(classes=None, values_N=values_N)


def _classification(name: str, column: pa.ChunkedArray, kind: pa.DataType, mistakes: Mistakes) -> Labels | None:
    coded = column.combine_chunks()
    if not pa.types.is_dictionary(coded.type):
        coded = pc.dictionary_encode(coded)
    values = coded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=lambda code: values[code])
    place = np.empty(len(values), np.min_scalar_type(len(values)))
    place[order] = np.arange(len(values))
    labels = Labels(
        classes=[_text(values[code]) for code in order],
        values_N=place[coded.indices.to_numpy()],
        class_values=[
            values[code] if isinstance(values[code], (bool, int, str)) else float(values[code]) for code in order
        ],
    )
    if len(values) < 2:
        mistakes.add(
            f"column {name!r}: the target must have at least 2 classes; every row is {short(_text(values[0]))}"
        )
        return None
    single = [text for text, count in labels.counts.items() if count == 1]
    if single:
        shown = ", ".join(map(short, single[:SHOWN])) + (f" and {len(single) - SHOWN:,} more" if single[SHOWN:] else "")
        mistakes.add(
            f"column {name!r}: every class must have rows to train on and to test on; {shown} of {len(values):,} "
            f"classes {'has' if len(single) == 1 else 'have'} a single row: add rows or leave the class out"
            + (", or say data.task: regression" if is_number(kind) else "")
        )
    return labels


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def weights_of(name: str, column: pa.ChunkedArray, where: Where, mistakes: Mistakes) -> np.ndarray | None:
    """Return row weights, float32; `column` has no missing and no infinite values."""
    kind = value_type(column)
    if not is_number(kind):
        mistakes.add(f"column {name!r}: data.columns.weight must be numbers; it is {kind}")
        return None
    weight_N = _numbers(column).astype(np.float32)
    below = np.flatnonzero(weight_N < 0)
    if len(below):
        mistakes.add(f"{where(int(below[0]))}: column {name!r}: weights must be at least 0; {len(below):,} are below")
        return None
    if not weight_N.sum():
        mistakes.add(f"column {name!r}: weights must not all be 0")
        return None
    return weight_N


def said_splits(name: str, column: pa.ChunkedArray, where: Where, mistakes: Mistakes) -> np.ndarray | None:
    """Return each row's place in SPLITS as the column `name` says it, int8; it has no missing values."""
    coded = column.combine_chunks()
    if not pa.types.is_dictionary(coded.type):
        coded = pc.dictionary_encode(coded)
    values = coded.dictionary.to_pylist()
    strange = [value for value in values if value not in SPLITS]
    if strange:
        at = pc.index(coded.indices, pa.scalar(values.index(strange[0]), coded.indices.type)).as_py()
        mistakes.add(
            f"{where(at)}: column {name!r}: data.columns.split must say train, valid or test; got {short(strange[0])}"
        )
        return None
    for needed in ("train", "test"):
        if needed not in values:
            mistakes.add(f"column {name!r}: data.columns.split must have rows that say {needed}; there are none")
            return None
    return np.array([SPLITS.index(value) for value in values], np.int8)[coded.indices.to_numpy()]
