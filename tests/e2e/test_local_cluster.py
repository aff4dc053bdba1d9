"""A cluster of three nodes on this machine, as cluster/local makes it, with a whole run submitted as a job."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
JOB_SECONDS = 240
SMALL = (
    "--set teachers.count=2 --set teachers.epochs=2 --set student.epochs=2 --set student.replicas=1 "
    "--set soft_targets.transfer.kind=none"
)
MARK = "KD_RAY_LOCAL_CLUSTER"


def cluster(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster/local/cluster.py"), "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def ask(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20) as reply:
        return json.load(reply)


def left_of(mark: str) -> list[psutil.Process]:
    """Processes that began with the cluster's mark; found here by psutil, there by /proc."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster state")
    try:
        started = cluster(folder, "start", "--workers", "2", "--cpus", "1")
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        cluster(folder, "stop")


@pytest.fixture(scope="module")
def known(state: Path) -> dict[str, Any]:
    return json.loads((state / "cluster.json").read_text())


@pytest.fixture(scope="module")
def token(state: Path) -> str:
    return (state / "token").read_text()


@pytest.fixture
def client(known: dict[str, Any], token: str, monkeypatch: pytest.MonkeyPatch) -> JobSubmissionClient:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return JobSubmissionClient(known["jobs"], headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    """What `ray job submit --working-dir` sends: the jobs and the package."""
    folder = tmp_path / "working"
    for name in ("jobs", "kd_ray"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def follow(client: JobSubmissionClient, job: str, seconds: float) -> tuple[JobStatus, str]:
    deadline = time.monotonic() + seconds
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
        time.sleep(1)
    return status, client.get_job_logs(job)


def test_a_job_on_two_worker_nodes_ends_in_a_finished_run(
    client: JobSubmissionClient, known: dict[str, Any], token: str, working_dir: Path, tmp_path: Path
) -> None:
    job = client.submit_job(
        entrypoint=f"python jobs/run_pipeline.py --name x --storage {tmp_path / 'runs'} {SMALL}",
        runtime_env={"working_dir": str(working_dir), "env_vars": {"PYTHONPATH": "."}},
    )
    status, said = follow(client, job, JOB_SECONDS)
    run = tmp_path / "runs/x"
    assert status == JobStatus.SUCCEEDED, said + "".join(path.read_text() for path in run.glob("error.log"))
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["rows"]["test"] == 1000
    assert 0 < evaluation["metrics"]["student"]["accuracy"] <= 1
    assert nodes_of_teachers(known, token) == {"worker-1", "worker-2"}


def nodes_of_teachers(known: dict[str, Any], token: str) -> set[str]:
    """The names of the nodes that held a teachers' actor, dead by now, as Ray's state API tells it."""
    actors = ask(f"{known['jobs']}/api/v0/actors?detail=true&limit=1000", token)["data"]["result"]["result"]
    nodes = ask(f"{known['jobs']}/api/v0/nodes?detail=true", token)["data"]["result"]["result"]
    names = {node["node_id"]: node["node_name"] for node in nodes}
    return {names[actor["node_id"]] for actor in actors if "Teacher" in actor["class_name"]}


def test_a_job_may_first_wait_for_nodes(client: JobSubmissionClient, working_dir: Path) -> None:
    job = client.submit_job(
        entrypoint="python jobs/with_nodes.py --count 2 --cpus 1 --wait 30 -- python -c 'print(6 * 7)'",
        runtime_env={"working_dir": str(working_dir)},
    )
    status, said = follow(client, job, 90)
    assert status == JobStatus.SUCCEEDED, said
    assert "42" in said.splitlines()


def test_a_job_that_waits_for_more_than_there_is_fails_and_says_so(
    client: JobSubmissionClient, working_dir: Path
) -> None:
    job = client.submit_job(
        entrypoint="python jobs/with_nodes.py --count 3 --cpus 1 --wait 3 -- python -c 'print(6 * 7)'",
        runtime_env={"working_dir": str(working_dir)},
    )
    status, said = follow(client, job, 90)
    assert status == JobStatus.FAILED
    assert "3 x {'CPU': 1.0} did not come in 3 s" in said
    assert "42" not in said.splitlines()


def test_a_wrong_token_is_refused(known: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{known['jobs']}/api/jobs/", "0" * 64)
    assert refused.value.code in (401, 403)


def test_joining_with_a_wrong_token_is_one_line_and_exit_code_2(known: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kd_ray.cli", "run", "--address", known["gcs"], "--storage", str(tmp_path)]
    wrong = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=wrong, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "RAY_AUTH_TOKEN set as it was started" in done.stderr


def test_the_token_and_its_folder_are_the_owners_alone(state: Path) -> None:
    assert (state / "token").stat().st_mode & 0o777 == 0o600
    assert "cluster.json" in {path.name for path in state.iterdir()}
    assert (state / "token").read_text() not in (state / "cluster.json").read_text()


def test_the_jobs_api_listens_on_loopback_alone(known: dict[str, Any]) -> None:
    port = int(known["jobs"].rpartition(":")[2])
    listening = [
        connection.laddr.ip
        for process in left_of(known["mark"])
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert set(listening) == {"127.0.0.1"}


def test_every_nodes_agents_have_ports_of_their_own(known: dict[str, Any]) -> None:
    """With Ray's fixed default the second agent on a host has none, and jobs find "No available agent"."""
    folder = Path(known["temporary"])
    for kind in ("dashboard_agent_listen", "metrics_agent", "metrics_export", "runtime_env_agent"):
        ports = {int(path.read_text()) for path in folder.glob(f"*/session_2*/{kind}_port_*")}
        assert len(ports - {-1}) == 3, kind


def test_status_names_every_node_and_a_second_start_is_refused(state: Path) -> None:
    said = cluster(state, "status")
    assert said.returncode == 0, said.stdout
    assert "3 of 3 nodes alive" in said.stdout
    again = cluster(state, "start")
    assert again.returncode == 2
    assert "is running" in again.stderr


def test_stop_leaves_no_process_and_no_file_and_may_be_repeated(state: Path, known: dict[str, Any]) -> None:
    before = left_of(known["mark"])
    everything = {child for process in before for child in process.children(recursive=True)} | set(before)
    assert len(everything) > 6
    stopped = cluster(state, "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert not [process for process in everything if process.is_running() and process.status() != "zombie"]
    assert not (state / "token").exists()
    assert not Path(known["temporary"]).exists()
    assert cluster(state, "stop").stdout == "nothing to stop\n"
    assert cluster(state, "status").returncode == 3


def test_a_start_that_cannot_work_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    failed = cluster(tmp_path, "start", "--workers", "0", "--store-mib", "1")
    assert failed.returncode == 2
    assert "head ended while it started" in failed.stderr
    assert not (tmp_path / "cluster.json").exists()
