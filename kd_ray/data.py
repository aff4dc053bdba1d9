"""Stage 1: source -> checked, split, scaled Parquet.

Files: data/{train,valid,test}/*.parquet with row_id, features (scaled), label; schema.json says what they mean,
preprocess.safetensors holds the scaler. Row ids count the source's rows, so that a row keeps its id in any split.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from kd_ray import tables
from kd_ray.config import Config, GeneratorOptions, Split
from kd_ray.errors import DataError
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.session import Session

ROWS_PER_FILE = 131_072
SPLITS = ("train", "valid", "test")


def prepare(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Make the data and write it. Returns rows a split. Raises DataError."""
    features_ND, label_N = _generate(config.data.options)
    row_id_N = np.arange(len(label_N))
    n_classes = int(label_N.max()) + 1
    _check_classes(label_N, config.data.options.n_classes, "the data")
    parts = _split(row_id_N, config.data.split)
    for name, ids in parts.items():
        if len(ids):
            _check_classes(label_N[ids], n_classes, f"the {name} split")
    mean_D, scale_D = _fit_scaler(features_ND[parts["train"]])
    run.remove("data")
    files = [run.write_bytes("data/preprocess.safetensors", save({"mean": mean_D, "scale": scale_D}))]
    for name, ids in parts.items():
        scaled_ND = ((features_ND[ids] - mean_D) / scale_D).astype(np.float32)
        files += _write_split(run, name, ids, scaled_ND, label_N[ids])
    rows = {name: len(ids) for name, ids in parts.items()}
    schema = {
        "task": {"kind": "classification", "classes": [str(c) for c in range(n_classes)]},
        "features": {
            "shape": [features_ND.shape[1]],
            "names": [f"x{d}" for d in range(features_ND.shape[1])],
        },
        "rows": rows,
    }
    files.append(run.write_json("data/schema.json", schema))
    manifest = Manifest(fingerprint=fingerprint, files=files, summary={"rows": rows})
    run.write_bytes(tables.DATA_MANIFEST, manifest.to_json())
    report(1, 1, ", ".join(f"{count:,} {name}" for name, count in rows.items() if count) + " rows")
    return manifest.summary


def _generate(options: GeneratorOptions) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_classification

    if options.n_classes < 2:
        raise DataError(f"the labels must have at least 2 classes; data.options.n_classes is {options.n_classes}")
    try:
        features_ND, label_N = make_classification(**options.model_dump())
    except ValueError as error:
        raise DataError(f"data.options: make_classification refuses them: {error}") from None
    return features_ND, label_N.astype(np.int64)


def _split(row_id_N: np.ndarray, config: Split) -> dict[str, np.ndarray]:
    """Cut off the test rows, then the validation rows from what is left; ids ascend within a split."""
    from sklearn.model_selection import train_test_split

    def cut(ids: np.ndarray, size: float, key: str) -> tuple[np.ndarray, np.ndarray]:
        held = int(size) if size >= 1 else math.ceil(size * len(ids))
        if not size:
            return ids, ids[:0]
        if held >= len(ids):
            raise DataError(f"data.split.{key}: must leave rows to train on; it takes {held} of {len(ids)} rows")
        kept, cut_off = train_test_split(ids, test_size=held, random_state=config.seed)
        return np.sort(kept), np.sort(cut_off)

    rest, test = cut(row_id_N, config.test, "test")
    train, valid = cut(rest, config.valid, "valid")
    return {"train": train, "valid": valid, "test": test}


def _check_classes(label_N: np.ndarray, n_classes: int, where: str) -> None:
    if len(label_N) < n_classes:
        raise DataError(f"{where} must have at least as many rows as classes; {len(label_N)} rows, {n_classes} classes")
    missing = sorted(set(range(n_classes)) - set(np.unique(label_N).tolist()))
    if missing:
        raise DataError(
            f"{where} must have rows of every class; class {missing[0]} has none: "
            "use more rows, a larger split or another data.split.seed"
        )


def _fit_scaler(features_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
