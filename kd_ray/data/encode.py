"""The two passes after all is decided: statistics of the training rows, then every row encoded and written.

Both are pure work on units of the source, so that a plain loop or Ray Data can drive them.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa

from kd_ray import knobs, tables
from kd_ray.data import passes
from kd_ray.data.passes import Driver
from kd_ray.data.pieces import Piece, Source
from kd_ray.data.plan import Plan
from kd_ray.data.splits import SPLITS, TRAIN
from kd_ray.preprocess import Preprocessor, Statistics
from kd_ray.rundir import FileRecord, RunDir
from kd_ray.schema import Column

ROWS_PER_FILE = 131_072
UNLABELLED = len(SPLITS)
_SAMPLED_UNITS = 10
FOLDERS = (*SPLITS, "unlabelled")


@dataclass(frozen=True)
class FitJob:
    """`split_N`: the splits of the unit's rows."""

    source: Source
    unit: list[Piece]
    columns: list[Column]
    split_N: np.ndarray

    def __call__(self) -> Statistics:
        start = self.unit[0].first
        names = [column.name for column in self.columns]
        training = (
            table.filter(pa.array(self._is_training(at - start, table.num_rows)))
            for at, table in passes.rows_of(self.source, self.unit, names)
        )
        return Statistics.of_all(self.columns, training)

    def _is_training(self, first: int, rows: int) -> np.ndarray:
        return self.split_N[first : first + rows] == TRAIN


def fit(plan: Plan, how: knobs.Preprocess, driver: Driver) -> Preprocessor:
    """Fit the preprocessing to the training rows alone. Raises DataError."""
    jobs = (FitJob(plan.source, unit, plan.columns, _part(unit, plan.split_N)) for unit in _units(plan.source))
    return Preprocessor.fit(plan.columns, reduce(Statistics.merge, driver(jobs)), how)


@dataclass(frozen=True, kw_only=True)
class WriteJob:
    """Encode a unit's rows and write each split's into files of its own. Returns the files by split.

    `label_N` is whole numbers or float32, None for rows without; a row's id is `offset` more than its place in the
    source.
    """

    run: RunDir
    number: int
    source: Source
    unit: list[Piece]
    offset: int
    preprocessor: Preprocessor
    columns: list[str]
    beside: list[str]
    split_N: np.ndarray
    label_N: np.ndarray | None
    label_type: pa.DataType
    weight_N: np.ndarray | None

    def __call__(self) -> dict[int, list[FileRecord]]:
        waiting: dict[int, list[pa.Table]] = {}
        written: dict[int, list[FileRecord]] = {}
        for at, table in passes.rows_of(self.source, self.unit, [*self.columns, *self.beside]):
            encoded = self._encoded(at, table)
            split_B = _slice(self.split_N, at - self.unit[0].first, table.num_rows)
            for split in np.unique(split_B).tolist():
                waiting.setdefault(split, []).append(encoded.filter(pa.array(split_B == split)))
                self._write(split, waiting[split], written.setdefault(split, []), ROWS_PER_FILE)
        for split, parts in waiting.items():
            self._write(split, parts, written[split], 1)
        return written

    def _encoded(self, at: int, table: pa.Table) -> pa.Table:
        first, rows = at - self.unit[0].first, table.num_rows
        label = pa.nulls(rows, self.label_type)
        if self.label_N is not None:
            label = pa.array(_slice(self.label_N, first, rows), self.label_type)
        columns = {
            "row_id": pa.array(np.arange(at + self.offset, at + self.offset + rows), pa.int64()),
            "features": tables.fixed_lists(self.preprocessor.apply(table), pa.float32()),
            "label": label,
        }
        if self.weight_N is not None:
            columns["weight"] = pa.array(_slice(self.weight_N, first, rows), pa.float32())
        return pa.table(columns | {name: table[name] for name in self.beside})

    def _write(self, split: int, parts: list[pa.Table], written: list[FileRecord], at_least: int) -> None:
        """Write files of ROWS_PER_FILE rows as long as `at_least` rows are waiting; what is left stays in `parts`."""
        table = pa.concat_tables(parts)
        while table.num_rows >= at_least:
            path = f"data/{FOLDERS[split]}/{self.number:05d}-{len(written):03d}.parquet"
            written.append(tables.write(self.run, path, table.slice(0, ROWS_PER_FILE)))
            table = table.slice(ROWS_PER_FILE)
        parts[:] = [table]


def write(
    run: RunDir, plan: Plan, label_N: np.ndarray, preprocessor: Preprocessor, driver: Driver
) -> Iterator[list[FileRecord]]:
    """Encode and write all rows, unlabelled ones with ids after the others; yields a unit's files at a time.

    Files of a split come in order of their rows' ids.
    """
    label_type = pa.float32() if label_N.dtype.kind == "f" else pa.int32()
    jobs = [
        WriteJob(
            run=run,
            number=number,
            source=plan.source,
            unit=unit,
            offset=0,
            preprocessor=preprocessor,
            columns=[column.name for column in plan.columns],
            beside=plan.roles.beside,
            split_N=_part(unit, plan.split_N),
            label_N=_part(unit, label_N),
            label_type=label_type,
            weight_N=None if plan.weight_N is None else _part(unit, plan.weight_N),
        )
        for number, unit in enumerate(_units(plan.source))
    ]
    if plan.unlabelled is not None:
        jobs += [
            dataclasses.replace(
                jobs[0],
                number=number,
                source=plan.unlabelled,
                unit=unit,
                offset=len(label_N),
                split_N=np.full(_rows(unit), UNLABELLED, np.int8),
                label_N=None,
                weight_N=None,
            )
            for number, unit in enumerate(_units(plan.unlabelled))
        ]
    for written in driver(jobs):
        yield [record for split in sorted(written) for record in written[split]]


def sample(plan: Plan) -> pa.Table:
    """Return at most SAMPLE_ROWS training rows as they came, from up to ten places of the source."""
    names = [column.name for column in plan.columns]
    units = _units(plan.source)
    places = units[:: -(-len(units) // _SAMPLED_UNITS)]
    wanted, parts = tables.SAMPLE_ROWS // len(places), []
    for unit in places:
        at, table = next(iter(passes.rows_of(plan.source, unit, names)))
        own = np.flatnonzero(plan.split_N[at : at + table.num_rows] == TRAIN)
        parts.append(table.take(pa.array(own[:: max(1, -(-len(own) // wanted))])))
    return pa.concat_tables(parts)


def _units(source: Source) -> list[list[Piece]]:
    return passes.units(source.pieces)


def _rows(unit: list[Piece]) -> int:
    return sum(piece.rows for piece in unit)


def _part(unit: list[Piece], values_N: np.ndarray) -> np.ndarray:
    return _slice(values_N, unit[0].first, _rows(unit))


def _slice(values_N: np.ndarray, first: int, rows: int) -> np.ndarray:
    return values_N[first : first + rows]
