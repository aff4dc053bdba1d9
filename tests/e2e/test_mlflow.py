"""A run on a real MLflow server, read back over its REST interface."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e
SERVER = Path(sys.prefix, "mlflow", "bin", "mlflow")
START_SECONDS = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server on loopback."""
    if not SERVER.exists():
        pytest.skip(f"the MLflow server {SERVER}: make test installs it")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    command = [SERVER, "server", "--host", host, "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{SERVER.parent}:{os.environ['PATH']}"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((folder / "server.log").read_text())
        yield f"http://{address}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


@pytest.fixture
def own(made: str, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may change."""
    shutil.copytree(made, tmp_path / "served")
    return tmp_path / "served"


def run_again(run: Path, server: str) -> subprocess.CompletedProcess[str]:
    changes = [f"storage={run.parent}", f"track.mlflow={server}", "track.experiment=the tests'"]
    command = [sys.executable, "-m", "kd_ray.cli", "run", str(run / "config.yaml"), *(f"--set={c}" for c in changes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def asked(server: str, path: str, **body: Any) -> Any:
    content = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{server}/api/2.0/{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def experiments(server: str) -> list[str]:
    found = asked(server, "mlflow/experiments/search", max_results=100)["experiments"]
    return [one["experiment_id"] for one in found if one["name"] == "the tests'"]


def test_a_run_is_on_the_server_with_its_knobs_curves_figures_and_files_once(server: str, own: Path) -> None:
    for _ in range(2):
        done = run_again(own, server)
        assert done.returncode == 0, done.stderr
    (run,) = asked(server, "mlflow/runs/search", experiment_ids=experiments(server), max_results=10)["runs"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("served", "FINISHED")
    assert json.loads((own / "track.json").read_text())["run_id"] == run["info"]["run_id"]

    params = {one["key"]: one["value"] for one in run["data"]["params"]}
    assert params["teachers.count"] == "2"
    assert params["student.model.hidden"] == "[64, 32]"

    figures = {one["key"]: one["value"] for one in run["data"]["metrics"]}
    evaluation = json.loads((own / "evaluation.json").read_text())
    for role, scores in evaluation["metrics"].items():
        assert figures[f"{role}/test/accuracy"] == pytest.approx(scores["accuracy"])
    history = pq.read_table(own / "student/history.parquet").to_pandas().groupby("epoch")["loss"].mean()
    which = urllib.parse.urlencode({"run_id": run["info"]["run_id"], "metric_key": "student/loss"})
    logged = asked(server, f"mlflow/metrics/get-history?{which}")["metrics"]
    assert {one["step"]: one["value"] for one in logged} == pytest.approx(history.to_dict())

    for name in ("report.html", "export/student.onnx", "export/MODEL_CARD.md", "evaluation.json", "config.yaml"):
        place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
        with urllib.request.urlopen(f"{server}/api/2.0/mlflow-artifacts/artifacts{place}/{name}") as answer:
            assert answer.read() == (own / name).read_bytes()


def test_a_server_that_does_not_answer_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kd_ray.cli", "run", "--storage", str(tmp_path)]
    done = subprocess.run(
        [*command, "--set=track.mlflow=http://127.0.0.1:9"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "track.mlflow: http://127.0.0.1:9 must be an MLflow server that answers; it says:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("default/*"))
