"""The command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kd_ray import __version__, interrupts
from kd_ray.cli import keeping, making, submitting, tuning, using
from kd_ray.cli.console import InterruptedRunError, app, printable
from kd_ray.errors import KdRayError

__all__ = ["keeping", "main", "making", "submitting", "tuning", "using"]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kd-ray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 our failure, 2 the user's mistake, 130 interrupted."""
    interrupts.listen()
    sys.path.append(str(Path.cwd()))  # last, so that a config can name what lies there and shadows nothing
    try:
        app(standalone_mode=True)
    except KdRayError as error:
        for line in str(error).splitlines():
            print(f"kd-ray: {printable(line)}", file=sys.stderr)
        code = error.exit_code
    except InterruptedRunError as error:
        print(f"kd-ray: interrupted; {error}", file=sys.stderr)
        interrupts.leave()
    else:
        code = 0
    sys.exit(code)
