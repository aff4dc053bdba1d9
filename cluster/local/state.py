"""What a running local cluster is known by, and the files that say it."""

import dataclasses
import json
import os
import secrets
import shlex
from pathlib import Path


class ClusterError(Exception):
    """What stands in the way of a cluster, in a sentence for the person who asked for it."""


@dataclasses.dataclass
class State:
    """What a running cluster is known by; kept in its state folder as cluster.json."""

    mark: str
    gcs: str
    jobs: str
    temporary: str
    workers: int
    storage: str | None = None
    pids: dict[str, int] = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> "State | None":
        """Return the state that `folder` holds, None where it holds none."""
        try:
            return State(**json.loads((folder / "cluster.json").read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(f"{folder / 'cluster.json'}: must be what `start` wrote; {error}") from None

    def write(self, folder: Path) -> None:
        unfinished = folder / "cluster.json.new"
        unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        unfinished.replace(folder / "cluster.json")


def token_file(folder: Path) -> Path:
    return folder / "token"


def instructions(folder: Path, state: State) -> str:
    """Return the shell lines that make this cluster the one that kd_ray and Ray's clients use."""
    lines = [
        f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(cat {shlex.quote(str(token_file(folder)))})",
        f"export RAY_API_SERVER_ADDRESS={state.jobs}  # the Jobs API, for `ray job submit`",
        f"export RAY_ADDRESS={state.gcs}  # for `kd-ray run`",
    ]
    if state.storage:
        lines.append(f"kd-ray run --storage {shlex.quote(state.storage)}")
    return "\n".join(lines)


def write_token(path: Path) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
