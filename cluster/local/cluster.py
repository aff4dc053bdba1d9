"""A Ray cluster of several nodes on this one machine: `python cluster/local/cluster.py start|add|remove|status|stop`.

It takes a token and listens on loopback. CPUs and GPUs are logical: Ray counts them, nothing checks that they exist.
"""

import argparse
import contextlib
import json
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import processes
from node import HOST, NODE, launch
from state import ClusterError, State, instructions, token_file, write_token

HEAD_SECONDS = 180.0
WORKER_SECONDS = 180.0
REQUEST_SECONDS = 5.0
LOG_LINES = 15


def start(folder: Path, *, workers: int, cpus: int, gpus: int, store_mib: int, storage: Path | None) -> State:
    """Start a head and `workers` nodes and wait until all of them answer. What was started ends where one does not."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_a_second(folder)
    write_token(token_file(folder))
    if storage is not None:
        storage.mkdir(parents=True, exist_ok=True)
    gcs, dashboard, agent, client = _free_ports(4)
    state = State(
        mark=secrets.token_hex(8),
        gcs=f"{NODE}:{gcs}",
        jobs=f"http://{HOST}:{dashboard}",
        temporary=tempfile.mkdtemp(prefix="kdr-", dir="/tmp"),  # a socket's path has at most 107 characters
        workers=workers,
        storage=str(storage.resolve()) if storage else None,
    )
    state.write(folder)
    own = {"num-cpus": cpus, "num-gpus": gpus, "object-store-memory": store_mib * 1024**2}
    try:
        idle = own if workers == 0 else own | {"num-cpus": 0, "num-gpus": 0}
        launch(folder, state, "head", _head_options(state, gcs, dashboard, agent, client) | idle)
        _wait_for_nodes(folder, state, 1, HEAD_SECONDS)
        for number in range(1, workers + 1):
            launch(folder, state, f"worker-{number}", _worker_options(state) | own)
        _wait_for_nodes(folder, state, 1 + workers, WORKER_SECONDS)
        _wait(folder, state, lambda: _agent_answers(agent), HEAD_SECONDS, "the head's job agent")
    except BaseException:
        stop(folder)
        raise
    return state


def add(
    folder: Path,
    name: str,
    *,
    cpus: int,
    gpus: int,
    store_mib: int,
    hidden: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Start one more worker and wait until it answers. It ends where it does not."""
    state = _running(folder)
    if name in state.pids:
        raise ClusterError(f"--name: {name} is there already; choose another")
    own = {"num-cpus": cpus, "num-gpus": gpus, "object-store-memory": store_mib * 1024**2}
    launch(folder, state, name, _worker_options(state) | own, hidden=hidden, environment=environment)
    state.workers += 1
    state.write(folder)
    try:
        _wait(folder, state, lambda: name in alive_nodes(folder, state), WORKER_SECONDS, name)
    except BaseException:
        remove(folder, name)
        raise


def remove(folder: Path, name: str) -> None:
    """End one worker, as when its machine is switched off, and wait until the head has noticed."""
    state = _running(folder)
    if name not in state.pids or name == "head":
        raise ClusterError(f"--name: must be a worker; {name} is not")
    left = processes.end(f"{state.mark}/{name}", [state.pids[name]], variable=processes.NODE)
    if left:
        raise ClusterError(f"these processes do not end: {', '.join(map(str, left))}; end them and remove again")
    del state.pids[name]
    state.workers -= 1
    state.write(folder)
    _wait(folder, state, lambda: name not in alive_nodes(folder, state), WORKER_SECONDS, "the head")


def _running(folder: Path) -> State:
    state = State.read(folder)
    if state is None:
        raise ClusterError(f"no cluster in {folder}; start one first")
    return state


def _worker_options(state: State) -> dict[str, Any]:
    return {"address": state.gcs, "dashboard-agent-listen-port": 0}


def stop(folder: Path) -> bool:
    """End every process of the cluster and remove its files. Return False where there was no cluster."""
    state = State.read(folder)
    if state is None:
        return False
    workers_first = sorted(state.pids, key=lambda name: name == "head")
    left = processes.end(state.mark, [state.pids[name] for name in workers_first])
    if left:
        raise ClusterError(f"these processes do not end: {', '.join(map(str, left))}; end them and stop again")
    shutil.rmtree(state.temporary, ignore_errors=True)
    for file in (token_file(folder), folder / "cluster.json"):
        file.unlink(missing_ok=True)
    return True


def alive_nodes(folder: Path, state: State) -> list[str]:
    """Return the names of the nodes that the head counts as alive. Raises OSError where it does not answer."""
    token = token_file(folder).read_text().strip()
    request = urllib.request.Request(f"{state.jobs}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"})
    nodes = json.loads(_fetch(request))["data"]["summary"]
    return [node["raylet"].get("nodeName", "?") for node in nodes if node["raylet"].get("state") == "ALIVE"]


def _refuse_a_second(folder: Path) -> None:
    before = State.read(folder)
    if before is None:
        return
    if processes.family(before.mark):
        raise ClusterError(f"a cluster of {folder} is running at {before.gcs}; stop it first, or give another --state")
    stop(folder)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _head_options(state: State, gcs: int, dashboard: int, agent: int, client: int) -> dict[str, Any]:
    """Ray's defaults for these ports are fixed numbers, which a second Ray on this machine holds perhaps."""
    return {
        "head": None,
        "port": gcs,
        "include-dashboard": "true",
        "dashboard-host": HOST,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "disable-usage-stats": None,
    }


def _wait_for_nodes(folder: Path, state: State, count: int, seconds: float) -> None:
    _wait(folder, state, lambda: len(alive_nodes(folder, state)) >= count, seconds, f"{count} node(s)")


def _wait(folder: Path, state: State, ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `ready` says so. Raises ClusterError when a node has ended or `seconds` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        running = processes.family(state.mark)
        for name, pid in state.pids.items():
            if pid not in running:
                raise ClusterError(f"{name} ended while it started; the end of its log:\n{_log_end(folder, name)}")
        with contextlib.suppress(OSError, ValueError, KeyError):
            if ready():
                return
        time.sleep(0.3)
    name = list(state.pids)[-1]
    raise ClusterError(f"no answer from {what} in {seconds:g} s; the end of {name}'s log:\n{_log_end(folder, name)}")


def _agent_answers(port: int) -> bool:
    """Whether the agent that starts jobs has its port: without it a submission says "No available agent"."""
    try:
        _fetch(urllib.request.Request(f"http://{NODE}:{port}/api/local_raylet_healthz"))
    except urllib.error.HTTPError:
        return True  # it asks for the token
    return True


def _fetch(request: urllib.request.Request) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=REQUEST_SECONDS) as reply:
        return bytes(reply.read())


def _log_end(folder: Path, name: str) -> str:
    with contextlib.suppress(OSError):
        return "\n".join((folder / f"{name}.log").read_text(errors="replace").splitlines()[-LOG_LINES:])
    return "(no log)"


def status(folder: Path) -> int:
    """Print what runs. Return 0 where all of it does, 1 where a node is missing, 3 where there is no cluster."""
    state = State.read(folder)
    if state is None:
        print(f"no cluster in {folder}")
        return 3
    running = processes.family(state.mark)
    for name, pid in state.pids.items():
        print(f"{name:12} pid {pid:<8} {'running' if pid in running else 'gone'}")
    try:
        nodes = alive_nodes(folder, state)
    except (OSError, ValueError, KeyError) as error:
        print(f"the head does not answer at {state.jobs}: {error}")
        return 1
    print(f"{len(nodes)} of {1 + state.workers} nodes alive, {len(running)} processes")
    print(instructions(folder, state))
    return 0 if len(nodes) == 1 + state.workers else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0; got {text}")
    return value


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE; got {text}")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path.home() / ".kd_ray" / "cluster", help="folder of its files")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("start", help="start a head and workers, print how to use them")
    starting.add_argument("--workers", type=_count, default=2, help="nodes beside the head; 0: the head takes the work")
    starting.add_argument("--storage", type=Path, help="folder for runs, made where it is missing")
    adding = commands.add_parser("add", help="start one more worker")
    adding.add_argument("--hide", type=Path, help="a folder that is empty for this node alone; needs root")
    adding.add_argument("--env", type=_pair, action="append", default=[], help="KEY=VALUE of its environment")
    removing = commands.add_parser("remove", help="end one worker")
    for command in (adding, removing):
        command.add_argument("--name", required=True, help="the worker's name")
    for command in (starting, adding):
        command.add_argument("--cpus", type=_count, default=1, help="logical CPUs of each")
        command.add_argument("--gpus", type=_count, default=0, help="logical GPUs of each")
        command.add_argument("--store-mib", type=_count, default=256, help="object store of each, MiB")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("stop", help="end what was started; does nothing the second time")
    return parser


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(143)


def main() -> int:
    signal.signal(signal.SIGTERM, _terminated)
    asked = _parser().parse_args()
    folder = asked.state.expanduser().resolve()
    try:
        if asked.command == "status":
            return status(folder)
        if asked.command == "stop":
            print("stopped" if stop(folder) else "nothing to stop")
        elif asked.command == "remove":
            remove(folder, asked.name)
        else:
            own = {"cpus": asked.cpus, "gpus": asked.gpus, "store_mib": asked.store_mib}
            if asked.command == "add":
                add(folder, asked.name, hidden=asked.hide, environment=dict(asked.env), **own)
            else:
                print(instructions(folder, start(folder, workers=asked.workers, storage=asked.storage, **own)))
    except (ClusterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
