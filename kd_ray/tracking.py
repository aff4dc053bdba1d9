"""A finished run written down on an MLflow server: its knobs, its numbers by epoch, its evaluation and its files.

track.json says which MLflow run stands for the run as it is, so that it is written once.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray import yaml_io
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError, UserError
from kd_ray.rundir import RunDir, fingerprint
from kd_ray.series import OF_STAGE

FILE = "track.json"
ARTIFACTS = ("config.yaml", "evaluation.json", "report.html", "export/student.onnx", "export/MODEL_CARD.md")
AT_ONCE = {"params": 100, "metrics": 1000}
"""What MLflow takes in one request."""
LONGEST_VALUE = 6000
_BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def check(config: Config) -> None:
    """Raise UserError where a run could not be written down in the end: within a minute, before anything is trained."""
    if config.track.mlflow:
        with _said(config, "must be an MLflow server that answers"):
            _client(config).search_experiments(max_results=1)


def log(config: Config, run: RunDir, finished: str) -> None:
    """Write a finished run down, unless that is done; `finished` is its fingerprint. Raises UserError."""
    if not config.track.mlflow:
        return
    wanted = fingerprint("track", config.track.model_dump(), finished)
    if run.exists(FILE) and run.read_json(FILE)["fingerprint"] == wanted:
        return
    with _said(config, f"did not take the run; it lies finished in {run}, and the same command writes it there again"):
        run_id = _written(config, run)
    run.write_sealed(FILE, {"fingerprint": wanted, "mlflow": config.track.mlflow, "run_id": run_id})


def _written(config: Config, run: RunDir) -> str:
    from mlflow.entities import Metric, Param

    client = _client(config)
    found = client.get_experiment_by_name(config.track.experiment)
    experiment = found.experiment_id if found else client.create_experiment(config.track.experiment)
    run_id: str = client.create_run(experiment, run_name=run.name, tags={"kd_ray.path": str(run)}).info.run_id
    try:
        now = int(time.time() * 1000)
        params = [Param(key, text[:LONGEST_VALUE]) for key, text in yaml_io.flat(config.model_dump()).items()]
        metrics = [
            Metric(f"{one.model}/{one.name}", value, now, step)
            for of_stage in OF_STAGE.values()
            for one in of_stage(config, run)
            for step, value in zip(one.steps, one.values, strict=True)
        ]
        for name, entries in (("params", params), ("metrics", metrics)):
            for start in range(0, len(entries), AT_ONCE[name]):
                client.log_batch(run_id, **{name: entries[start : start + AT_ONCE[name]]})
        _send(client, run, run_id)
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id)
    return run_id


def _send(client: Any, run: RunDir, run_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ARTIFACTS:
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(run.read_bytes(name))
            client.log_artifact(run_id, str(path), artifact_path=str(Path(name).parent) if "/" in name else None)


def _client(config: Config) -> Any:
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise ConfigError(
            "track.mlflow: needs the package mlflow-skinny: pip install 'kd-ray[mlflow]', or set track.mlflow to null"
        ) from None
    return MlflowClient(tracking_uri=config.track.mlflow)


@contextlib.contextmanager
def _said(config: Config, what: str) -> Iterator[None]:
    """Say in one line what MLflow's client raises."""
    try:
        yield
    except KdRayError:
        raise
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"track.mlflow: {config.track.mlflow} {what}; it says: {reason[:300]}") from None
