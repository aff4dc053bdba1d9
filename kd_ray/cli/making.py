"""Commands that make a run: init, check, run, config."""

import functools
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from kd_ray import yaml_io
from kd_ray.cli import jobs, outcome
from kd_ray.cli.console import Address, InterruptedRunError, Name, Set, Storage, app, display, interruptible
from kd_ray.cli.outcome import AsLine
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError

Made = TypeVar("Made")


@app.command(
    epilog="Examples:  kd-ray run   |   kd-ray run examples/article.yaml --set teachers.count=24   |   "
    "kd-ray run my.yaml --name trial --json > evaluation.json   |   kd-ray run my.yaml --until teachers"
)
def run(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file; without one, the recommended recipe (kd-ray config).")
    ] = None,
    name: Name = None,
    storage: Storage = None,
    set_: Set = None,
    address: Address = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Give the student what this run's kd-ray tune found best.")
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Stop after data, teachers, soft_targets, student, evaluation or export."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of the table.")] = False,
    as_line: AsLine = False,
) -> None:
    """Train the teachers, have them label, distill the student, and say what was kept.

    Run it again to take up a run that was cut short; finished stages are kept.
    """
    resolved = resolve(config, set_, name, storage)
    from kd_ray import pipeline

    with display() as progress:
        work = functools.partial(pipeline.run_until, until) if until else pipeline.run
        done: pipeline.Part = logged(
            resolved, lambda: work(resolved, address=address, progress=progress, tuned=tuned), "the run"
        )
    outcome.say(outcome.of_run(done), done.config, as_json=as_json, as_line=as_line)


def resolve(config: Path | None, changes: list[str] | None, name: str | None, storage: str | None) -> Config:
    """Return the config of a file with the changes of the command line. Raises ConfigError."""
    changes = [*(changes or [])]
    if name is not None:
        changes.append(f"name={json.dumps(name)}")
    if storage is not None:
        changes.append(f"storage={json.dumps(storage)}")
    resolved = Config.from_yaml(config, changes) if config else Config.of(yaml_io.override({}, changes), source="--set")
    if jobs.INSIDE in os.environ:
        jobs.check(resolved)
    return resolved


def logged(config: Config, work: Callable[[], Made], what: str) -> Made:
    """Do the work; an error of ours goes with its traceback into the run's error.log."""
    from kd_ray.rundir import RunDir

    try:
        with interruptible(f"the same command takes {what} up where it stopped"):
            return work()
    except (KdRayError, InterruptedRunError):
        raise
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
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what a run would do, or every mistake in the config and the data. Nothing is trained or written."""
    resolved = Config.from_yaml(config, set_)
    from kd_ray import data, pipeline
    from kd_ray.session import Session

    with Session() as session:
        found = pipeline.check(resolved, session)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(data.lines(found)))


@app.command(epilog="Example:  kd-ray config > my.yaml")
def config() -> None:
    """Print the full default config with a comment for each knob."""
    typer.echo(yaml_io.annotated(Config()), nl=False)
