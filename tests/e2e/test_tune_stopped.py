"""A search that is stopped or killed in the middle: nothing is left running, and what was found is not sought again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STOP_SECONDS, WAIT_SECONDS = 30, 250
CONFIG = """
name: small
data: {options: {n_samples: 500, n_features: 8, n_informative: 5, n_redundant: 1}, split: {valid: 0.2}}
teachers: {count: 2, model: {hidden: [8]}, epochs: 2}
soft_targets: {transfer: {kind: none}}
student: {model: {hidden: [4]}, epochs: 100, replicas: 1, temperature: 1.0}
tune: {space: {student.temperature: [1, 2, 3, 4, 5, 6]}, rungs: 1, pack_size: 1}
"""


@contextmanager
def search(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A search under way; whatever happens, it and what it started are ended."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "kd_ray.cli", "tune", "config.yaml", "--json"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    family: list[psutil.Process] = []
    try:
        yield running
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        kill(family)


def kill(family: list[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def commits(tmp_path: Path) -> dict[str, int]:
    """When each pack was committed."""
    found = tmp_path.glob("runs/small/tune/packs/*/manifest.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def wait_for_packs(running: "subprocess.Popen[str]", tmp_path: Path, count: int) -> list[psutil.Process]:
    """Wait until so many packs are committed, and return the processes that the search has started."""
    until = time.monotonic() + WAIT_SECONDS
    while len(commits(tmp_path)) < count:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return psutil.Process(running.pid).children(recursive=True)


def test_a_search_that_was_interrupted_and_then_killed_trains_only_what_is_missing(tmp_path: Path) -> None:
    with search(tmp_path) as interrupted:
        family = wait_for_packs(interrupted, tmp_path, 1)
        begun = time.monotonic()
        os.kill(interrupted.pid, signal.SIGINT)
        _, said = interrupted.communicate(timeout=60)
        assert time.monotonic() - begun < STOP_SECONDS
    assert interrupted.returncode == 130, said
    assert "the same command takes the search up where it stopped" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    first = commits(tmp_path)
    assert 1 <= len(first) < 6
    assert not (tmp_path / "runs/small/tune/leaderboard.json").exists()

    with search(tmp_path) as killed:
        family = wait_for_packs(killed, tmp_path, len(first) + 1)
        killed.kill()
        kill(family)
    second = commits(tmp_path)
    assert len(first) < len(second) < 6

    with search(tmp_path) as last:
        printed, said = last.communicate(timeout=WAIT_SECONDS)
    assert last.returncode == 0, said
    assert "teachers: finished before, kept" in said
    assert len(json.loads(printed)["combinations"]) == 6
    after = commits(tmp_path)
    assert len(after) == 6
    assert {name: after[name] for name in second} == second
    assert {name: second[name] for name in first} == first
    assert not (tmp_path / "runs/small/ray_tune").exists()
