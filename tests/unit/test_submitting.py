"""What kd-ray submit refuses before it asks any cluster, and what a job's log carries home."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kd_ray import Config, __version__
from kd_ray.cli import app, jobs, outcome
from kd_ray.errors import ConfigError, KdRayError, ResourceError

JOBS = Path(__file__).parents[2] / "jobs"


def refused(*words: str) -> KdRayError:
    """The error of a command that would otherwise look for a cluster where there is none."""
    error = CliRunner().invoke(app, ["submit", "--address", "http://127.0.0.1:1", *words]).exception
    assert isinstance(error, KdRayError), error
    return error


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("teachers: {count: 2}\n")
    return "my.yaml"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "CONFIG: must name a YAML file"),
        (["my.yaml", "--storage", "/s", "--job", "train_teacher"], "did you mean 'train_teachers'"),
        (["my.yaml"], "storage: must be a URI or an absolute path for a job, .* got 'runs'"),
        (["my.yaml", "--storage", "/s", "--submission-id", "../x"], "--submission-id: must be 1 to 100 letters"),
        (["my.yaml", "--storage", "/s", "--include", ".."], "--include: must be a file or folder in"),
        (["my.yaml", "--storage", "/s", "--set", "teachers.count=0"], "teachers.count: must be"),
        (["my.yaml", "--storage", "/s", "--name", "../x"], "name: must be 1 to 63 letters"),
        (["my.yaml", "--storage", "/s"], "no Jobs API answers at http://127.0.0.1:1"),
    ],
)
def test_a_mistake_is_said_in_one_line_and_nothing_is_sent(config: str, words: list[str], says: str) -> None:
    error = refused(*words)
    assert error.exit_code == 2
    with pytest.raises(KdRayError, match=says):
        raise error


@pytest.mark.parametrize(
    "value",
    [
        {"path": "/s/x", "seconds": {"data": 1.0}},
        {"path": "/s/x", "seconds": {}, "evaluation": {"text": "two\nlines, ü"}, "bundle": {}},
    ],
)
def test_an_outcome_comes_home_through_a_log(value: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    outcome.say(value, Config(), as_line=True)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert outcome.read(f"ray: started\n{outcome.MARK}{{}}\n{line}some warning\n") == value
    assert outcome.read("ray: started\n") is None


def test_stages_alone_are_shown_with_their_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"path": "/s/x", "seconds": {"data": 1.25, "soft_targets": 2.0}}
    outcome.say(value, Config())
    assert capsys.readouterr().out == "seconds: data 1.2, soft targets 2.0\nfiles: /s/x\n"
    outcome.say(value, Config(), as_json=True)
    assert json.loads(capsys.readouterr().out) == value


def test_a_job_of_another_kd_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jobs.SUBMITTED_BY, "9.9.9")
    with pytest.raises(ResourceError, match=rf"must be 9\.9\.9 on the cluster, .* it is {__version__}"):
        jobs.check(Config.of({"storage": "/s"}))


@pytest.mark.parametrize("storage", ["/s", "s3://bucket/runs", "~/runs"])
def test_a_storage_that_outlives_the_job_is_taken(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(jobs.SUBMITTED_BY, raising=False)
    jobs.check(Config.of({"storage": storage}))


def test_in_a_job_a_storage_in_its_working_directory_is_refused(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jobs.INSIDE, "{}")
    error = CliRunner().invoke(app, ["run", config, "--storage", "runs"]).exception
    assert isinstance(error, ConfigError)
    assert "got 'runs'" in str(error)


def test_every_job_has_its_script_and_every_stage_it_stops_at_exists(config: str) -> None:
    assert {path.stem for path in JOBS.glob("*.py")} == {*jobs.JOBS, "with_nodes"}
    for words in jobs.JOBS.values():
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


def test_a_stage_that_does_not_exist_is_named(config: str, tmp_path: Path) -> None:
    error = CliRunner().invoke(app, ["run", config, "--storage", str(tmp_path), "--until", "teacher"]).exception
    assert isinstance(error, ConfigError)
    assert "--until: must be one of data, teachers, " in str(error)
    assert "did you mean 'teachers'" in str(error)
