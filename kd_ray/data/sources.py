"""Open what `data.source` and `data.unlabelled` name."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.data import files, generated, named
from kd_ray.data.csv_source import CsvSource
from kd_ray.data.parquet_source import ParquetSource
from kd_ray.data.pieces import BATCH_ROWS, Source, TableSource, is_number, plain_schema
from kd_ray.errors import DataError
from kd_ray.knobs import Data
from kd_ray.mistakes import Mistakes

GENERATED = "make_classification"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_file(source: str) -> bool:
    """Whether `data.source` names files, not a data set or a function."""
    return source != GENERATED and not _FUNCTION.fullmatch(source)


def state(data: Data) -> list[Any]:
    """Return what changes where the source's files are written anew; [] where rows come from no file."""
    wheres = {"data.source": data.source, "data.unlabelled": data.unlabelled}
    return [files.find(where, key).state() for key, where in wheres.items() if where and is_file(where)]


def open_source(data: Data, mistakes: Mistakes, aside: Path) -> Source:
    """Open `data.source`. What is wrong with its files becomes mistakes; raises DataError where none can be read.

    `aside` is a folder that what cannot be read twice, a `ray.data.Dataset`, is written to.
    """
    if data.source == GENERATED:
        return TableSource(generated.table(data.options))
    if data.source.startswith("sklearn:"):
        return TableSource(named.sklearn_table(data.source.removeprefix("sklearn:")))
    if not is_file(data.source):
        value = named.imported_table(data)
        if named.is_ray_dataset(value):
            return ParquetSource.open(_spooled(value, data, aside), mistakes)
        return TableSource(value)
    return _open_files(data.source, data, mistakes, "data.source")


def open_unlabelled(data: Data, labelled: pa.Schema, mistakes: Mistakes) -> Source | None:
    """Open `data.unlabelled` with the types that its columns have in the labelled rows; None where none is named."""
    if data.unlabelled is None:
        return None
    source = _open_files(data.unlabelled, data, mistakes, "data.unlabelled")
    fields = [
        labelled.field(field.name) if field.name in labelled.names and _reads_as(source, field, labelled) else field
        for field in source.schema
    ]
    return dataclasses.replace(source, schema=pa.schema(fields))


def open_like(where: str, data: Data, texts: set[str], key: str, mistakes: Mistakes) -> CsvSource | ParquetSource:
    """Open files of which the columns `texts` are texts, whatever they look like in a CSV file."""
    source = _open_files(where, data, mistakes, key)
    if isinstance(source, ParquetSource):
        return source
    fields = [pa.field(field.name, pa.string()) if field.name in texts else field for field in source.schema]
    return dataclasses.replace(source, schema=pa.schema(fields))


def _reads_as(source: Source, field: pa.Field, labelled: pa.Schema) -> bool:
    """Whether a column can be read as its labelled namesake: missing throughout, a wider number, digits as text."""
    wanted = labelled.field(field.name).type
    if pa.types.is_null(field.type) or (is_number(field.type) and pa.types.is_float64(wanted)):
        return True
    return isinstance(source, CsvSource) and pa.types.is_string(wanted)


def _open_files(where: str, data: Data, mistakes: Mistakes, key: str) -> CsvSource | ParquetSource:
    found = files.find(where, key)
    source = CsvSource.open(found, data, mistakes) if found.format == "csv" else ParquetSource.open(found, mistakes)
    if not mistakes.lines and not sum(piece.rows for piece in source.pieces):
        mistakes.add(f"{key}: must hold rows; there are none in {where!r}")
    return source


def _spooled(dataset: Any, data: Data, aside: Path) -> files.Files:
    """Write a `ray.data.Dataset` to Parquet, batch by batch: read again, it might come in another order."""
    path, writer = aside / "dataset.parquet", None
    try:
        for batch in dataset.iter_batches(batch_size=BATCH_ROWS, batch_format="pyarrow"):
            named.check_names(batch.schema.names, f"what {data.source} returns")
            writer = writer or pq.ParquetWriter(path, plain_schema(batch.schema), compression="zstd")
            writer.write_table(batch.cast(writer.schema))
    except (pa.ArrowException, ValueError) as error:
        says = str(error).strip().splitlines()[0]
        raise DataError(f"data.source: the Dataset that {data.source} returns cannot be written: {says}") from None
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise DataError(f"data.source: the Dataset that {data.source} returns must hold rows; it has none")
    return files.find(str(path))
