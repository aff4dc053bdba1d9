"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

Report = Callable[[float, float, str], None]
"""Called by a stage with how much is done, of how much, and what to say of it."""

LINE_SECONDS = 5.0


class Progress(Protocol):
    def stage(self, name: str) -> Any:
        """A context manager for one stage that yields its Report."""

    def skip(self, name: str) -> None:
        """Say that a stage was finished before."""

    def note(self, text: str) -> None:
        """Say something that the user should know and need not act on."""


class Silent:
    """Shows nothing: the default of the Python call."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        yield lambda done, total, note: None

    def skip(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Lines:
    """A line when a stage begins and ends, and every few seconds between: for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        label = name.replace("_", " ")
        begun = said = time.monotonic()
        last = ""

        def report(done: float, total: float, note: str) -> None:
            nonlocal said, last
            last = note
            if time.monotonic() - said >= LINE_SECONDS:
                said = time.monotonic()
                self._write(f"{label}: {note}")

        self._write(f"{label}: started")
        yield report
        self._write(f"{label}: {last + ', ' if last else ''}done in {time.monotonic() - begun:.1f} s")

    def skip(self, name: str) -> None:
        self._write(f"{name.replace('_', ' ')}: finished before, kept")

    def note(self, text: str) -> None:
        self._write(f"note: {text}")


class Live:
    """One bar a stage, kept on the screen, with what the stage says of itself."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<13}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
        )

    def __enter__(self) -> "Live":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        task = self._bars.add_task(name.replace("_", " "), total=None, note="")

        def report(done: float, total: float, note: str) -> None:
            self._bars.update(task, completed=done, total=total, note=note)

        yield report
        self._bars.update(task, completed=1, total=1)

    def skip(self, name: str) -> None:
        self._bars.add_task(name.replace("_", " "), total=1, completed=1, note="finished before, kept")

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", highlight=False)
