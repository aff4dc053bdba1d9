"""One node of a local cluster: how its processes are started, and in what surroundings."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
from state import State, token_file

HOST = "127.0.0.1"
NODE = "127.0.0.2"  # of every node: loopback too, and Ray does not put the machine's outer address in its place
_HIDING = 'mount -t tmpfs tmpfs "$0" && exec "$@"'


def launch(
    folder: Path,
    state: State,
    name: str,
    options: dict[str, Any],
    *,
    hidden: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Start one node. Its remaining ports are 0: the system gives each node free ones.

    A folder of its own, too: nodes that share one unpack a job's files anew over those that its driver runs in.
    The node finds an empty folder in the place of `hidden`, as where a file system is not mounted; only root can do so.
    """
    options = {"block": None, "node-name": name, "node-ip-address": NODE, **options}
    options |= {"min-worker-port": 0, "max-worker-port": 0, "temp-dir": f"{state.temporary}/{name}"}
    words = [word for key, value in options.items() for word in (f"--{key}", value) if word is not None]
    command = [str(_python(state)), "-m", "ray.scripts.scripts", "start", *map(str, words)]
    if hidden is not None:
        command = ["unshare", "--mount", "sh", "-c", _HIDING, str(hidden), *command]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(folder, state, name) | (environment or {}),
            start_new_session=True,
        )
    state.pids[name] = process.pid
    state.write(folder)


def _python(state: State) -> Path:
    """Return this interpreter by a path without spaces: Ray does not quote it where it starts its servers."""
    link = Path(state.temporary, "environment")
    if not link.exists():
        link.symlink_to(sys.prefix)
    return link / "bin" / Path(sys.executable).name


def _environment(folder: Path, state: State, name: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return kept | {
        "PATH": os.pathsep.join((str(_python(state).parent), os.environ.get("PATH", os.defpath))),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(folder)),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "150",  # 60 are not enough for a busy machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": f"http://{HOST}:9/",
        processes.MARK: state.mark,
        processes.NODE: f"{state.mark}/{name}",
    }
