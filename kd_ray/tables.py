"""Parquet as the run directory holds it: fixed schemas, page checksums written and verified.

Features of any shape are stored flat, their shape is in the data stage's schema.json.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load

from kd_ray.errors import ManifestError
from kd_ray.preprocess import Preprocessor
from kd_ray.rundir import LARGE_BYTES, FileRecord, Manifest, RunDir


def fixed_lists(values_NX: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    """Return rows of equal length as an Arrow column."""
    flat = pa.array(np.ascontiguousarray(values_NX).reshape(-1), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values_NX.shape[1])


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers or of fixed-size lists as an array; lists become the second axis."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy())
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, width))


def labels(column: pa.ChunkedArray) -> np.ndarray:
    """Return class indices as torch takes them, -1 where unknown, or a regression's numbers, NaN where unknown."""
    if pa.types.is_floating(column.type):
        return to_numpy(column.fill_null(np.nan))
    return to_numpy(column.fill_null(-1)).astype(np.int64)


def positions(sorted_id_N: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
    """Return where each wanted id stands, -1 where it is missing."""
    if not len(sorted_id_N):
        return np.full(len(wanted_N), -1)
    at_N = np.minimum(np.searchsorted(sorted_id_N, wanted_N), len(sorted_id_N) - 1)
    return np.where(sorted_id_N[at_N] == wanted_N, at_N, -1)


def write(run: RunDir, relative: str, table: pa.Table) -> FileRecord:
    """Write a table as one Parquet file, whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        write_page_checksum=True,
        use_dictionary=["origin"] if "origin" in table.column_names else False,
    )
    return run.write_bytes(relative, sink.getvalue(), rows=table.num_rows)


def read(run: RunDir, record: FileRecord, columns: list[str] | None = None) -> pa.Table:
    """Return a table whose file is what its manifest says. Raises ManifestError."""
    content = run.read_checked(record)
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            _check(run, record, file, columns)
            return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{run}/{record.path}: is not readable Parquet: {error}") from None


def _check(run: RunDir, record: FileRecord, file: pq.ParquetFile, columns: list[str] | None) -> None:
    """Raise ManifestError where there are other rows than were written, or more than memory holds: few bytes of
    Parquet can stand for very many.
    """
    rows, schema = file.metadata.num_rows, file.schema_arrow
    if record.rows not in (None, rows):
        raise ManifestError(f"{run}/{record.path}: must hold {record.rows} rows as its manifest says; it holds {rows}")
    if absent := set(columns or ()) - set(schema.names):
        raise ManifestError(f"{run}/{record.path}: must have the column {sorted(absent)[0]!r}; it has not")
    need = rows * sum(_width(field.type) for field in schema if columns is None or field.name in columns)
    if need > LARGE_BYTES and need > psutil.virtual_memory().available:
        raise ManifestError(f"{run}/{record.path}: its {rows:,} rows need {need:,} bytes, more memory than is free")


def _width(kind: pa.DataType) -> int:
    """Bytes of a value, at the least."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    return -(-kind.bit_width // 8) if pa.types.is_primitive(kind) else 1


PARENTS = ("train", "unlabelled")
"""Splits whose rows the ensemble labels, and that synthesized rows are made from."""
SAMPLE, SAMPLE_ROWS = "data/sample.parquet", 1_000
"""Training rows as they came, to check an exported student by."""
DATA_MANIFEST = "data/manifest.json"
SOFT_TARGETS_MANIFEST = "soft_targets/manifest.json"
STUDENT_MANIFEST = "student/manifest.json"
TEACHERS_MANIFEST = "teachers/manifest.json"
EXPORT_MANIFEST = "export/manifest.json"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split in order of their ids: ids, features (one row each, flat), labels, weights and words.

    Without a column of weights, all are 1. Words are columns of the user's table, those asked for.
    """

    row_id_N: np.ndarray
    features_ND: np.ndarray
    label_N: np.ndarray
    weight_N: np.ndarray
    word_NX: np.ndarray | None = None

    @classmethod
    def of(cls, table: pa.Table, words: Sequence[str] = ()) -> "Rows":
        ids = to_numpy(table["row_id"])
        order = np.argsort(ids, kind="stable")
        if len(ids) and (np.diff(ids[order]) == 0).any():
            raise ManifestError("row_id: must be unique within a split; one comes twice")
        return cls(
            row_id_N=ids[order],
            features_ND=to_numpy(table["features"])[order],
            label_N=labels(table["label"])[order],
            weight_N=_weights(table)[order],
            word_NX=np.stack([to_numpy(table[name]) for name in words], 1)[order] if words else None,
        )

    @classmethod
    def concat(cls, parts: list["Rows"]) -> "Rows":
        return cls(
            row_id_N=np.concatenate([part.row_id_N for part in parts]),
            features_ND=np.concatenate([part.features_ND for part in parts]),
            label_N=np.concatenate([part.label_N for part in parts]),
            weight_N=np.concatenate([part.weight_N for part in parts]),
            word_NX=None if parts[0].word_NX is None else np.concatenate([part.word_NX for part in parts]),
        )

    def of_columns(self, columns: list[int] | None) -> "Rows":
        """Return the rows with some features only; None stands for all."""
        return self if columns is None else replace(self, features_ND=self.features_ND[:, columns])

    def at(self, positions: slice | np.ndarray) -> "Rows":
        return Rows(
            row_id_N=self.row_id_N[positions],
            features_ND=self.features_ND[positions],
            label_N=self.label_N[positions],
            weight_N=self.weight_N[positions],
            word_NX=None if self.word_NX is None else self.word_NX[positions],
        )


def _weights(table: pa.Table) -> np.ndarray:
    if "weight" not in table.column_names:
        return np.ones(table.num_rows, np.float32)
    return to_numpy(table["weight"].fill_null(1.0))


@dataclass(frozen=True)
class Dataset:
    """The data stage's files, as later stages read them."""

    run: RunDir
    manifest: Manifest
    schema: dict[str, Any]

    @classmethod
    def open(cls, run: RunDir) -> "Dataset":
        manifest = run.manifest(DATA_MANIFEST)
        if manifest is None:
            raise ManifestError(f"{run}: has no finished data stage")
        return cls(run, manifest, run.read_named(manifest, "data/schema.json"))

    @property
    def n_classes(self) -> int:
        return len(self.schema["task"]["classes"])

    @property
    def n_features(self) -> int:
        return math.prod(self.schema["features"]["shape"])

    @property
    def levels_D(self) -> list[int]:
        """Levels of each feature: 0 is a number; else the feature is a code, a whole number from 0 to levels - 1."""
        return list(self.schema["features"].get("levels") or [0] * self.n_features)

    @property
    def is_regression(self) -> bool:
        """Then labels, logits and predictions are numbers in units of the task's `scale` from its `mean`."""
        return bool(self.schema["task"]["kind"] == "regression")

    @property
    def n_outputs(self) -> int:
        """Numbers that a model says of a row: a logit a class, or the one value of a regression."""
        return 1 if self.is_regression else self.n_classes

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """What was fitted to the training rows. Raises ManifestError where its file is not what was written."""
        record = self._record("data/preprocess.safetensors")
        content = self.run.read_checked(record)
        try:
            return Preprocessor.of(self.schema["preprocess"], load(content))
        except SafetensorError as error:
            raise ManifestError(f"{self.run}/{record.path}: is no safetensors file: {error}") from None

    def sample(self) -> pa.Table:
        """Return some training rows as they came, at most SAMPLE_ROWS."""
        return read(self.run, self._record(SAMPLE))

    def _record(self, path: str) -> FileRecord:
        return self.manifest.file(path)

    def files(self, split: str) -> list[FileRecord]:
        return [record for record in self.manifest.files if record.path.startswith(f"data/{split}/")]

    def rows(self, split: str, words: Sequence[str] = ()) -> Rows:
        """Return all rows of a split, with the columns `words`.

        Raises ManifestError where a file is not what was written.
        """
        records = self.files(split)
        if not records:
            width = self.n_features
            return Rows(
                row_id_N=np.empty(0, np.int64),
                features_ND=np.empty((0, width), np.float32),
                label_N=np.empty(0, np.float32 if self.is_regression else np.int64),
                weight_N=np.empty(0, np.float32),
            )
        return self._rows(f"data/{split}", records, words)

    def read(self, record: FileRecord, words: Sequence[str] = ()) -> Rows:
        """Return a file's rows. Raises ManifestError where it is not what was written, or a code has no level."""
        return self._rows(record.path, [record], words)

    def _rows(self, where: str, records: list[FileRecord], words: Sequence[str]) -> Rows:
        rows = Rows.of(pa.concat_tables([read(self.run, record) for record in records]), words)
        for d, levels in ((d, levels) for d, levels in enumerate(self.levels_D) if levels):
            code_N = rows.features_ND[:, d]
            wrong_N = ~((code_N >= 0) & (code_N < levels) & (code_N == np.floor(code_N)))
            if wrong_N.any():
                at = int(wrong_N.argmax())
                raise ManifestError(
                    f"{self.run}/{where}: feature {self.schema['features']['names'][d]!r} must be a whole number from "
                    f"0 to {levels - 1}, as data/schema.json says; row {rows.row_id_N[at]} has {code_N[at]:g}: "
                    "delete the run's folder and run again"
                )
        return rows


class Positions:
    """Rows of one split after another by their position, in order of ids, read file by file; the last file is kept."""

    def __init__(self, data: Dataset, *splits: str, words: Sequence[str] = ()) -> None:
        self._data, self._words = data, words
        self._files = [record for split in splits for record in data.files(split)]
        self._starts = np.cumsum([0, *(record.rows for record in self._files)])
        self._kept: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, first: int, past: int) -> Rows:
        """Return the rows at positions `first` to `past` - 1. Raises ManifestError."""
        parts = []
        for number, (start, stop) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            if start < past and first < stop:
                parts.append(self._file(number).at(slice(max(0, first - start), min(stop, past) - start)))
        return Rows.concat(parts)

    def _file(self, number: int) -> Rows:
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._data.read(self._files[number], self._words))
        return self._kept[1]
