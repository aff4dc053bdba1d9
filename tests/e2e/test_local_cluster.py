"""A cluster of three nodes on this machine, as cluster/local makes it, with a whole run submitted as a job."""

import hashlib
import json
import os
import re
import shutil
import signal
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
from local_clusters import ROOT, SMALL, actors, ask, call, cluster, environment
from ray.job_submission import JobStatus, JobSubmissionClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

JOB_SECONDS = 240
MARK = "KD_RAY_LOCAL_CLUSTER"


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


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout, as far as jobs need it, of a version that no installed kd_ray has."""
    folder = tmp_path_factory.mktemp("working")
    for name in ("jobs", "kd_ray"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".rayignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    package = folder / "kd_ray/__init__.py"
    package.write_text(package.read_text().replace('__version__ = "', '__version__ = "99.'))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def inside(known: dict[str, Any], token: str) -> dict[str, str]:
    return environment(known, token)


@pytest.fixture(scope="module")
def submitted(inside: dict[str, str], working_dir: Path, runs: Path) -> Path:
    """A whole run, done as a job that Ray's own client submitted."""
    job = f"python jobs/run_pipeline.py --name x --storage {runs} {SMALL}"
    send = "ray.scripts.scripts job submit --runtime-env jobs/runtime_env.yaml -- "
    done = call(send + job, inside, working_dir)
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in runs.glob("x/error.log"))
    return runs / "x"


@pytest.fixture(scope="module")
def alone(runs: Path) -> Path:
    """The teachers of the same config, trained on a private node."""
    words = f"kd_ray.cli run --until teachers --name alone --storage {runs} {SMALL}"
    done = call(words, os.environ | {"PYTHONPATH": str(ROOT)}, runs)
    assert done.returncode == 0, done.stderr
    assert f"files: {runs}/alone" in done.stdout
    return runs / "alone"


def follow(client: JobSubmissionClient, job: str, seconds: float) -> tuple[JobStatus, str]:
    deadline = time.monotonic() + seconds
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
        time.sleep(1)
    return status, client.get_job_logs(job)


def members(run: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("teachers/*/model.safetensors"))
    }


def test_a_job_on_two_worker_nodes_ends_in_a_finished_run(submitted: Path, known: dict[str, Any], token: str) -> None:
    evaluation = json.loads((submitted / "evaluation.json").read_text())
    assert evaluation["rows"]["test"] == 1000
    assert 0 < evaluation["metrics"]["student"]["accuracy"] <= 1
    assert json.loads((submitted / "run.json").read_text())["versions"]["kd-ray"].startswith("99.")
    nodes = nodes_of_teachers(known, token, "DEAD")
    assert nodes
    assert nodes <= {"worker-1", "worker-2"}, "the head takes no work"


def test_kd_ray_submit_runs_the_whole_from_a_checkout_and_brings_the_evaluation(
    inside: dict[str, str], working_dir: Path, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text("name: mine\n")
    checkout = inside | {"PYTHONPATH": str(working_dir)}
    submit = f"kd_ray.cli submit my.yaml --storage {runs} {SMALL}"
    done = call(f"{submit} --json", checkout, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((runs / "mine/evaluation.json").read_text())
    assert "teachers: started" in done.stderr
    assert "outcome" not in done.stderr
    assert json.loads((runs / "mine/run.json").read_text())["versions"]["kd-ray"].startswith("99.")
    again = call(submit, checkout, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "finished before" in again.stderr
    assert "teachers: started" not in again.stderr
    assert "The student is 27 times smaller than the ensemble." in again.stdout
    assert f"files: {runs}/mine" in again.stdout.replace("\n", "")


def test_members_are_the_same_on_one_node_and_on_two(submitted: Path, alone: Path) -> None:
    assert not (alone / "soft_targets").exists()
    assert len(members(submitted)) == 2
    assert members(alone) == members(submitted)


def test_the_jobs_of_the_stages_one_after_another_make_a_run_and_do_nothing_twice(
    client: JobSubmissionClient, working_dir: Path, runs: Path, alone: Path
) -> None:
    shutil.copytree(alone, runs / "staged")  # its teachers are trained
    common = f"--name staged --storage {runs} {SMALL}"
    jobs = ("train_teachers", "make_soft_targets", "distill_student", "evaluate_export", "evaluate_export")
    job = client.submit_job(
        entrypoint=" && ".join(f"echo '# {name}' && python jobs/{name}.py {common}" for name in jobs),
        runtime_env={"working_dir": str(working_dir)},
    )
    status, said = follow(client, job, JOB_SECONDS)
    assert status == JobStatus.SUCCEEDED, said
    parts = [re.findall(r"^(.+): started", part, re.MULTILINE) for part in re.split("^# ", said, flags=re.MULTILINE)]
    assert [[stage for stage in part if stage != "ray"] for part in parts[1:]] == [
        [],
        ["soft targets"],
        ["student"],
        ["evaluation", "export", "report"],
        [],
    ]
    assert json.loads((runs / "staged/evaluation.json").read_text())["rows"]["test"] == 1000


def test_the_job_that_searches_ends_in_a_leaderboard(inside: dict[str, str], tmp_path: Path, runs: Path) -> None:
    (tmp_path / "search.yaml").write_text(
        "data: {split: {valid: 0.1}}\ntune: {space: {student.alpha: [0.5, 1.0]}, rungs: 1}\n"
    )
    submit = f"kd_ray.cli submit search.yaml --job tune_student --name searched --storage {runs} {SMALL} --json"
    done = call(submit, inside, tmp_path)
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert {entry["knobs"]["student.alpha"] for entry in board["combinations"]} == {0.5, 1.0}
    written = json.loads((runs / "searched/tune/leaderboard.json").read_text())
    assert written.pop("sha256")
    assert board == written


def test_teachers_work_on_every_node_ctrl_c_leaves_their_job_alone_and_stop_ends_it(
    client: JobSubmissionClient,
    known: dict[str, Any],
    token: str,
    inside: dict[str, str],
    tmp_path: Path,
    runs: Path,
) -> None:
    (tmp_path / "long.yaml").write_text("teachers: {epochs: 100000}\n")
    words = ["kd_ray.cli", "submit", "long.yaml", "--storage", str(runs), "--name", "long", "--submission-id", "long"]
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, env=inside, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as submitting:
        assert submitting.stderr is not None
        while "teachers: started" not in submitting.stderr.readline():
            assert submitting.poll() is None
        submitting.send_signal(signal.SIGINT)
        left = submitting.stderr.read()
        assert submitting.wait(30) == 130
    assert "the job goes on: the same command follows it again, and this ends it: kd-ray submit --stop long" in left
    assert client.get_job_status("long") == JobStatus.RUNNING
    deadline = time.monotonic() + 60
    while nodes_of_teachers(known, token, "ALIVE") != {"worker-1", "worker-2"} and time.monotonic() < deadline:
        time.sleep(0.5)
    assert nodes_of_teachers(known, token, "ALIVE") == {"worker-1", "worker-2"}
    stopped = call("kd_ray.cli submit --stop long", inside, tmp_path)
    assert (stopped.returncode, stopped.stdout) == (0, "job long: STOPPED\n"), stopped.stderr
    deadline = time.monotonic() + 30
    while teachers_alive(known, token) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert teachers_alive(known, token) == []


def teachers(known: dict[str, Any], token: str) -> list[dict[str, Any]]:
    return [actor for actor in actors(known, token) if "Teacher" in actor["class_name"]]


def teachers_alive(known: dict[str, Any], token: str) -> list[str]:
    return [actor["actor_id"] for actor in teachers(known, token) if actor["state"] != "DEAD"]


def nodes_of_teachers(known: dict[str, Any], token: str, state: str) -> set[str]:
    """The names of the nodes that teachers' actors of a state are on, or were, as Ray's state API tells it."""
    nodes = ask(f"{known['jobs']}/api/v0/nodes?detail=true", token)["data"]["result"]["result"]
    names = {node["node_id"]: node["node_name"] for node in nodes}
    placed = [actor for actor in teachers(known, token) if actor["node_id"] and actor["state"] == state]
    return {names[actor["node_id"]] for actor in placed}


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


def test_an_elastic_student_goes_on_without_a_node_that_is_taken_away(
    state: Path, known: dict[str, Any], inside: dict[str, str], alone: Path, runs: Path
) -> None:
    words = (
        f"run --address {known['gcs']} --storage {runs} --name alone {SMALL} --set student.workers=[1,2] "
        "--set student.epochs=400 --set student.checkpoint_seconds=0.5 --set export.pruning=[] --set export.int8=false"
    )
    command = [sys.executable, "-m", "kd_ray.cli", *words.split()]
    # Ray Train may first wait for both workers, a minute by default.
    soon = inside | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
    with subprocess.Popen(command, env=soon, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        while "student: epoch" not in running.stderr.readline():
            assert running.poll() is None
        removed = cluster(state, "remove", "--name", "worker-2")
        assert removed.returncode == 0, removed.stderr
        said = running.stderr.read()
    assert running.returncode == 0, said
    summary = json.loads((alone / "student/manifest.json").read_text())["summary"]
    assert len(summary["taken_up"]) == 1
    assert 0 < summary["taken_up"][0] < 400


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
