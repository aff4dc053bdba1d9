"""Which processes belong to a local cluster, and their end. Linux: all of it is read from /proc."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

MARK = "KD_RAY_LOCAL_CLUSTER"
NODE = "KD_RAY_LOCAL_NODE"
GRACE_SECONDS = 4.0  # a raylet waits for its detached actors, which nobody has asked to end yet
KILL_SECONDS = 5.0
_PROC = Path("/proc")

Members = dict[int, int]  # process id to the tick it began at: together they name one process for good


def family(mark: str, variable: str = MARK) -> Members:
    """Return the processes that began with `mark` as `variable` in their environment, and all that descend from them.

    A job's driver leaves its session, and a process may lose its parent, so neither of those would find them all.
    """
    entries = {pid: found for pid in _pids() if (found := _stat(pid)) is not None}
    wanted = f"{variable}={mark}".encode()
    inside = {pid for pid in entries if wanted in _environment(pid)}
    while True:
        more = {pid for pid, (parent, _) in entries.items() if parent in inside} - inside
        if not more:
            return {pid: entries[pid][1] for pid in inside if pid != os.getpid()}
        inside |= more


def alive(members: Members) -> Members:
    """Return those of `members` that still run; a number that another process has by now does not count."""
    return {pid: began for pid, began in members.items() if (found := _stat(pid)) is not None and found[1] == began}


def end(mark: str, first: Iterable[int] = (), variable: str = MARK) -> Members:
    """End the processes of `mark`, `first` asked before the others. Return those that would not end."""
    members = family(mark, variable)
    _send({pid: members[pid] for pid in first if pid in members}, signal.SIGTERM)
    for signum, seconds in ((None, GRACE_SECONDS), (signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        if signum is not None:
            _send(members, signum)
        members = _left(members, seconds, mark, variable)
        if not members:
            break
    return members


def _left(members: Members, seconds: float, mark: str, variable: str) -> Members:
    deadline = time.monotonic() + seconds
    while (members := alive(members | family(mark, variable))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return members


def _send(members: Members, signum: signal.Signals) -> None:
    for pid in alive(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> tuple[int, int] | None:
    """Return a process's parent and the tick it began at; None where it is gone or a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, parent, began = fields[0], int(fields[1]), int(fields[19])
    return None if state in "ZX" else (parent, began)


def _environment(pid: int) -> set[bytes]:
    try:
        return set((_PROC / str(pid) / "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
