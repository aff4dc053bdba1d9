"""Commands that use a finished run: predict, bench, report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kd_ray.cli.console import Run, Trust, app, display, interruptible
from kd_ray.errors import ConfigError


@app.command(
    epilog="Examples:  kd-ray predict runs/default new.parquet --out scored.parquet   |   "
    "kd-ray predict runs/churn 's3://rows/*.csv' --out scored.parquet --keep region --variant int8"
)
def predict(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A file, folder, glob or URI of CSV or Parquet.")],
    out: Annotated[str, typer.Option(help="The Parquet file to write.")],
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Ask the teachers instead of the student.")] = False,
    variant: Annotated[str, typer.Option(help="student, or a smaller one that export/bundle.json lists.")] = "student",
    keep: Annotated[list[str] | None, typer.Option(help="A column to keep beside the ids; may be repeated.")] = None,
    trust: Trust = False,
    address: Annotated[str | None, typer.Option(help="Score on this Ray cluster.")] = None,
) -> None:
    """Score a table of any size with a run's exported student."""
    from kd_ray import predict as scoring
    from kd_ray.finished import reading
    from kd_ray.session import Session

    scoring.check_out(out)
    with (
        interruptible(),
        reading(run),
        display() as progress,
        Session(address) as session,
        progress.stage("predict") as report,
    ):
        rows = scoring.predict(
            run, source, out, session=session, report=report, ensemble=ensemble, variant=variant, keep=keep, trust=trust
        )
    typer.echo(f"{out}: {rows:,} rows")


@app.command(epilog="Examples:  kd-ray bench runs/default   |   kd-ray bench runs/default --json")
def bench(
    run: Run,
    brief: Annotated[bool, typer.Option("--brief", help="Seconds instead of a minute: fewer rows, no memory.")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print latency.json instead of a table.")] = False,
) -> None:
    """Time the ensemble, the student and the exported files on this machine; writes export/latency.json."""
    from rich.console import Console

    from kd_ray import export, latency, summary
    from kd_ray.finished import check_trusted, open_run, reading
    from kd_ray.tables import DATA_MANIFEST, TEACHERS_MANIFEST

    here, config = open_run(run, DATA_MANIFEST, TEACHERS_MANIFEST, export.MANIFEST)
    check_trusted(config, trust=trust)
    with interruptible(), reading(run), display() as progress, progress.stage("bench") as report:
        found = latency.write(here, config, latency.BRIEF if brief else latency.THOROUGH, report)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        summary.show_latency(found, Console())


@app.command(epilog="Examples:  kd-ray report runs/default   |   kd-ray report runs/a runs/b --out compared.html")
def report(
    runs: Annotated[list[str], typer.Argument(help="Finished runs' directories.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; needed for several runs.")] = None,
    trust: Trust = False,
) -> None:
    """Write a run's report.html anew, or a page that compares several runs."""
    from kd_ray import pipeline
    from kd_ray import report as pages
    from kd_ray.evaluate import MANIFEST
    from kd_ray.finished import check_trusted, open_run, reading

    opened = [open_run(path, MANIFEST) for path in runs]
    if len(opened) > 1 and out is None:
        raise ConfigError("--out: must name the page that compares several runs")
    with interruptible(), reading(" ".join(runs)):
        if len(opened) > 1:
            page = pages.compare([run for run, _ in opened])
        else:
            run, config = opened[0]
            check_trusted(config, trust=trust)
            page = pipeline.report_again(config, run)
    if out is None:
        typer.echo(f"{opened[0][0]}/{pages.FILE}")
        return
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror}") from None
    typer.echo(str(out))
