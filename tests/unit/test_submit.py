"""kd-ray submit against a Jobs API made here: ids, attempts, logs, and what is said where something is wrong."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus

from kd_ray.errors import ConfigError, KdRayError, ResourceError, UserError
from kd_ray.submit import Cluster, Job, _Lines, failure


class Jobs(ThreadingHTTPServer):
    """As much of Ray's Jobs API as a submission needs; it has no log to follow, only one to read."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version, self.known, self.status = "2.60.0", dict[str, dict[str, Any]](), 200

    def end(self, name: str, status: str, log: str = "", code: int | None = None) -> None:
        self.known[name] |= {"status": status, "log": log, "driver_exit_code": code}


class Handler(BaseHTTPRequestHandler):
    server: Jobs

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        _, _, rest = self.path.partition("/api/")
        if self.server.status != 200:
            self.reply(self.server.status, "Unauthorized: Missing authentication token")
        elif rest == "version":
            self.reply(200, {"ray_version": self.server.version, "version": "4", "ray_commit": "x"})
        elif rest.startswith("packages"):
            self.reply(200, {})
        elif rest.endswith("/logs"):
            self.reply(200, {"logs": self.server.known[rest.split("/")[1]]["log"]})
        elif (job := self.server.known.get(rest.removeprefix("jobs/"))) is not None:
            self.reply(200, {key: value for key, value in job.items() if key != "log"})
        else:
            self.reply(404, "no such thing")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if self.path.endswith("/stop"):
            self.server.end(self.path.split("/")[3], "STOPPED")
            return self.reply(200, {"stopped": True})
        name = asked["submission_id"]
        facts = {"type": "SUBMISSION", "status": "RUNNING", "submission_id": name, "log": "", **asked}
        self.server.known[name] = facts
        return self.reply(200, {"job_id": name, "submission_id": name})

    def reply(self, status: int, body: Any) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # Ray's own client would take it before the URL
    with Jobs() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cluster(jobs: Jobs) -> Cluster:
    return Cluster(url(jobs))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "job.zip").write_bytes(b"PK\5\6" + bytes(18))
    return Job(id="x", mark="m", entrypoint="python -m kd_ray.cli run config.yaml", archive=tmp_path / "job.zip")


def url(jobs: Jobs) -> str:
    return f"http://127.0.0.1:{jobs.server_address[1]}"


def test_a_job_that_is_under_way_or_has_succeeded_is_not_submitted_again(
    jobs: Jobs, cluster: Cluster, job: Job
) -> None:
    assert cluster.submit(job) == ("x", None)
    name, before = cluster.submit(job)
    assert name == "x"
    assert before is not None
    assert before.status == JobStatus.RUNNING
    jobs.end("x", "SUCCEEDED")
    assert cluster.submit(job)[0] == "x"
    assert list(jobs.known) == ["x"]


@pytest.mark.parametrize("ended", ["FAILED", "STOPPED"])
def test_a_job_that_failed_or_was_stopped_gets_a_new_attempt(
    jobs: Jobs, cluster: Cluster, job: Job, ended: str
) -> None:
    cluster.submit(job)
    jobs.end("x", ended)
    assert cluster.submit(job) == ("x-2", None)
    jobs.end("x-2", ended)
    assert cluster.submit(job) == ("x-3", None)


def test_an_id_that_another_job_has_is_refused(jobs: Jobs, cluster: Cluster, job: Job) -> None:
    cluster.submit(job)
    jobs.known["x"]["metadata"] = {"kd_ray": "another"}
    with pytest.raises(ConfigError, match="x is a job that does something else; choose another id"):
        cluster.submit(job)


def test_a_log_is_told_once_though_the_connection_breaks(jobs: Jobs, cluster: Cluster, job: Job) -> None:
    cluster.submit(job)
    jobs.end("x", "SUCCEEDED", log="one\ntwo\n")
    heard: list[str] = []
    assert cluster.follow("x", heard.append).status == JobStatus.SUCCEEDED
    assert heard == ["one", "two"]


def test_lines_come_whole_and_once_however_the_log_is_cut_and_read_again() -> None:
    heard: list[str] = []
    lines = _Lines(heard.append)
    for piece in ("a\nb", "c\n", "d"):
        lines.take(piece)
    lines.begin()
    for piece in ("a", "\nbc\nd\n", "e\n"):
        lines.take(piece)
    assert heard == ["a", "bc", "d", "e"]


def test_a_job_is_stopped_and_an_ended_one_left_alone(jobs: Jobs, cluster: Cluster, job: Job) -> None:
    cluster.submit(job)
    assert cluster.stop("x") == "STOPPED"
    jobs.end("x", "SUCCEEDED")
    assert cluster.stop("x") == "SUCCEEDED"
    with pytest.raises(ConfigError, match="has no job 'y'"):
        cluster.stop("y")


@pytest.mark.parametrize("version", ["2.59.1", "2.64.0", "3.0.0"])
def test_a_cluster_of_another_ray_is_refused(jobs: Jobs, version: str) -> None:
    jobs.version = version
    with pytest.raises(ResourceError, match=rf"runs Ray {version}; kd_ray needs 2\.60 to 2\.63"):
        Cluster(url(jobs))


def test_a_cluster_of_a_ray_with_known_holes_is_refused(jobs: Jobs) -> None:
    jobs.version = "2.50.0"
    with pytest.raises(UserError, match="CVE-2026-41486"):
        Cluster(url(jobs))


@pytest.mark.parametrize(("status", "says"), [(401, "wants a token"), (403, "wants another token")])
def test_a_missing_and_a_wrong_token_are_told_apart(jobs: Jobs, status: int, says: str) -> None:
    jobs.status = status
    with pytest.raises(ResourceError, match=f"{says}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"):
        Cluster(url(jobs))


def test_a_web_server_that_is_no_jobs_api_is_said_to_be_none(jobs: Jobs) -> None:
    jobs.status = 500
    with pytest.raises(ResourceError, match=r"no Jobs API answers at http://127\.0\.0\.1"):
        Cluster(url(jobs))


@pytest.mark.parametrize("address", ["ftp://head:8265", "http://", "ray://head:10001"])
def test_an_address_that_is_no_url_of_a_jobs_api_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="must be the URL of a Jobs API"):
        Cluster(address)


@pytest.mark.parametrize(
    ("status", "code", "log", "kind", "says"),
    [
        ("FAILED", 2, "ray: started\nkd-ray: storage: full\n", UserError, "job x failed: storage: full"),
        ("FAILED", 1, "kd-ray: OSError: odd (a fault of kd-ray's own)\n", KdRayError, "OSError: odd"),
        ("FAILED", 1, "python: No module named kd_ray\n", ResourceError, "not installed where jobs run .*--package"),
        ("FAILED", 1, "", KdRayError, "job x failed: the job's driver died"),
        ("STOPPED", None, "", UserError, "job x was stopped; submit again"),
    ],
)
def test_a_failed_job_is_told_in_its_own_last_words(
    jobs: Jobs, cluster: Cluster, job: Job, status: str, code: int | None, log: str, kind: type, says: str
) -> None:
    cluster.submit(job)
    jobs.end("x", status, log, code)
    jobs.known["x"]["message"] = "the job's driver died"
    found = cluster.find("x")
    assert found is not None
    error = failure("x", found, cluster.log("x"))
    assert error.exit_code == kind.exit_code
    with pytest.raises(kind, match=says):
        raise error
