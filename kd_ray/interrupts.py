"""Ctrl-C and SIGTERM: one ending for both, never inside what must not be cut, and with a bound."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
GRACE_SECONDS = 25.0
AGAIN_SECONDS = 0.05


def listen() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM; a program still there GRACE_SECONDS later is ended.

    Python drops an exception raised inside a destructor or a weak reference's callback: such an interrupt comes again.
    The bound is for callbacks of C code, which drop it unseen.
    """
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(dropped)

    sys.unraisablehook = hook


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    bound = threading.Timer(GRACE_SECONDS, _end)
    bound.daemon = True
    bound.start()
    raise KeyboardInterrupt


def _end() -> None:
    """End this process and what it started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    leave()


def leave() -> NoReturn:
    """Leave at once: threads of Ray and torch cut in mid-work crash where the interpreter is taken down around them."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(EXIT_CODE)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Hold a signal back until the end of the block; a second one goes through at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        if len(came) > 1 and callable(before[signum]):
            before[signum](signum, frame)

    before.update({signum: signal.signal(signum, note) for signum in SIGNALS})
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if came:
            signal.raise_signal(came[0])
