"""The command line: `kd-ray init`, `kd-ray check`, `kd-ray run`, `kd-ray config`."""

import contextlib
import functools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from kd_ray import __version__, interrupts, yaml_io
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError

if TYPE_CHECKING:
    from kd_ray.progress import Progress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Distill an ensemble into one small model, in parallel on Ray, with the evidence of what was kept.",
)


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


@app.command(
    epilog="Examples:  kd-ray run   |   kd-ray run examples/article.yaml --set teachers.count=24   |   "
    "kd-ray run my.yaml --name trial --json > evaluation.json"
)
def run(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file; without one, the recommended recipe (kd-ray config).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder; goes before the config's.")] = None,
    storage: Annotated[str | None, typer.Option(help="Folder or URI that holds runs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a knob: teachers.count=24.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster (or RAY_ADDRESS); without one, a private node.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of the table.")] = False,
) -> None:
    """Train the teachers, have them label, distill the student, and say what was kept.

    Run it again to take up a run that was cut short; finished stages are kept.
    """
    changes = [*(set_ or [])]
    if name is not None:
        changes.append(f"name={json.dumps(name)}")
    if storage is not None:
        changes.append(f"storage={json.dumps(storage)}")
    resolved = Config.from_yaml(config, changes) if config else Config.of(yaml_io.override({}, changes), source="--set")
    from rich.console import Console

    from kd_ray import summary
    from kd_ray.progress import Lines, Live

    # A descriptor of its own: standard error is put aside while Ray starts.
    terminal = Console(file=os.fdopen(os.dup(2), "w"))
    if terminal.is_terminal:
        with Live(terminal) as live:
            result = _run(resolved, address, live)
    else:
        result = _run(resolved, address, Lines(functools.partial(_say, terminal.file)))
    if as_json:
        typer.echo(json.dumps(result.evaluation, indent=2))
    else:
        summary.show(result, Console())


def _say(file: IO[str], line: str) -> None:
    """Print a line of progress; that nobody reads it any more is no reason to end a run."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=file, flush=True)


@app.command(
    epilog="Examples:  kd-ray init data.parquet --target churned   |   kd-ray init 'rows/*.csv' --target price"
)
def init(
    source: Annotated[str, typer.Argument(help="A file, folder, glob or URI of CSV or Parquet (or sklearn:NAME).")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    out: Annotated[Path, typer.Option(help="The file to write; it must not be there.")] = Path("config.yaml"),
) -> None:
    """Write a commented config for a table."""
    from kd_ray import data

    if out.exists():
        raise ConfigError(f"--out: must be a file that is not there yet; {out} is: choose another, or delete it")
    text = data.starter(source, target)
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror}") from None
    typer.echo(f"{out}: written; next:  kd-ray check {out}", err=True)


@app.command(epilog="Examples:  kd-ray check config.yaml   |   kd-ray check config.yaml --json")
def check(
    config: Annotated[Path, typer.Argument(help="A YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a knob: teachers.count=24.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what a run would do, or every mistake in the config and the data. Nothing is trained or written."""
    resolved = Config.from_yaml(config, set_)
    from kd_ray import data, pipeline
    from kd_ray.session import Session

    with Session() as session:
        found = pipeline.check(resolved, session)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(data.lines(found)))


class InterruptedRunError(Exception):
    """Ctrl-C or SIGTERM, past what typer makes of a KeyboardInterrupt."""


def _run(config: Config, address: str | None, progress: "Progress") -> Any:
    """Run the pipeline; an error of ours goes with its traceback into the run's error.log."""
    from kd_ray import pipeline
    from kd_ray.rundir import RunDir

    try:
        return pipeline.run(config, address=address, progress=progress)
    except KdRayError:
        raise
    except KeyboardInterrupt:
        raise InterruptedRunError from None
    except Exception as error:
        here = RunDir.at(config.storage, config.name)
        try:
            here.write_bytes("error.log", traceback.format_exc().encode())
        except KdRayError:
            traceback.print_exc()
        raise KdRayError(
            f"{type(error).__name__}: {_first_line(error)} (a fault of kd-ray's own; "
            f"the traceback is in {here}/error.log)"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


@app.command(epilog="Example:  kd-ray config > my.yaml")
def config() -> None:
    """Print the full default config with a comment for each knob."""
    typer.echo(yaml_io.annotated(Config()), nl=False)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 our failure, 2 the user's mistake, 130 interrupted."""
    interrupts.listen()
    sys.path.append(str(Path.cwd()))  # last, so that a config can name what lies there and shadows nothing
    try:
        app(standalone_mode=True)
    except KdRayError as error:
        for line in str(error).splitlines():
            print(f"kd-ray: {line}", file=sys.stderr)
        code = error.exit_code
    except InterruptedRunError:
        print("kd-ray: interrupted; the same command takes the run up where it stopped", file=sys.stderr)
        interrupts.leave()
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
