"""Clusters of several nodes on this machine, as cluster/local makes them, for the tests that need one."""

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMALL = (
    "--set teachers.count=2 --set teachers.epochs=2 --set student.epochs=2 --set student.replicas=1 "
    "--set soft_targets.transfer.kind=none --set export.latency=false"
)
Done = subprocess.CompletedProcess[str]


def cluster(state: Path, *arguments: str) -> Done:
    command = [sys.executable, str(ROOT / "cluster/local/cluster.py"), "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def environment(known: dict[str, Any], token: str) -> dict[str, str]:
    """The environment of a person whose cluster this is."""
    wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_API_SERVER_ADDRESS": known["jobs"]}
    return os.environ | wanted | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}


def call(words: str, environment: dict[str, str], where: Path, seconds: float = 400) -> Done:
    """Run a module of Python as a command."""
    command = [sys.executable, "-m", *shlex.split(words)]
    return subprocess.run(
        command, env=environment, cwd=where, capture_output=True, text=True, timeout=seconds, check=False
    )


def ask(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20) as reply:
        return json.load(reply)


def actors(known: dict[str, Any], token: str) -> list[dict[str, Any]]:
    """Every actor that the cluster ever had, as Ray's state API tells it."""
    return ask(f"{known['jobs']}/api/v0/actors?detail=true&limit=1000", token)["data"]["result"]["result"]
