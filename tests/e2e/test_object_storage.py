"""Rows from an S3 server, and a run directory on it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e
SERVER = Path(sys.prefix, "s3", "bin", "ministack")
CONFIG = """
name: small
storage: s3://rows-and-runs/runs
data: {source: "s3://rows-and-runs/table", columns: {target: y}}
teachers: {count: 2, epochs: 2, model: {hidden: [8]}}
soft_targets: {transfer: {kind: noise, factor: 2}}
student: {epochs: 2, replicas: 1}
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that leads to a server on loopback with a bucket of rows."""
    if not SERVER.exists():
        pytest.skip(f"the S3 server {SERVER}: make test installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("w")
    server = subprocess.Popen(
        [SERVER], env=os.environ | {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}, stdout=log, stderr=log
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            put_rows()
        yield env
    finally:
        server.terminate()
        server.wait(timeout=30)


def put_rows() -> None:
    bucket = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/rows-and-runs", method="PUT")
    for _ in range(60):
        try:
            urllib.request.urlopen(bucket, timeout=5)
            break
        except OSError:
            time.sleep(0.5)
    storage, _ = pafs.FileSystem.from_uri("s3://rows-and-runs")
    x_ND = np.random.default_rng(0).normal(size=(600, 3))
    columns = {f"x{d}": x_ND[:, d] for d in range(3)} | {"y": (x_ND.sum(1) > 0).astype(int)}
    pq.write_table(pa.table(columns), "rows-and-runs/table/part.parquet", filesystem=storage)


def test_a_run_reads_from_s3_and_writes_to_it_and_is_taken_up_there(s3: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "kd_ray.cli", "run", "config.yaml", "--json"]
    done = [
        subprocess.run(command, cwd=tmp_path, env=os.environ | s3, capture_output=True, text=True, timeout=200)
        for _ in range(2)
    ]
    assert [run.returncode for run in done] == [0, 0], done[0].stderr + done[1].stderr
    evaluation = json.loads(done[0].stdout)
    assert evaluation["rows"]["train"] == 480
    assert json.loads(done[1].stdout) == evaluation
    assert done[1].stderr.count("finished before, kept") == done[1].stderr.count("\n") > 4
    assert not (tmp_path / "runs").exists()
    assert s3["AWS_SECRET_ACCESS_KEY"] not in done[0].stderr + done[0].stdout
