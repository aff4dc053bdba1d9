"""A run as it lies before its student is distilled, made by hand: rows of noise, and soft targets of nobody."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from kd_ray import tables
from kd_ray.rundir import Manifest, RunDir
from kd_ray.tables import DATA_MANIFEST, SOFT_TARGETS_MANIFEST

FEATURES, TRAIN, VALID, COPIES = 4, 64, 20, 2


def labelled_run(storage: Path, name: str = "labelled") -> RunDir:
    run, rng = RunDir.at(str(storage), name), np.random.default_rng(1)

    def features(rows: int) -> pa.FixedSizeListArray:
        return tables.fixed_lists(rng.normal(size=(rows, FEATURES)).astype(np.float32), pa.float32())

    schema = {
        "task": {"kind": "classification", "classes": ["a", "b", "c"]},
        "features": {"shape": [FEATURES], "names": [f"x{d}" for d in range(FEATURES)]},
        "rows": {"train": TRAIN, "valid": VALID, "test": 0},
    }
    files = [run.write_json("data/schema.json", schema)]
    for split, first, rows in (("train", 0, TRAIN), ("valid", TRAIN, VALID)):
        label = pa.array(rng.integers(0, 3, rows), pa.int32())
        table = pa.table({"row_id": np.arange(first, first + rows), "features": features(rows), "label": label})
        files.append(tables.write(run, f"data/{split}/00000.parquet", table))
    run.write_bytes(DATA_MANIFEST, Manifest(fingerprint="d", files=files, summary={}).to_json())
    row_id_N = np.concatenate([np.arange(TRAIN) + copy * (TRAIN + VALID) for copy in range(1 + COPIES)])
    labels = [*rng.integers(0, 3, TRAIN).tolist(), *[None] * (COPIES * TRAIN)]
    soft = {
        "row_id": row_id_N,
        "parent_row_id": row_id_N % (TRAIN + VALID),
        "origin": np.where(row_id_N < TRAIN, "train", "mixup"),
        "features": features(len(row_id_N)),
        "label": pa.array(labels, pa.int32()),
        "logits": tables.fixed_lists(rng.normal(size=(len(row_id_N), 3)).astype(np.float32), pa.float32()),
    }
    record = tables.write(run, "soft_targets/00000.parquet", pa.table(soft))
    summary = {"rows": len(row_id_N), "member_log_probs": False}
    run.write_bytes(SOFT_TARGETS_MANIFEST, Manifest(fingerprint="s", files=[record], summary=summary).to_json())
    return run
