"""Parquet files as a source; a piece is a row group."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.data.files import Files
from kd_ray.data.pieces import BATCH_ROWS, Piece, common_schema, holding
from kd_ray.errors import DataError
from kd_ray.mistakes import Mistakes


@dataclass(frozen=True)
class ParquetSource:
    """Files of one schema."""

    files: Files
    schema: pa.Schema
    pieces: list[Piece]

    @classmethod
    def open(cls, files: Files, mistakes: Mistakes) -> "ParquetSource":
        """Read the footers. Damaged files, and columns in which files disagree, become mistakes."""
        schemas: dict[str, pa.Schema] = {}
        pieces: list[Piece] = []
        first = 0
        for number, path in enumerate(files.paths):
            try:
                with _opened(files, path) as file:
                    schema = file.schema_arrow
                    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            except DataError as error:
                mistakes.add(str(error))
                continue
            twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
            mistakes.add(*(f"{path}: column names must differ; {name!r} is there more than once" for name in twice))
            schemas[path] = pa.schema([field for field in schema if field.name not in twice])
            for group, rows in enumerate(counts):
                pieces.append(Piece(first=first, rows=rows, file=number, group=group))
                first += rows
        return cls(files, common_schema(schemas, mistakes), pieces)

    def batches(self, piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
        path = self.files.paths[piece.file]
        wanted = pa.schema([self.schema.field(name) for name in columns])
        with _opened(self.files, path) as file:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[piece.group], columns=columns):
                batch.validate(full=True)
                yield pa.Table.from_batches([batch]).select(columns).cast(wanted)

    def where(self, row: int) -> str:
        piece = holding(self.pieces, row)
        start = min(other.first for other in self.pieces if other.file == piece.file)
        return f"{self.files.paths[piece.file]}, row {row - start}"


@contextlib.contextmanager
def _opened(files: Files, path: str) -> Iterator[pq.ParquetFile]:
    """Yield a file; what Arrow says against it on the way becomes a DataError that names it."""
    try:
        with files.filesystem.open_input_file(path) as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        says = (str(error).strip() or repr(error)).splitlines()[0]
        raise DataError(f"{path}: must be whole Parquet; it is truncated, damaged or no Parquet: {says}") from None
