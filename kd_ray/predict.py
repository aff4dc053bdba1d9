"""Score a table of any size with a finished run: its exported student, or its ensemble.

Axes: N rows, D features, C classes.
"""

import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from kd_ray import deployed, schema
from kd_ray.config import Config
from kd_ray.data import passes
from kd_ray.data.pieces import Piece, Source, n_rows
from kd_ray.data.sources import open_like
from kd_ray.errors import ConfigError, DataError, StorageError
from kd_ray.finished import check_trusted, open_run
from kd_ray.mistakes import Mistakes
from kd_ray.progress import Report
from kd_ray.rundir import RunDir
from kd_ray.scoring import Model, StudentModel
from kd_ray.session import Session
from kd_ray.tables import DATA_MANIFEST, EXPORT_MANIFEST, TEACHERS_MANIFEST, Dataset

PREDICTION = "prediction"


@dataclass(frozen=True)
class _Job:
    """Score the rows of a unit. `kept` are columns that go out as they came."""

    source: Source
    unit: list[Piece]
    model: Model
    kept: list[str]
    task: dict[str, Any]

    def __call__(self) -> pa.Table:
        wanted = list(dict.fromkeys([*self.kept, *self.model.columns()]))
        tables = [table for _, table in passes.rows_of(self.source, self.unit, wanted)]
        return pa.concat_tables([self._scored(table) for table in tables if table.num_rows])

    def _scored(self, table: pa.Table) -> pa.Table:
        said = self.model(table)
        kept = {name: table[name] for name in self.kept}
        if self.task["kind"] == "regression":
            return pa.table(kept | {PREDICTION: said})
        classes = pa.array(self.task["class_values"])
        prediction = classes.take(pa.array(said.argmax(1)))
        shares = {
            f"probability_{name}": np.ascontiguousarray(said[:, c]) for c, name in enumerate(self.task["classes"])
        }
        return pa.table(kept | {PREDICTION: prediction, **shares})


def predict(
    run: str,
    source: str,
    out: str,
    *,
    session: Session,
    report: Report,
    ensemble: bool = False,
    variant: str = "student",
    keep: list[str] | None = None,
    trust: bool = False,
) -> int:
    """Score `source` (files, a folder, a glob or a URI of CSV or Parquet) into one Parquet file; return its rows.

    `out` appears whole or not at all. Raises ConfigError, DataError, ManifestError, StorageError.
    """
    here, config = open_run(run, DATA_MANIFEST, TEACHERS_MANIFEST if ensemble else EXPORT_MANIFEST)
    data = Dataset.open(here)
    model = _model(here, config, data, variant, ensemble=ensemble, trust=trust)
    mistakes = Mistakes()
    texts = {one.column.name for one in data.preprocessor.fitted if one.held == "texts"}
    with mistakes.gathering():
        rows = open_like(source, config.data, texts, "INPUT", mistakes)
        with mistakes.gathering():
            schema.check(data.schema, rows.schema, source)
        kept = _kept(rows.schema.names, config, data, keep or [], mistakes)
        for one in data.preprocessor.fitted:
            if one.column.name in rows.schema.names:
                with mistakes.gathering():
                    one.check(rows.schema.field(one.column.name).type)
    mistakes.check()
    jobs = [_Job(rows, unit, model, kept, data.schema["task"]) for unit in passes.units(rows.pieces)]
    large = sum(rows.files.sizes) >= passes.PARALLEL_BYTES
    drive = passes.on_ray(session) if large else passes.in_line
    return _write(out, drive(jobs), n_rows(rows), report)


def _model(run: RunDir, config: Config, data: Dataset, variant: str, *, ensemble: bool, trust: bool) -> Model:
    if ensemble:
        check_trusted(config, trust=trust)
        from kd_ray.ensemble import EnsembleModel

        return EnsembleModel(run, config)
    manifest = run.manifest(EXPORT_MANIFEST)
    assert manifest is not None
    bundle = run.read_named(manifest, f"export/{deployed.BUNDLE}")
    content = run.read_checked(manifest.file(f"export/{deployed.entry_of(bundle, variant)['file']}"))
    return StudentModel(content, bundle, data.preprocessor)


def _kept(names: list[str], config: Config, data: Dataset, asked: list[str], mistakes: Mistakes) -> list[str]:
    """Return the id columns that are there, and those asked for."""
    ids = [*config.data.columns.ids, *(n for n, why in data.schema["left_out"].items() if "looks like an id" in why)]
    kept = list(dict.fromkeys([*(name for name in ids if name in names), *asked]))
    absent = [name for name in asked if name not in names]
    mistakes.add(*(f"--keep: must name columns of the table; there is no {name!r}" for name in absent))
    taken = [name for name in kept if name == PREDICTION or name.startswith("probability_")]
    mistakes.add(*(f"--keep: {name!r} is what a column of the predictions is called; rename it" for name in taken))
    return kept


def _write(out: str, tables: Iterator[pa.Table], total: int, report: Report) -> int:
    """Write tables one after the other beside `out`, which then takes their place."""
    is_local = "://" not in out
    folder = Path(out).expanduser().absolute().parent if is_local else Path(tempfile.gettempdir())
    aside = folder / f".{secrets.token_hex(6)}.parquet.tmp"
    rows, writer = 0, None
    try:
        for table in tables:
            writer = writer or _writer(aside, table.schema)
            writer.write_table(table)
            rows += table.num_rows
            report(rows, total, f"{rows:,} of {total:,} rows scored")
        if writer is None:
            raise DataError("INPUT: must hold rows; there are none")
        writer.close()
        if is_local:
            os.replace(aside, Path(out).expanduser())
        else:
            pafs.copy_files(str(aside), out, source_filesystem=pafs.LocalFileSystem())
    except OSError as error:
        raise StorageError(f"--out: {out}: cannot be written: {error.strerror or error}") from None
    finally:
        if writer is not None:
            writer.close()
        aside.unlink(missing_ok=True)
    return rows


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Fractions go without a dictionary: each differs, and looking for those that do not took most of the time."""
    repeat = [column.name for column in schema if not pa.types.is_floating(column.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True, use_dictionary=repeat)


def check_out(out: str) -> None:
    """Raise ConfigError where `out` cannot be a file of predictions."""
    if not out.endswith(".parquet"):
        raise ConfigError(f"--out: must be a file that ends in .parquet; got {out!r}")
    if "://" not in out and not Path(out).expanduser().absolute().parent.is_dir():
        raise ConfigError(f"--out: must lie in a folder that exists; {Path(out).parent} does not")
