"""Commands that look after a run, finished or not: status, verify, clean."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kd_ray import yaml_io
from kd_ray.cli.console import AnyRun, Set, app, display, interruptible
from kd_ray.config import Config
from kd_ray.errors import DamagedError


@app.command(
    epilog="Examples:  kd-ray status runs/default   |   kd-ray status runs/churn --config churn.yaml "
    "--set teachers.count=24   |   kd-ray status runs/churn --json"
)
def status(
    run: AnyRun,
    config: Annotated[
        Path | None, typer.Option(help="Say what a run of this YAML file would find, in place of the run's own config.")
    ] = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say where a run stands: each stage, why it would be run again, who writes the run, what killed attempts left.

    Sizes of files are looked at, not their content: that is kd-ray verify's.
    """
    from kd_ray import keeping
    from kd_ray.finished import find_run, read_config

    here = find_run(run)
    wanted = None
    if config is not None:
        wanted = Config.from_yaml(config, set_)
    elif set_:
        wanted = Config.of(yaml_io.override(read_config(here).model_dump(), set_), source="--set")
    found = keeping.status(here, wanted)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for stage in found["stages"]:
        first, *rest = stage["why"] or [""]
        lines.append(f"{stage['stage'].replace('_', ' '):<13} {stage['state']:<9} {first}".rstrip())
        lines += [f"{'':<23} {why}" for why in rest]
    writer, left = found["writer"], found["leavings"]
    if writer:
        lines.append(f"{'writer':<13} {writer['owner']}, last heard of {writer['silent_seconds']:.0f} s ago")
    if left:
        total = sum(one["bytes"] for one in left) / 1e6
        lines.append(
            f"{'leavings':<13} {_files(len(left))} of killed attempts, {total:,.1f} MB; kd-ray clean removes them"
        )
    return lines


@app.command(epilog="Examples:  kd-ray verify runs/default   |   kd-ray verify s3://bucket/runs/churn --json")
def verify(
    run: AnyRun,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget what is damaged, so that the next kd-ray run makes it anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, sound or not.")] = False,
) -> None:
    """Compare every file of a run with its manifest: size, sha256, rows. All of it is read.

    Exit code 0 where all is as it was written, 2 where something is damaged, with a line for each thing that is.
    """
    from kd_ray import keeping
    from kd_ray.finished import find_run

    here = find_run(run)
    with interruptible(), display() as progress, progress.stage("verify") as report:
        found = keeping.verify(here, report, forget=forget)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        raise typer.Exit(2 if found["wrong"] else 0)
    if found["wrong"]:
        then = "kd-ray run makes it anew" if forget else "--forget has kd-ray run make it anew"
        raise DamagedError("\n".join([*found["wrong"], f"{len(found['wrong'])} damaged: {then}"]))
    typer.echo(f"{here}: every file that its {found['manifests']} manifests name is as it was written")


@app.command(epilog="Examples:  kd-ray clean runs/default --dry-run   |   kd-ray clean runs/default")
def clean(
    run: AnyRun,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what killed attempts left in a run, and nothing else: no file of a finished stage, nothing of yours.

    Refused while a process writes the run.
    """
    from kd_ray import keeping
    from kd_ray.finished import find_run

    with interruptible("what was removed is gone"):
        found = keeping.clean(find_run(run), dry_run=dry_run)
    for one in found:
        typer.echo(one.path)
    total = sum(one.bytes for one in found) / 1e6
    typer.echo(f"{_files(len(found))}, {total:,.1f} MB{' to remove' if dry_run else ' removed'}", err=True)


def _files(count: int) -> str:
    return f"{count:,} file" + ("" if count == 1 else "s")
