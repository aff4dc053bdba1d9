"""Rows from an S3 server, and a run directory on it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from kd_ray import keeping
from kd_ray.errors import RunBusyError
from kd_ray.objects import Objects
from kd_ray.rundir import Manifest, RunDir

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
    run = RunDir.at("s3://rows-and-runs/runs", "small")
    assert not any(s3["AWS_SECRET_ACCESS_KEY"].encode() in run.read_bytes(path) for path in run.sizes(""))
    assert keeping.verify(run)["wrong"] == []
    assert {stage["state"] for stage in keeping.status(run)["stages"]} == {"finished"}
    assert keeping.clean(run) == []


@pytest.mark.usefixtures("s3")
def test_of_many_that_create_one_object_at_once_one_does_and_it_is_whole() -> None:
    run = RunDir.at("s3://rows-and-runs/runs", "race")
    contents = [os.urandom(1000) for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda content: run.create("commit.json", content), contents))
    assert sum(made) == 1
    assert run.read_bytes("commit.json") == contents[made.index(True)]


@pytest.mark.usefixtures("s3")
def test_one_process_has_a_run_on_s3_at_a_time_and_the_next_is_told_which(tmp_path: Path) -> None:
    run = RunDir.at("s3://rows-and-runs/runs", "held")
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "kd_ray.cli", "run", "config.yaml", "--name", "held"]
    with run.writing() as ours:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 2
        assert f"s3://rows-and-runs/runs/held: is being written by process {os.getpid()} on" in done.stderr
        ours.commit("data/manifest.json", Manifest(fingerprint="f", files=[], summary={}))
    with run.writing() as later:
        assert later.epoch == 2
        with pytest.raises(RunBusyError, match="another process has committed it"):
            later.commit("data/manifest.json", Manifest(fingerprint="g", files=[], summary={}))


def test_a_store_that_does_not_take_the_credentials_is_an_error_without_them(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert s3["AWS_ACCESS_KEY_ID"] in os.environ.values()
    objects = Objects("s3://rows-and-runs/runs", pafs.S3FileSystem(region="us-east-1"), seconds=2.0)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1") as caught:
        objects.put("rows-and-runs/x", b"x")
    assert s3["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
