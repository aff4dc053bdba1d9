"""One private Ray node for all tests here; runs join it, so that each does not pay for a start of its own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from kd_ray import Config, Result, run
from kd_ray.pipeline import STAGES, Steps
from kd_ray.progress import Silent
from kd_ray.rundir import RunDir
from kd_ray.session import Session, quoted_python

TESTS = Path(__file__).parents[1]

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {
        "options": {"n_samples": 603, "n_features": 8, "n_informative": 5, "n_redundant": 1, "n_classes": 3},
        "split": {"valid": 0.1},
    },
    "teachers": {"count": 4, "model": {"hidden": [16, 8], "dropout": [0.2, 0.0]}, "epochs": 4, "batch_size": 32},
    "soft_targets": {"transfer": {"kind": "noise", "factor": 2}},
    "student": {"model": {"hidden": [8]}, "epochs": 4, "replicas": 2, "batch_size": 32},
}

PLAIN_EXPORT = {"int8": False, "pruning": [], "latency": False}
WHOLE_EXPORT = {"int8": True, "pruning": [0.5], "latency": True}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


@pytest.fixture(scope="session")
def node() -> Iterator[None]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    # Workers import what lies beside the tests.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
        runtime_env=quoted_python(),
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def do(node: None) -> Callable[..., Result]:
    """Do a small run under a storage folder, with changes to its config; its export has no variants."""

    def do_run(storage: Path, **changes: Any) -> Result:
        return run(Config.of(merged({**SMALL, "export": PLAIN_EXPORT}, changes)), storage=str(storage))

    return do_run


@pytest.fixture(scope="session")
def small(do: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished small run that tests read and do not change."""
    return do(tmp_path_factory.mktemp("runs with a space"), export=WHOLE_EXPORT)


@pytest.fixture(scope="session")
def labelled(node: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunDir]:
    """A small run as far as its soft targets, that tests copy from."""
    config = Config.of(SMALL)
    here = RunDir.at(str(tmp_path_factory.mktemp("labelled")), config.name)
    with Session() as session:
        steps = Steps(config, here, session, Silent())
        for stage in STAGES[:3]:
            steps.do(stage)
    return config, here
