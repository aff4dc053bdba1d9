"""What is said of an exported student: bundle.json's head, and the models' own metadata."""

import datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from kd_ray import __version__, deployed, raw
from kd_ray.export import graph
from kd_ray.models import MLP
from kd_ray.scoring import input_of, stand_ins
from kd_ray.tables import Dataset


def without_variants(data: Dataset, fingerprint: str, judged_on: str, tolerance: float) -> dict[str, Any]:
    """Return bundle.json without variants."""
    schema, fitted = data.schema, data.preprocessor.fitted
    return {
        "format": deployed.FORMAT,
        "run": data.run.name,
        "id": fingerprint,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"kd-ray": __version__, **{name: version(name) for name in ("torch", "onnx", "onnxruntime")}},
        "opset": {"ai.onnx": graph.OPSET, "ai.onnx.ml": graph.ML_OPSET},
        "task": schema["task"],
        "target": schema["target"],
        "columns": [
            {"name": one.column.name, "kind": one.column.kind, "holds": one.held, "input": input_of(one)}
            for one in fitted
        ],
        **stand_ins(fitted),
        "missing_whole": raw.MISSING_WHOLE,
        "judged_on": judged_on,
        "tolerance": tolerance,
        "variants": [],
    }


def facts_of(bundle: dict[str, Any], variant: str) -> dict[str, str]:
    """The models' own metadata: texts, lists as JSON."""
    task = bundle["task"]
    return {
        "kd_ray_version": bundle["versions"]["kd-ray"],
        "run": bundle["run"],
        "run_id": bundle["id"],
        "task": task["kind"],
        "target": bundle["target"],
        "classes": deployed.as_json(task.get("classes", [])),
        "columns": deployed.as_json([[c["name"], c["input"]] for c in bundle["columns"]]),
        "missing_text": bundle["missing_text"],
        "variant": variant,
    }


def untrained(data: Dataset, spec: MLP, fingerprint: str) -> deployed.Student:
    """Return a student that was not trained, on one thread: its bytes and its speed are those of one that was."""
    bundle = without_variants(data, fingerprint, "validation", 0.0)
    network = graph.network(spec, spec.initial_weights(np.random.default_rng(0)))
    model = graph.join(data.preprocessor, network, data.schema["task"], facts_of(bundle, "student"))
    return deployed.student_of(model.SerializeToString(deterministic=True), bundle, threads=1)
