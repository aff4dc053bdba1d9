"""What is said where a run cannot be written down on an MLflow server, and when none is asked."""

import sys
from pathlib import Path

import pytest
from made_run import classification, config_of, made_run

from kd_ray import Config, tracking
from kd_ray.errors import ConfigError, UserError
from kd_ray.fingerprints import fingerprints
from kd_ray.rundir import RunDir

NOBODY = "http://127.0.0.1:9"


def config(mlflow: str) -> Config:
    return Config.of({"track": {"mlflow": mlflow}})


@pytest.mark.parametrize("address", ["mlflow.example:5000", "sqlite:///runs.db", "http://", "databricks"])
def test_what_is_no_address_of_a_server_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"track.mlflow: must be http://HOST:PORT or https://HOST; got '{address}'"):
        config(address)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"must not hold a password.*MLFLOW_TRACKING_PASSWORD") as caught:
        config("https://me:secret@mlflow.example")
    assert "secret" not in str(caught.value)


def test_the_server_does_not_count_for_what_a_run_is() -> None:
    assert fingerprints(config("https://mlflow.example")) == fingerprints(Config())


def test_a_missing_package_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ConfigError, match=r"track.mlflow: needs the package mlflow-skinny: pip install 'kd-ray\[mlflow"
    ):
        tracking.check(config(NOBODY))


def test_a_server_that_went_away_is_said_with_where_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = made_run(tmp_path, task=classification("a", "b"))
    wanted = config_of(run, track={"mlflow": NOBODY})
    with pytest.raises(UserError, match=f"{NOBODY} did not take the run; it lies finished in {run}, and the same"):
        tracking.log(wanted, run, "print")
    assert not run.exists("track.json")


def test_without_an_address_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracking.check(Config())
    tracking.log(Config(), RunDir.at(str(tmp_path), "none"), "print")
    assert not (tmp_path / "none").exists()
