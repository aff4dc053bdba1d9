"""What may be wrong with a cluster, on a real one of two nodes: each ends soon, with exit code 2 and a line of why."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from local_clusters import SMALL, Done, actors, call, cluster, environment
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HIDES = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0"']


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    try:
        started = cluster(folder, "start", "--workers", "1")
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        cluster(folder, "stop")


@pytest.fixture(scope="module")
def known(state: Path) -> dict[str, Any]:
    return json.loads((state / "cluster.json").read_text())


@pytest.fixture
def inside(known: dict[str, Any], state: Path) -> dict[str, str]:
    return environment(known, (state / "token").read_text())


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def run(known: dict[str, Any], inside: dict[str, str], storage: Path, more: str = "", address: str = "") -> Done:
    where = address or known["gcs"]
    return call(f"kd_ray.cli run --address {where} --storage {storage} --name x {SMALL} {more}", inside, storage)


def refused(done: Done) -> str:
    """The one line that it was refused with."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("kd-ray: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(autouse=True)
def _nothing_left_running(known: dict[str, Any], inside: dict[str, str]) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while (left := running(known, inside["RAY_AUTH_TOKEN"])) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []


def running(known: dict[str, Any], token: str) -> list[str]:
    """Actors alive, less those that Ray keeps for itself beyond the jobs that first needed them."""
    alive = [actor for actor in actors(known, token) if actor["state"] != "DEAD"]
    return [actor["class_name"] for actor in alive if not actor["is_detached"]]


@contextlib.contextmanager
def another_node(state: Path, *options: str) -> Iterator[None]:
    added = cluster(state, "add", "--name", "odd", *options)
    assert added.returncode == 0, added.stderr
    try:
        yield
    finally:
        assert cluster(state, "remove", "--name", "odd").returncode == 0


def test_a_storage_that_one_node_does_not_see_is_found_before_training(
    state: Path, known: dict[str, Any], inside: dict[str, str], storage: Path
) -> None:
    may = (
        shutil.which("unshare") and subprocess.run([*HIDES, storage], capture_output=True, check=False).returncode == 0
    )
    if not may:
        pytest.skip("needs unshare and the right to mount (root), to hide a folder from one node")
    with another_node(state, "--hide", str(storage)):
        said = refused(run(known, inside, storage))
    assert f"every node must see {storage}/x; not seen from odd (No such file or directory): mount one folder" in said
    assert sorted(path.name for path in (storage / "x").iterdir()) == [".writer", "config.manifest.json", "config.yaml"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'kd_ray'\")",
            "not on odd (No module named 'kd_ray'): install it",
        ),
        ("__version__ = '0.0.9'", "on every node as it is here; odd (has 0.0.9): install"),
    ],
    ids=["missing", "of another version"],
)
def test_a_node_whose_kd_ray_is_not_this_one_is_found(
    state: Path, known: dict[str, Any], inside: dict[str, str], storage: Path, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "shadow/kd_ray").mkdir(parents=True)
    (tmp_path / "shadow/kd_ray/__init__.py").write_text(content)
    (tmp_path / "shadow/kd_ray/rundir.py").write_text("RunDir = None")
    with another_node(state, "--env", f"PYTHONPATH={tmp_path / 'shadow'}"):
        assert says in refused(run(known, inside, storage))


def test_a_node_with_a_switch_that_lets_data_run_code_is_found(
    state: Path, known: dict[str, Any], inside: dict[str, str], storage: Path
) -> None:
    with another_node(state, "--env", "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR=1"):
        assert "odd (RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR)" in refused(run(known, inside, storage))


def test_a_job_that_asks_for_gpus_that_no_node_has_says_so_where_it_was_submitted(
    inside: dict[str, str], storage: Path
) -> None:
    (storage / "gpus.yaml").write_text("teachers: {resources: {gpus: 1}}\n")
    done = call(f"kd_ray.cli submit gpus.yaml --storage {storage} --name x {SMALL}", inside, storage)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "failed: teachers: asks for 1 x 1 CPU and 1 GPU, the cluster has 2 node(s): " in last


def test_more_workers_than_the_cluster_has_room_for_are_refused(
    known: dict[str, Any], inside: dict[str, str], storage: Path
) -> None:
    said = refused(run(known, inside, storage, "--set student.workers=50"))
    assert "student: asks for 50 x 1 CPU, the cluster has 2 node(s)" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"RAY_AUTH_TOKEN": "0" * 64}, "another token"), ({"RAY_AUTH_MODE": "disabled"}, "wants a token")],
    ids=["wrong", "none"],
)
def test_a_wrong_token_and_none_are_refused_by_the_head_and_by_the_jobs_api(
    known: dict[str, Any], inside: dict[str, str], storage: Path, changes: dict[str, str], says: str
) -> None:
    assert says in refused(run(known, inside | changes, storage))
    (storage / "my.yaml").write_text("")
    assert says in refused(call(f"kd_ray.cli submit my.yaml --storage {storage} --name x", inside | changes, storage))


def test_where_no_cluster_is_it_says_so(known: dict[str, Any], inside: dict[str, str], storage: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert f"no Ray cluster answers at {address}" in refused(run(known, inside, storage, address=address))
    (storage / "my.yaml").write_text("")
    submit = f"kd_ray.cli submit my.yaml --storage {storage} --address http://{address}"
    assert f"no Jobs API answers at http://{address}" in refused(call(submit, inside, storage))


def test_a_cluster_of_another_ray_is_refused_with_both_versions(
    known: dict[str, Any], inside: dict[str, str], storage: Path
) -> None:
    """The head is told that it was started by another version: what a client compares itself with."""
    credentials = [("authorization", f"Bearer {inside['RAY_AUTH_TOKEN']}")]
    place = {"key": b"CLUSTER_METADATA", "namespace": b"cluster"}
    with grpc.insecure_channel(known["gcs"]) as channel:
        stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        before = stub.InternalKVGet(gcs_service_pb2.InternalKVGetRequest(**place), metadata=credentials).value
        other = json.dumps(json.loads(before) | {"ray_version": "2.61.7"}).encode()

        def put(value: bytes) -> None:
            stub.InternalKVPut(
                gcs_service_pb2.InternalKVPutRequest(**place, value=value, overwrite=True), metadata=credentials
            )

        put(other)
        try:
            said = refused(run(known, inside, storage))
        finally:
            put(before)
    assert "runs Ray 2.61.7 on Python" in said
    assert f"this is Ray {json.loads(before)['ray_version']} on Python" in said


def test_an_address_out_in_the_open_needs_a_token(known: dict[str, Any], inside: dict[str, str], storage: Path) -> None:
    without = {key: value for key, value in (inside | os.environ).items() if not key.startswith("RAY_AUTH")}
    said = refused(run(known, without, storage, address="8.8.8.8:6379"))
    assert "8.8.8.8 is neither this machine nor in a private network" in said
