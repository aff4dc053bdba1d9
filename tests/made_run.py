"""A finished run made by hand, without training and without Ray: networks as they begin, on rows of noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.torch import save

from kd_ray import Config, evaluate, tables
from kd_ray.ensemble import spec_of
from kd_ray.finished import write_config
from kd_ray.groups import members
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.tables import (
    DATA_MANIFEST,
    EXPORT_MANIFEST,
    SOFT_TARGETS_MANIFEST,
    STUDENT_MANIFEST,
    TEACHERS_MANIFEST,
    Dataset,
)

FEATURES = 4
EPOCHS = 3
SCRIPT = "<script>alert(1)</script>"


def made_run(storage: Path, *, name: str = "made", task: dict[str, Any], rows: int = 60, **changes: Any) -> RunDir:
    """Write every file that the stages before the report write; `task` is the schema's, `changes` of the config."""
    run = RunDir.at(str(storage), name)
    config = config_of(run, **changes)
    write_config(run, config)
    _data(run, task, rows)
    data = Dataset.open(run)
    run.write_bytes(SOFT_TARGETS_MANIFEST, Manifest(fingerprint="s", files=[], summary={"rows": 90}).to_json())
    _teachers(run, config, data)
    _student(run, config, data)
    evaluate.measure(config, run, None, _silent, "e")  # type: ignore[arg-type]
    stages = {"data": {"fingerprint": f"data of {task}", "seconds": 1.25}}
    run.write_sealed("run.json", {"versions": {"python": "3"}, "host": "<b>host</b>", "stages": stages})
    return run


def config_of(run: RunDir, **changes: Any) -> Config:
    base: dict[str, Any] = {
        "name": run.name,
        "storage": run.storage,
        "teachers": {"count": 3, "model": {"hidden": [8], "dropout": []}},
        "student": {"model": {"hidden": [4]}, "replicas": 2},
    }
    return Config.of({**base, **changes})


def classification(*classes: str) -> dict[str, Any]:
    return {"kind": "classification", "classes": list(classes)}


REGRESSION = {"kind": "regression", "mean": 200.0, "scale": 50.0}


def export(run: RunDir, metrics: dict[str, Any]) -> None:
    """Write what an export would, with one variant of the student that has its metrics."""
    variant = {"name": SCRIPT, "file": "int8.onnx", "kind": "int8 static", "bytes": 900, "parameters": 39}
    facts = {"metrics": metrics, "recovered": dict.fromkeys(metrics), "recommended": True}
    bundle = {"format": 1, "run": run.name, "variants": [{**variant, **facts}], "tolerance": 0.01}
    record = run.write_json("export/bundle.json", bundle)
    run.commit(EXPORT_MANIFEST, Manifest(fingerprint="x", files=[record], summary={}))
    times = {"1": {"1": {"p50": 1e-5, "p95": 2e-5, "p99": 3e-5}}}
    model = {"bytes": 900, "peak_memory_bytes": None, "threads": times}
    slow = {**model, "threads": {"1": {"1": {"p50": 4e-4, "p95": 5e-4, "p99": 6e-4}}}}
    models = {"ensemble_loop": slow, "student": model, SCRIPT: model}
    run.write_sealed("export/latency.json", {"machine": {"cpu": "a <b>CPU</b>", "cores": 2}, "models": models})


def at(value: Any, key: str) -> Any:
    """What stands at `key`, a path with dots; None where there is nothing."""
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
    return value


def _silent(done: float, total: float, note: str) -> None:
    pass


def _data(run: RunDir, task: dict[str, Any], rows: int) -> None:
    rng = np.random.default_rng(1)
    if task["kind"] == "regression":
        label = pa.array(rng.normal(size=rows), pa.float32())
    else:
        label = pa.array(np.arange(rows) % len(task["classes"]), pa.int32())
    features = tables.fixed_lists(rng.normal(size=(rows, FEATURES)).astype(np.float32), pa.float32())
    table = pa.table({"row_id": np.arange(rows) + 1000, "features": features, "label": label})
    schema = {
        "task": task,
        "features": {"shape": [FEATURES], "names": [f"x{d}" for d in range(FEATURES)]},
        "rows": {"train": 100, "valid": 0, "test": rows},
        "columns": [{"name": f"<i>x{d}</i>", "kind": "numeric", "note": "<u>"} for d in range(FEATURES)],
        "left_out": {"<em>id</em>": "one value & no more"},
    }
    files = [tables.write(run, "data/test/00000.parquet", table), run.write_json("data/schema.json", schema)]
    run.write_bytes(DATA_MANIFEST, Manifest(fingerprint="d", files=files, summary={}).to_json())


def _teachers(run: RunDir, config: Config, data: Dataset) -> None:
    files = []
    for member in members(config.teachers):
        weights = spec_of(member.group.model, data).initial_weights(np.random.default_rng(member.number))
        record = run.write_bytes(f"{member.folder}/model.safetensors", save(weights))
        summary = {"metrics": {"loss": [0.9, 0.5, 0.01]}, "columns": None}
        run.write_bytes(member.manifest, Manifest(fingerprint="t", files=[record], summary=summary).to_json())
        files.append(record)
    run.write_bytes(TEACHERS_MANIFEST, Manifest(fingerprint="t", files=files, summary={}).to_json())


def _student(run: RunDir, config: Config, data: Dataset) -> None:
    files: list[FileRecord] = []
    spec, replicas = spec_of(config.student.model, data), config.student.replicas
    valid = "valid_rmse" if data.is_regression else "valid_nll"
    for number, role in enumerate(("student", "baseline", "augmented_control")):
        weights = [spec.initial_weights(np.random.default_rng((number, r))) for r in range(replicas)]
        every = {f"{r}/{name}": value for r, of_one in enumerate(weights) for name, value in of_one.items()}
        history = {
            "epoch": np.repeat(np.arange(1, EPOCHS + 1), replicas),
            "replica": np.tile(np.arange(replicas), EPOCHS),
            "loss": np.linspace(1, 0.1, EPOCHS * replicas),
            valid: pa.nulls(EPOCHS * replicas, pa.float64()),
        }
        files += [
            run.write_bytes(f"{role}/model.safetensors", save(weights[0])),
            run.write_bytes(f"{role}/replicas.safetensors", save(every)),
            tables.write(run, f"{role}/history.parquet", pa.table(history)),
            run.write_json(f"{role}/metrics.json", {"replica": 0}),
        ]
    run.write_bytes(STUDENT_MANIFEST, Manifest(fingerprint="m", files=files, summary={"replicas": replicas}).to_json())
