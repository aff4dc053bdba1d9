"""The command that has a cluster do the work: submit."""

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_ray import __version__
from kd_ray.cli import jobs, outcome
from kd_ray.cli.console import Set, app, interruptible
from kd_ray.cli.jobs import JOBS, SUBMITTED_BY
from kd_ray.cli.making import resolve
from kd_ray.config import Config
from kd_ray.errors import ConfigError, RunError
from kd_ray.mistakes import near
from kd_ray.reach import OVERRIDE

if TYPE_CHECKING:
    from kd_ray.submit import Cluster, Job

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@app.command(
    epilog="Examples:  kd-ray submit my.yaml --address http://127.0.0.1:8265 --storage s3://bucket/runs   |   "
    "kd-ray submit my.yaml --storage /shared/runs --job train_teachers --no-wait   |   kd-ray submit --stop ID"
)
def submit(
    config: Annotated[Path | None, typer.Argument(help="A YAML file.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The cluster's Jobs API (or RAY_API_SERVER_ADDRESS; else http://127.0.0.1:8265)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder; goes before the config's.")] = None,
    storage: Annotated[str | None, typer.Option(help="URI or absolute path that every node sees.")] = None,
    set_: Set = None,
    job: Annotated[str, typer.Option(help=f"One of {', '.join(JOBS)}.")] = "run_pipeline",
    submission_id: Annotated[str | None, typer.Option(help="The job's id; by default of the name and config.")] = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="A file or folder here that the config's code needs; may be repeated.")
    ] = None,
    package: Annotated[
        bool | None,
        typer.Option("--package/--no-package", help="Send this kd_ray along; by default from a checkout alone."),
    ] = None,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="Stop this job.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log to the end.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Run a config as a job on a Ray cluster, from outside: upload, follow the log, show what kd-ray run shows.

    Submit again to follow a job that is under way, to see a finished one, to go on after a failed one. Ctrl-C leaves
    the job alone.
    """
    from kd_ray.submit import DEFAULT_ADDRESS

    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    if stop is not None:
        _stop(where, stop)
        return
    if config is None:
        raise ConfigError("CONFIG: must name a YAML file; kd-ray config > my.yaml writes one")
    if job not in JOBS:
        raise ConfigError(f"--job: must be one of {', '.join(JOBS)}; got {job!r}{near(job, list(JOBS))}")
    resolved = resolve(config, set_, name, storage)
    jobs.check(resolved)
    with tempfile.TemporaryDirectory() as aside, interruptible("look with the same command whether it was submitted"):
        made = _made(resolved, job, Path(aside), submission_id, include or [], package)
        cluster = _cluster(where)
        attempt, before = cluster.submit(made)
    is_over = before is not None and before.status.is_terminal()
    standing = "finished before" if is_over else "submitted" if before is None else "under way already"
    _tell(f"job {attempt}: {standing}, at {cluster.url}")
    if wait:
        again = f"kd-ray submit --stop {attempt} --address {cluster.url}"
        with interruptible(f"the job goes on: the same command follows it again, and this ends it: {again}"):
            found = _followed(cluster, attempt, show=not is_over)
        outcome.say(found, resolved, as_json=as_json)
    else:
        typer.echo(json.dumps({"job": attempt}) if as_json else attempt)


def _made(
    config: Config, job: str, aside: Path, submission_id: str | None, include: list[Path], package: bool | None
) -> "Job":
    """Pack what the job needs. Raises ConfigError."""
    from kd_ray import upload
    from kd_ray.rundir import fingerprint
    from kd_ray.submit import Job

    mark = fingerprint("job", job, config.model_dump())
    chosen = submission_id or f"kd-ray-{config.name}-{mark[:8]}"
    if not ID_PATTERN.fullmatch(chosen):
        raise ConfigError(
            f"--submission-id: must be 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit; "
            f"got {chosen!r}"
        )
    upload.check_named_files(config)
    archive = aside / "job.zip"
    with_package = upload.is_checkout() if package is None else package
    upload.pack(archive, config, Path.cwd(), include=include, package=with_package)
    words = ["python", "-m", "kd_ray.cli", *JOBS[job], upload.CONFIG, "--as-line"]
    environment = {SUBMITTED_BY: __version__}
    if OVERRIDE in os.environ:
        environment[OVERRIDE] = os.environ[OVERRIDE]
    return Job(id=chosen, mark=mark, entrypoint=shlex.join(words), archive=archive, environment=environment)


def _cluster(where: str) -> "Cluster":
    from kd_ray.submit import Cluster

    return Cluster(where)


def _followed(cluster: "Cluster", attempt: str, *, show: bool) -> outcome.Outcome:
    """Follow a job to its end and return its outcome. Raises what its last words say."""
    from kd_ray.submit import failure

    tell: Callable[[str], None] = _tell if show else _silent
    found = cluster.follow(attempt, tell)
    log = cluster.log(attempt)
    if found.status.value != "SUCCEEDED":
        raise failure(attempt, found, log)
    value = outcome.read(log)
    if value is None:
        raise RunError(f"job {attempt}: ended well, but its log has no outcome; the run's storage has the evaluation")
    return value


def _stop(where: str, job: str) -> None:
    with interruptible("ask again whether it has ended"):
        typer.echo(f"job {job}: {_cluster(where).stop(job)}")


def _tell(line: str) -> None:
    if not line.startswith(outcome.MARK):
        print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    pass
