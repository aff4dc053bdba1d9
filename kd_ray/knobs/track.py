"""Knobs of where a finished run is written down beside its own folder."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kd_ray.knobs.base import Section, knob


class Track(Section):
    mlflow: str | None = knob(
        None,
        "an MLflow server that a finished run is written to (pip install 'kd-ray[mlflow]')",
        "http://HOST:PORT or https://HOST",
    )
    experiment: str = knob("kd_ray", "MLflow: the experiment's name", "a name", min_length=1)

    @model_validator(mode="after")
    def _is_an_address_without_a_password(self) -> Self:
        if self.mlflow is None:
            return self
        parts = urlsplit(self.mlflow)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _mistake(f"track.mlflow: must be http://HOST:PORT or https://HOST; got {self.mlflow!r}")
        if parts.username or parts.password:
            raise _mistake(
                "track.mlflow: must not hold a password, the config is kept and shown; set MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD"
            )
        return self


def _mistake(line: str) -> PydanticCustomError:
    return PydanticCustomError("whole_line", "{line}", {"line": line})
