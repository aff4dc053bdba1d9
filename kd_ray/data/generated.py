"""Rows that make_classification generates: split, scaled by mean and deviation, written."""

from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from kd_ray import schema, tables
from kd_ray.config import Config
from kd_ray.data import splits
from kd_ray.errors import DataError
from kd_ray.knobs import GeneratorOptions
from kd_ray.preprocess import Fitted, Preprocessor, Scaling
from kd_ray.rundir import FileRecord, RunDir
from kd_ray.schema import Column

ROWS_PER_FILE = 131_072


def prepare(config: Config, run: RunDir) -> tuple[dict[str, Any], list[FileRecord]]:
    """Generate the rows and write them. Returns the schema and the files. Raises DataError."""
    features_ND, label_N = generate(config.data.options)
    n_classes = int(label_N.max()) + 1
    _check_classes(label_N, config.data.options.n_classes, "the data")
    parts = splits.draw(len(label_N), config.data.split, label_N if config.data.split.stratify else None)
    for name, ids in parts.items():
        if len(ids):
            _check_classes(label_N[ids], n_classes, f"the {name} split")
    mean_D, scale_D = fit_scaler(features_ND[parts["train"]])
    run.remove("data")
    columns = names(features_ND.shape[1])
    preprocessor = _preprocessor(columns, mean_D, scale_D)
    first = parts["train"][:: -(-len(parts["train"]) // tables.SAMPLE_ROWS)]
    files = [
        run.write_bytes("data/preprocess.safetensors", save(preprocessor.arrays())),
        tables.write(run, tables.SAMPLE, pa.table([*features_ND[first].T], columns)),
    ]
    for name, ids in parts.items():
        scaled_ND = ((features_ND[ids] - mean_D) / scale_D).astype(np.float32)
        files += _write_split(run, name, ids, scaled_ND, label_N[ids])
    found = {
        "task": {
            "kind": "classification",
            "classes": [str(c) for c in range(n_classes)],
            "class_values": list(range(n_classes)),
        },
        "features": {"shape": [features_ND.shape[1]], "names": columns, "levels": preprocessor.levels},
        "rows": {name: len(ids) for name, ids in parts.items()},
        "source": config.data.source,
        "columns": schema.to_json([one.column for one in preprocessor.fitted]),
        "left_out": {},
        "target": "target",
        "weight": None,
        "beside": [],
        "preprocess": preprocessor.to_json(),
    }
    return found, files


def _preprocessor(columns: list[str], mean_D: np.ndarray, scale_D: np.ndarray) -> Preprocessor:
    scalings = [
        Scaling(fill=float(mean), mean=float(mean), scale=float(scale))
        for mean, scale in zip(mean_D, scale_D, strict=True)
    ]
    return Preprocessor(
        [
            Fitted(column=Column(name=name, kind="numeric"), held="numbers", scaling=scaling)
            for name, scaling in zip(columns, scalings, strict=True)
        ]
    )


def names(columns: int) -> list[str]:
    return [f"x{d}" for d in range(columns)]


def table(options: GeneratorOptions) -> pa.Table:
    """Return the rows as a table with the columns x0, x1, ... and target. Raises DataError."""
    features_ND, label_N = generate(options)
    return pa.table([*features_ND.T, label_N], [*names(features_ND.shape[1]), "target"])


def generate(options: GeneratorOptions) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_classification

    if options.n_classes < 2:
        raise DataError(f"the labels must have at least 2 classes; data.options.n_classes is {options.n_classes}")
    try:
        features_ND, label_N = make_classification(**options.model_dump())
    except ValueError as error:
        raise DataError(f"data.options: make_classification refuses them: {error}") from None
    return features_ND, label_N.astype(np.int64)


def _check_classes(label_N: np.ndarray, n_classes: int, where: str) -> None:
    if len(label_N) < n_classes:
        raise DataError(f"{where} must have at least as many rows as classes; {len(label_N)} rows, {n_classes} classes")
    missing = sorted(set(range(n_classes)) - set(np.unique(label_N).tolist()))
    if missing:
        raise DataError(
            f"{where} must have rows of every class; class {missing[0]} has none: "
            "use more rows, a larger split or another data.split.seed"
        )


def fit_scaler(features_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the training rows; a constant column is only centred."""
    scale_D = features_ND.std(0)
    scale_D[scale_D < 1e-12 * np.maximum(np.abs(features_ND).max(0), 1e-300)] = 1.0
    return features_ND.mean(0), scale_D


def _write_split(
    run: RunDir, name: str, ids: np.ndarray, features_ND: np.ndarray, label_N: np.ndarray
) -> list[FileRecord]:
    table = pa.table(
        {
            "row_id": pa.array(ids, pa.int64()),
            "features": tables.fixed_lists(features_ND, pa.float32()),
            "label": pa.array(label_N, pa.int32()),
        }
    )
    starts = range(0, len(ids), ROWS_PER_FILE)
    return [
        tables.write(run, f"data/{name}/{i:05d}.parquet", table.slice(start, ROWS_PER_FILE))
        for i, start in enumerate(starts)
    ]
