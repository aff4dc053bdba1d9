"""What every command shares: the app, progress on standard error, an end on Ctrl-C."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kd_ray.progress import Progress

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a knob: teachers.count=24.")]
Name = Annotated[str | None, typer.Option(help="The run's folder; goes before the config's.")]
Storage = Annotated[str | None, typer.Option(help="Folder or URI that holds runs.")]
Address = Annotated[
    str | None, typer.Option(help="Join this Ray cluster (or RAY_ADDRESS); without one, a private node.")
]
Run = Annotated[str, typer.Argument(help="A finished run's directory.")]
AnyRun = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, finished or not.")]
Trust = Annotated[bool, typer.Option("--trust", help="Import the code that the run's ensemble names by import path.")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Distill an ensemble into one small model, in parallel on Ray, with the evidence of what was kept.",
)


class InterruptedRunError(Exception):
    """Ctrl-C or SIGTERM, past what typer makes of a KeyboardInterrupt; says what has become of the work."""


@contextlib.contextmanager
def interruptible(left: str = "nothing was written") -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(left) from None


@contextlib.contextmanager
def display() -> Iterator["Progress"]:
    """Show progress on standard error: live on a terminal, else in lines."""
    from rich.console import Console

    from kd_ray.progress import Lines, Live

    # A descriptor of its own: standard error is put aside while Ray starts.
    terminal = Console(file=os.fdopen(os.dup(2), "w"))
    if terminal.is_terminal:
        with Live(terminal) as live:
            yield live
    else:
        yield Lines(functools.partial(_say, terminal.file))


def _say(file: IO[str], line: str) -> None:
    """Print a line of progress; that nobody reads it any more is no reason to end a run."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=file, flush=True)


def printable(line: str) -> str:
    """Return a line as a terminal can show it: what would move its cursor, or be no text, is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
