"""Stage 1: source -> checked, split, encoded Parquet.

Files: data/{train,valid,test,unlabelled}/*.parquet with row_id, features (encoded), label, and where there are such
columns weight and those kept beside the rows; schema.json says what they mean, preprocess.safetensors holds what was
fitted. Row ids count the source's rows, so that a row keeps its id in any split; unlabelled rows count on from there.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from kd_ray import schema, tables
from kd_ray.config import Config
from kd_ray.data import encode, generated, passes, plan
from kd_ray.data.files import find
from kd_ray.data.passes import Driver
from kd_ray.data.plan import Plan
from kd_ray.data.preview import describe, lines
from kd_ray.data.recipe import starter
from kd_ray.data.sources import GENERATED, is_file, state
from kd_ray.estimators import Problem
from kd_ray.preprocess import Preprocessor
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.session import Session

__all__ = ["check", "depends_on", "lines", "prepare", "starter"]


def prepare(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Make the data and write it. Returns rows a split. Raises DataError with a line for each mistake in the data."""
    if config.data.source == GENERATED:
        found, files = generated.prepare(config, run)
    else:
        found, files = _prepare_table(config, run, _driver(config, session), report)
    files.append(run.write_json("data/schema.json", found))
    manifest = Manifest(fingerprint=fingerprint, files=files, summary={"rows": found["rows"]})
    run.commit(tables.DATA_MANIFEST, manifest)
    report(1, 1, ", ".join(f"{count:,} {name}" for name, count in found["rows"].items() if count) + " rows")
    return manifest.summary


def check(config: Config, session: Session) -> tuple[dict[str, Any], Problem]:
    """Return what a run would do with its data, as JSON, and what its teachers would have to learn.

    Raises DataError with a line for each mistake in the data.
    """
    driver = _driver(config, session)
    with tempfile.TemporaryDirectory() as aside:
        made = plan.make(config, Path(aside), driver)
        levels_D = encode.fit(made, config.data.preprocess, driver).levels
    problem = Problem(
        n_outputs=max(1, len(made.labels.counts)),
        is_regression=made.labels.classes is None,
        levels_D=levels_D,
        threads=1,
        clip=config.teachers.clip,
    )
    return describe(config, made, len(levels_D)), problem


def depends_on(config: Config) -> list[Any]:
    """Return what the stage is a function of beside `config.data`: the files' state, and columns of members' words.

    Empty for rows from no file. Raises DataError where a file is not there.
    """
    words = config.teachers.words
    return [*state(config.data), *([words] if words else [])]


def _driver(config: Config, session: Session) -> Driver:
    """Large files are worked on by Ray; what a loop does in seconds is not worth its start."""
    if not is_file(config.data.source) or sum(find(config.data.source).sizes) < passes.PARALLEL_BYTES:
        return passes.in_line
    return passes.on_ray(session)


def _prepare_table(
    config: Config, run: RunDir, driver: Driver, report: Report
) -> tuple[dict[str, Any], list[FileRecord]]:
    with tempfile.TemporaryDirectory() as aside:
        made = plan.make(config, Path(aside), passes.telling(driver, report, "looked at"))
        preprocessor = encode.fit(made, config.data.preprocess, passes.telling(driver, report, "fitted to"))
        task, label_N = _task(made)
        run.remove("data")
        files = [
            run.write_bytes("data/preprocess.safetensors", save(preprocessor.arrays())),
            tables.write(run, tables.SAMPLE, encode.sample(made)),
        ]
        total, rows = sum(made.rows.values()), 0
        for records in encode.write(run, made, label_N, preprocessor, driver):
            files += records
            rows += sum(record.rows or 0 for record in records)
            report(rows, total, f"{rows:,} of {total:,} rows written")
    return _schema(config, made, task, preprocessor), files


def _task(made: Plan) -> tuple[dict[str, Any], np.ndarray]:
    """Return the schema's task and the labels as they are written: standardized by the training rows' where numbers."""
    if made.labels.classes is not None:
        classes = {"classes": made.labels.classes, "class_values": made.labels.class_values}
        return {"kind": "classification", **classes}, made.labels.values_N
    training_N = made.labels.values_N[made.split_N == 0]
    mean, scale = float(training_N.mean()), float(training_N.std()) or 1.0
    return (
        {"kind": "regression", "mean": mean, "scale": scale},
        ((made.labels.values_N - mean) / scale).astype(np.float32),
    )


def _schema(config: Config, made: Plan, task: dict[str, Any], preprocessor: Preprocessor) -> dict[str, Any]:
    roles = made.roles
    return {
        "task": task,
        "features": {
            "shape": [len(preprocessor.names)],
            "names": preprocessor.names,
            "levels": preprocessor.levels,
        },
        "rows": made.rows,
        "source": config.data.source,
        "columns": schema.to_json(made.columns),
        "left_out": made.dropped,
        "target": roles.target,
        "weight": roles.weight,
        "beside": roles.beside,
        "preprocess": preprocessor.to_json(),
    }
