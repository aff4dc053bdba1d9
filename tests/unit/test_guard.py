"""Processes that outlive the one that started them are ended, and no others."""

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
OWNER = textwrap.dedent(
    """
    import os, subprocess, sys, time
    import psutil
    from kd_ray.guard import Guard

    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    while not psutil.Process(parent.pid).children():
        time.sleep(0.01)
    other = subprocess.Popen(sleep, start_new_session=True)
    guard = Guard([parent.pid])
    print(parent.pid, other.pid, flush=True)
    {end}
    """
)


def ended_by(end: str) -> tuple[bool, bool]:
    """Whether the guarded process and the other one have ended 10 s after their owner did what `end` says."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER.format(end=end)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    guarded, other = map(psutil.Process, map(int, owner.stdout.readline().split()))
    family = [guarded, *guarded.children()]
    try:
        owner.wait(timeout=30)
        gone, _ = psutil.wait_procs(family, timeout=10)
        return len(gone) == len(family), not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    finally:
        for process in (*family, other):
            if process.is_running():
                process.kill()


def test_a_killed_process_takes_what_it_guards_with_it() -> None:
    assert ended_by("os.kill(os.getpid(), 9)") == (True, False)


def test_an_owner_that_lets_go_takes_what_it_guards_with_it() -> None:
    assert ended_by("guard.close(); guard._process.wait(); os._exit(0)") == (True, False)
