"""One finished small run for all tests of what is done with one."""

import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished small run's directory."""
    command = [sys.executable, "-m", "kd_ray.cli", "run", "--storage", str(tmp_path_factory.mktemp("runs")), "--name"]
    small = ["teachers.count=2", "teachers.epochs=2", "student.epochs=2", "student.replicas=1", "export.latency=false"]
    command += ["served", *(word for knob in [*small, "soft_targets.transfer.kind=none"] for word in ("--set", knob))]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return f"{command[5]}/served"
