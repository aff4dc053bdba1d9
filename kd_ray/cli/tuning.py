"""The command that searches: tune."""

from pathlib import Path
from typing import Annotated

import typer

from kd_ray.cli import outcome
from kd_ray.cli.console import Address, Name, Set, Storage, app, display
from kd_ray.cli.making import logged, resolve
from kd_ray.cli.outcome import AsLine


@app.command(
    epilog="Examples:  kd-ray tune my.yaml   |   "
    "kd-ray tune my.yaml --set 'tune.space={student.alpha: [0.5, 1.0]}'   |   kd-ray run my.yaml --tuned"
)
def tune(
    config: Annotated[Path, typer.Argument(help="A YAML file.")],
    name: Name = None,
    storage: Storage = None,
    set_: Set = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print leaderboard.json instead of a table.")] = False,
    as_line: AsLine = False,
) -> None:
    """Search for better knobs of the student on the soft targets, by the validation rows.

    Run it again to take up a search that was cut short. kd-ray run CONFIG --tuned takes over what it found best.
    """
    resolved = resolve(config, set_, name, storage)
    from kd_ray import tune as searching

    with display() as progress:
        board = logged(resolved, lambda: searching.tune(resolved, address=address, progress=progress), "the search")
    outcome.say({"leaderboard": board}, resolved, as_json=as_json, as_line=as_line)
