"""Parquet as the run directory holds it: fixed schemas, page checksums written and verified.

Features of any shape are stored flat, their shape is in the data stage's schema.json.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.errors import ManifestError
from kd_ray.rundir import FileRecord, Manifest, RunDir


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
        table = pq.read_table(pa.BufferReader(content), columns=columns, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{run}/{record.path}: is not readable Parquet: {error}") from None
    if record.rows is not None and table.num_rows != record.rows:
        raise ManifestError(
            f"{run}/{record.path}: must hold {record.rows} rows as its manifest says; it holds {table.num_rows}"
        )
    return table


DATA_MANIFEST = "data/manifest.json"
SOFT_TARGETS_MANIFEST = "soft_targets/manifest.json"
STUDENT_MANIFEST = "student/manifest.json"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split in order of their ids: ids, features (one row each, flat) and labels."""

    row_id_N: np.ndarray
    features_ND: np.ndarray
    label_N: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Rows":
        ids = to_numpy(table["row_id"])
        order = np.argsort(ids, kind="stable")
        if len(ids) and (np.diff(ids[order]) == 0).any():
            raise ManifestError("row_id: must be unique within a split; one comes twice")
        return cls(
            row_id_N=ids[order],
            features_ND=to_numpy(table["features"])[order],
            label_N=to_numpy(table["label"])[order].astype(np.int64),
        )

    @classmethod
    def concat(cls, parts: list["Rows"]) -> "Rows":
        return cls(
            row_id_N=np.concatenate([part.row_id_N for part in parts]),
            features_ND=np.concatenate([part.features_ND for part in parts]),
            label_N=np.concatenate([part.label_N for part in parts]),
        )

    def slice(self, first: int, past: int) -> "Rows":
        return Rows(
            row_id_N=self.row_id_N[first:past],
            features_ND=self.features_ND[first:past],
            label_N=self.label_N[first:past],
        )


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
        return cls(run, manifest, run.read_json("data/schema.json"))

    @property
    def n_classes(self) -> int:
        return len(self.schema["task"]["classes"])

    @property
    def n_features(self) -> int:
        return math.prod(self.schema["features"]["shape"])

    def files(self, split: str) -> list[FileRecord]:
        return [record for record in self.manifest.files if record.path.startswith(f"data/{split}/")]

    def rows(self, split: str) -> Rows:
        """Return all rows of a split. Raises ManifestError where a file is not what was written."""
        records = self.files(split)
        if not records:
            width = self.n_features
            return Rows(
                row_id_N=np.empty(0, np.int64),
                features_ND=np.empty((0, width), np.float32),
                label_N=np.empty(0, np.int64),
            )
        return Rows.of(pa.concat_tables([read(self.run, record) for record in records]))


class Positions:
    """Rows of a split by their position in order of ids, read file by file; the last file is kept."""

    def __init__(self, data: Dataset, split: str) -> None:
        self._run = data.run
        self._files = data.files(split)
        self._starts = np.cumsum([0, *(record.rows for record in self._files)])
        self._kept: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, first: int, past: int) -> Rows:
        """Return the rows at positions `first` to `past` - 1. Raises ManifestError."""
        parts = []
        for number, (start, stop) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            if start < past and first < stop:
                parts.append(self._file(number).slice(max(0, first - start), min(stop, past) - start))
        return Rows.concat(parts)

    def _file(self, number: int) -> Rows:
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, Rows.of(read(self._run, self._files[number])))
        return self._kept[1]
