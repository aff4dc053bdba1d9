"""How columns become features: fitted on the training rows' statistics, applied by this one implementation everywhere.

A row's features are numbers first, then indicators of missing cells, then one code a categorical column. What is
fitted is JSON and plain arrays. Axes: N rows, D features, Q knots.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray import cells, knobs
from kd_ray.errors import DataError
from kd_ray.schema import Column
from kd_ray.statistics import Numbers, Sketch, Statistics, Texts

__all__ = ["Preprocessor", "Statistics"]

MISSING, OTHER, FIRST_LEVEL = 0, 1, 2
KNOTS = 1_001
CYCLES = {"month": 12, "weekday": 7, "yearday": 366, "hour": 24}
_CONSTANT = 1e-12
_NORMAL = NormalDist()
_NUMBER, _INDICATOR, _CODE = range(3)  # the order of features


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """(x - mean) / scale in float64, or a line through knots (value, score) where there are some."""

    fill: float
    mean: float
    scale: float
    knots_Q2: np.ndarray | None = None

    @classmethod
    def fit(cls, column: Column, numbers: Numbers, how: knobs.Preprocess) -> "Scaling":
        """Fit to the training rows with their missing cells filled. Raises DataError where their squares overflow."""
        fill = numbers.sketch.median() if how.missing == "median" else numbers.moments.mean
        if how.scale == "none":
            return cls(fill=fill, mean=0.0, scale=1.0)
        filled = numbers.filled(fill)
        if how.scale == "quantile":
            return cls(fill=fill, mean=0.0, scale=1.0, knots_Q2=normal_knots(filled.sketch))
        moments, sketch = filled.moments, filled.sketch
        if not np.isfinite(moments.squares):
            raise DataError(
                f"column {column.name!r}: must hold numbers whose squares add up to be standardized; the largest are "
                "too large: rescale it or set data.preprocess.scale: quantile"
            )
        deviation = float(np.sqrt(moments.squares / moments.count))
        largest = max(abs(float(sketch.low_Q[0])), abs(float(sketch.high_Q[-1])))
        return cls(fill=fill, mean=moments.mean, scale=deviation if deviation > _CONSTANT * largest else 1.0)

    def apply(self, values_N: np.ndarray) -> np.ndarray:
        values_N = np.where(np.isnan(values_N), self.fill, values_N)
        if self.knots_Q2 is not None:
            return np.interp(values_N, self.knots_Q2[:, 0], self.knots_Q2[:, 1])
        values_N -= self.mean
        values_N /= self.scale
        return values_N


def normal_knots(sketch: Sketch) -> np.ndarray:
    """Return at most 1,001 knots (value, normal score), shape [Q, 2], ascending.

    A number's score is the normal quantile of the middle of its ranks, so that ties share one. Where there are more
    bins than knots, those nearest to evenly spaced scores are taken: a score between two knots is then off by less
    than their distance, about 0.01.
    """
    rank_Q = (sketch.past_Q - sketch.count_Q / 2) / sketch.count_Q.sum()
    taken = np.arange(len(rank_Q))
    if len(rank_Q) > KNOTS:
        least, most = _NORMAL.inv_cdf(rank_Q[0]), _NORMAL.inv_cdf(rank_Q[-1])
        wanted = [_NORMAL.cdf(score) for score in np.linspace(least, most, KNOTS)]
        taken = np.unique([0, *np.searchsorted(rank_Q, wanted[1:-1]), len(rank_Q) - 1])
    value_Q = sketch.low_Q[taken] / 2 + sketch.high_Q[taken] / 2
    return np.column_stack([value_Q, [_NORMAL.inv_cdf(rank) for rank in rank_Q[taken]]])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One column as it was in the training rows: `held` is what its cells must hold."""

    column: Column
    held: str
    indicates: bool = False
    has_time: bool = False
    scaling: Scaling | None = None
    levels: tuple[str, ...] = ()

    @classmethod
    def fit(cls, column: Column, held: str, found: Numbers | Texts, how: knobs.Preprocess) -> "Fitted":
        if not found.count:
            raise DataError(f"column {column.name!r}: must have a value in the training rows; all are missing")
        if isinstance(found, Texts):
            kept = found.most_frequent(min_rows=how.min_rows, max_levels=how.max_levels)
            return cls(column=column, held=held, levels=tuple(kept))
        return cls(
            column=column,
            held=held,
            indicates=found.missing > 0,
            has_time=found.has_time,
            scaling=Scaling.fit(column, found, how),
        )

    @property
    def features(self) -> list[tuple[int, str]]:
        """Role and name of each feature, in the order in which `encode` gives them."""
        name = self.column.name
        if self.column.kind == "categorical":
            return [(_CODE, name)]
        found = [(_NUMBER, name if self.column.kind == "numeric" else f"{name}=days")]
        found += [(_NUMBER, f"{name}={cycle}_{side}") for cycle in self.cycles for side in ("sin", "cos")]
        return found + [(_INDICATOR, f"{name}=missing")] * self.indicates

    @property
    def cycles(self) -> list[str]:
        """Which cycles of the calendar a date is placed on."""
        if self.column.kind != "date":
            return []
        return [cycle for cycle in CYCLES if cycle != "hour" or self.has_time]

    @cached_property
    def level_set(self) -> pa.Array:
        return pa.array(self.levels, pa.large_string())

    def check(self, kind: pa.DataType) -> None:
        """Raise DataError where cells of an Arrow type are not what they were at fit."""
        found = cells.held(self.column, kind)
        if found not in (self.held, cells.NOTHING):
            raise DataError(
                f"column {self.column.name!r}: must hold {self.held}, as in the training rows; "
                f"found {found} ({kind}): convert it"
            )

    def encode(self, column_cells: pa.ChunkedArray) -> Iterator[np.ndarray]:
        """Give the values of each feature. Raises DataError where the cells are not what they were at fit."""
        self.check(column_cells.type)
        if self.column.kind == "categorical":
            yield self._codes(cells.texts(column_cells))
        elif self.column.kind == "numeric":
            yield from self._numbers(cells.numbers(self.column, column_cells))
        else:
            yield from self._dates(cells.Instants.of(column_cells))

    def _codes(self, texts: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(texts, value_set=self.level_set).fill_null(OTHER - FIRST_LEVEL)
        code_N = found.to_numpy() + FIRST_LEVEL
        if texts.null_count:
            code_N[texts.is_null().to_numpy()] = MISSING
        return code_N

    def _numbers(self, values_N: np.ndarray) -> Iterator[np.ndarray]:
        assert self.scaling is not None
        yield self.scaling.apply(values_N)
        if self.indicates:
            yield np.isnan(values_N)

    def _dates(self, instants: cells.Instants) -> Iterator[np.ndarray]:
        number, *indicator = self._numbers(instants.days())
        yield number
        place = instants.cycles()
        for cycle in self.cycles:
            for side_P in circle(CYCLES[cycle]):
                yield np.where(instants.missing_N, np.float32(0), side_P[place[cycle]])
        yield from indicator


def circle(places: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of evenly spaced places, float32: looked up, since they may depend on a vector's length."""
    angle_P = 2 * np.pi * np.arange(places) / places
    return np.sin(angle_P).astype(np.float32), np.cos(angle_P).astype(np.float32)


class Preprocessor:
    """Turns tables into encoded features.

    `names`: the D features'. `levels`: of each feature 0 where it is a number, else how many codes it has.
    """

    def __init__(self, fitted: Sequence[Fitted]) -> None:
        self._fitted = list(fitted)
        features = [(*feature, one) for one in self._fitted for feature in one.features]
        order = sorted(range(len(features)), key=lambda at: features[at][0])
        self._places = [order.index(at) for at in range(len(order))]
        self.names = [features[at][1] for at in order]
        self.levels = [FIRST_LEVEL + len(features[at][2].levels) if features[at][0] == _CODE else 0 for at in order]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DataError(f"column {twice!r}: must not be called as a feature made of another column: rename it")

    @property
    def fitted(self) -> list[Fitted]:
        """Each column as it was fitted."""
        return list(self._fitted)

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        return [one.column.name for one in self._fitted]

    @classmethod
    def fit(cls, columns: Sequence[Column], statistics: Statistics, how: knobs.Preprocess) -> "Preprocessor":
        """Fit to the training rows' statistics. Raises DataError at a column that is missing in all of them."""
        return cls([Fitted.fit(one, statistics.held[one.name], statistics.columns[one.name], how) for one in columns])

    def apply(self, table: pa.Table) -> np.ndarray:
        """Return features_ND, float32. A row's features depend on its own cells alone, to the bit.

        Raises DataError at a column that is absent, of another type than at fit, infinite, or beyond float32.
        """
        features_ND = np.empty((table.num_rows, len(self.names)), np.float32)
        places = iter(self._places)
        for one in self._fitted:
            for values_N in one.encode(cells.take(table, one.column)):
                features_ND[:, next(places)] = _single(one.column, values_N)
        return features_ND

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [
                {
                    "name": one.column.name,
                    "kind": one.column.kind,
                    "holds": one.held,
                    "indicates": one.indicates,
                    "has_time": one.has_time,
                    "levels": list(one.levels),
                }
                for one in self._fitted
            ]
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return float64: "scaling" [columns, 3] of fill, mean and scale, NaN where categorical; "knots.<column>"."""
        none = Scaling(fill=np.nan, mean=np.nan, scale=np.nan)
        scalings = [one.scaling or none for one in self._fitted]
        rows = np.array([[s.fill, s.mean, s.scale] for s in scalings], np.float64).reshape(-1, 3)
        knots = {f"knots.{i}": s.knots_Q2 for i, s in enumerate(scalings) if s.knots_Q2 is not None}
        return {"scaling": rows, **knots}

    @classmethod
    def of(cls, json: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Preprocessor":
        """Return the preprocessor that `to_json` and `arrays` were taken of."""
        return cls([_restored(entry, i, arrays) for i, entry in enumerate(json["columns"])])


def _single(column: Column, values_N: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        feature_N = values_N.astype(np.float32)
    if not np.isfinite(feature_N).all():
        raise DataError(
            f"column {column.name!r}: must fit into float32 once scaled; found "
            f"{values_N[~np.isfinite(feature_N)][0]:g}: rescale it or set data.preprocess.scale"
        )
    return feature_N


def _restored(entry: dict[str, Any], number: int, arrays: dict[str, np.ndarray]) -> Fitted:
    fill, mean, scale = (float(value) for value in arrays["scaling"][number])
    scaling = Scaling(fill=fill, mean=mean, scale=scale, knots_Q2=arrays.get(f"knots.{number}"))
    return Fitted(
        column=Column(name=entry["name"], kind=entry["kind"]),
        held=entry["holds"],
        indicates=entry["indicates"],
        has_time=entry["has_time"],
        scaling=None if entry["kind"] == "categorical" else scaling,
        levels=tuple(entry["levels"]),
    )
