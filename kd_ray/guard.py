"""What a program started ends with it, even where it was killed: a process that watches a pipe.

Ray's own processes end with their parent, but its two agents only notice after a minute: they first try to report the
death to a node that is dead as well.
"""

import contextlib
import subprocess
import sys

import psutil

_WATCH = """
import os, signal, sys, time

def began(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except OSError:
        return None

known = {pid: began(pid) for pid in map(int, sys.stdin.readline().split())}
sys.stdin.read()
time.sleep(1)
for pid, tick in known.items():
    if tick and began(pid) == tick:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
"""


class Guard:
    """Ends the processes `pids` and their children, as they are now, soon after `close`, or this process's death."""

    def __init__(self, pids: list[int]) -> None:
        known = [psutil.Process(pid) for pid in pids]
        known += [child for process in known for child in process.children(recursive=True)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(process.pid) for process in known) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Let go: what is left of them ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
