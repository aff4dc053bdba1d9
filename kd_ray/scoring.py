"""The exported student asked on Arrow tables. Workers import this, so it imports neither torch nor onnx.

Axes: N rows, C classes, L levels.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray import cells, deployed, raw
from kd_ray.preprocess import Fitted, Preprocessor

INPUTS = ("numeric", "date", "whole", "text")
"""The graph's inputs, in order."""
ROWS_AT_ONCE = 8_192
"""What is made of so many rows stays in a core's cache."""


def input_of(one: Fitted) -> str:
    """Return the input that a column enters by."""
    if one.column.kind != "categorical":
        return one.column.kind
    return "whole" if one.held == "numbers" and all(_is_whole(level) for level in one.levels) else "text"


def _is_whole(level: str) -> bool:
    return level.removeprefix("-").isdigit() and -(2**63) < int(level) < 2**63


def stand_ins(fitted: list[Fitted]) -> dict[str, str]:
    """Return the texts that stand for a missing category, the empty one unless that is a category itself, and for one
    that was never seen: a cell that happens to hold the former is given as the latter.
    """
    levels = {level for one in fitted for level in one.levels}
    texts = itertools.chain([""], (f"<none {number}>" for number in itertools.count()))
    free = (text for text in texts if text not in levels)
    return {"missing_text": next(free), "unseen_text": next(free)}


def columns_of(preprocessor: Preprocessor) -> dict[str, list[Fitted]]:
    """Return the columns of each input, in order."""
    return {name: [one for one in preprocessor.fitted if input_of(one) == name] for name in INPUTS}


def inputs_of(preprocessor: Preprocessor, table: pa.Table, bundle: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what the exported graph takes of a table. Raises DataError at a column that is not as in training."""
    found = {}
    for name, fitted in columns_of(preprocessor).items():
        if fitted:
            columns = [_cells(one, name, cells.take(table, one.column), bundle) for one in fitted]
            found[name] = np.stack(columns, 1)
    return found


def _cells(one: Fitted, name: str, column: pa.ChunkedArray, bundle: dict[str, Any]) -> np.ndarray:
    one.check(column.type)
    if name == "numeric":
        return cells.numbers(one.column, column)
    if name == "date":
        moments = cells.Instants.of(column)
        return np.where(moments.missing_N, raw.MISSING_WHOLE, moments.microseconds())
    texts = cells.texts(column)
    if name == "text":
        known = pc.if_else(pc.equal(texts, bundle["missing_text"]), bundle["unseen_text"], texts)
        return np.asarray(known.fill_null(bundle["missing_text"]).to_numpy(zero_copy_only=False))
    code_N = pc.index_in(texts, value_set=one.level_set)
    whole_L = np.array([*map(int, one.levels), raw.OTHER_WHOLE])
    whole_N = whole_L[code_N.fill_null(len(one.levels)).to_numpy()]
    return np.where(texts.is_null().to_numpy(), raw.MISSING_WHOLE, whole_N)


class Model(Protocol):
    """What scores a table; small enough to travel to a worker."""

    def columns(self) -> list[str]: ...

    def __call__(self, table: pa.Table) -> np.ndarray:
        """Return probabilities, shape [N, C], or predictions in the target's own units, shape [N]."""


@dataclass(frozen=True)
class StudentModel:
    """An exported student; `content` is its ONNX file."""

    content: bytes
    bundle: dict[str, Any]
    preprocessor: Preprocessor

    def columns(self) -> list[str]:
        return self.preprocessor.columns

    def __call__(self, table: pa.Table) -> np.ndarray:
        student = deployed.student_of(self.content, self.bundle, threads=1)
        parts = (table.slice(at, ROWS_AT_ONCE) for at in range(0, table.num_rows, ROWS_AT_ONCE))
        return np.concatenate([student.run(inputs_of(self.preprocessor, part, self.bundle)) for part in parts])
