"""What a run or a search ends with: a table for a person, JSON for a script, a line that a job's log carries home."""

import json
from typing import Annotated, Any

import typer

from kd_ray.config import Config

MARK = "kd-ray outcome: "
AsLine = Annotated[bool, typer.Option("--as-line", hidden=True, help="Print the outcome as one line of a job's log.")]

Outcome = dict[str, Any]
"""{"path", "seconds"} of stages, with {"evaluation", "bundle"} of a whole run; or {"leaderboard"} of a search."""


def of_run(done: Any) -> Outcome:
    """Return the outcome of a `pipeline.Part`."""
    return {key: value for key, value in vars(done).items() if key != "config"}


def say(outcome: Outcome, config: Config, *, as_json: bool = False, as_line: bool = False) -> None:
    """Print an outcome of `config` to standard output."""
    if as_line:
        typer.echo(MARK + json.dumps(outcome))
    elif as_json:
        whole = outcome.get("evaluation") or outcome.get("leaderboard") or outcome
        typer.echo(json.dumps(whole, indent=2))
    else:
        _show(outcome, config)


def _show(outcome: Outcome, config: Config) -> None:
    from rich.console import Console

    from kd_ray import pipeline, summary

    console = Console()
    if "leaderboard" in outcome:
        summary.show_leaderboard(outcome["leaderboard"], console)
    elif "evaluation" in outcome:
        summary.show(pipeline.Result(config=config, **outcome), console)
    else:
        summary.show_stages(pipeline.Part(config=config, **outcome), console)


def read(log: str) -> Outcome | None:
    """Return the outcome that a job's log ends with, None where there is none."""
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    return json.loads(lines[-1].removeprefix(MARK)) if lines else None
