"""Ctrl-C and SIGTERM: held back where asked, and never without an end."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from kd_ray import interrupts

STUBBORN = """
import subprocess, sys, time
from kd_ray import interrupts
interrupts.GRACE_SECONDS = 0.5
interrupts.listen()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    print(child.pid, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(600)
"""


IN_A_DESTRUCTOR = """
import sys, time
from kd_ray import interrupts
interrupts.listen()
class Slow:
    def __del__(self):
        print("inside", flush=True)
        time.sleep(2)
try:
    Slow()
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in interrupts.SIGNALS}
    for signum in interrupts.SIGNALS:
        signal.signal(signum, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def raise_in_a_deferred_block(signals: list[signal.Signals]) -> None:
    """Raise the signals one after the other, and take those off the list behind which the block goes on."""
    with interrupts.deferred():
        while signals:
            signal.raise_signal(signals[0])
            signals.pop(0)


@pytest.mark.parametrize("signum", interrupts.SIGNALS)
def test_a_deferred_signal_comes_at_the_end_of_the_block(signum: signal.Signals) -> None:
    signals = [signum]
    with pytest.raises(KeyboardInterrupt):
        raise_in_a_deferred_block(signals)
    assert signals == []
    assert signal.getsignal(signum) is signal.default_int_handler


def test_a_second_signal_is_not_held_back() -> None:
    signals = [signal.SIGINT, signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        raise_in_a_deferred_block(signals)
    assert signals == [signal.SIGTERM]


def test_a_block_without_a_signal_leaves_all_as_it_was() -> None:
    with interrupts.deferred():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_a_program_that_swallows_the_interrupt_is_ended_with_what_it_started() -> None:
    run = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = psutil.Process(int(run.stdout.readline()))
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=30) == interrupts.EXIT_CODE
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone


def test_an_interrupt_that_python_drops_inside_a_destructor_comes_again() -> None:
    command = [sys.executable, "-c", IN_A_DESTRUCTOR]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "inside\n"
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=20) == 7
    assert run.stderr is not None
    assert run.stderr.read() == ""
