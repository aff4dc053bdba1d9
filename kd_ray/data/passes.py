"""A pass over a source: pure work on parts of it, done one after the other, or by Ray Data on all cores."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from kd_ray.data.pieces import Piece, Source
from kd_ray.errors import DataError, KdRayError
from kd_ray.progress import Report
from kd_ray.session import Session

UNIT_ROWS = 131_072
PARALLEL_BYTES = 256 << 20

T = TypeVar("T")
Job = Callable[[], T]


class Driver(Protocol):
    """Does jobs and yields what they return in the jobs' order."""

    def __call__(self, jobs: Iterable[Job[T]]) -> Iterator[T]: ...


def units(pieces: list[Piece]) -> list[list[Piece]]:
    """Put neighbouring pieces together until a unit has UNIT_ROWS rows."""
    made: list[list[Piece]] = [[]]
    rows = 0
    for piece in pieces:
        if rows >= UNIT_ROWS:
            made.append([])
            rows = 0
        made[-1].append(piece)
        rows += piece.rows
    return [unit for unit in made if unit]


def rows_of(source: Source, unit: list[Piece], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield a unit's batches, each with the source's row it begins with. Raises DataError where rows have changed."""
    for piece in unit:
        at = piece.first
        for table in source.batches(piece, columns):
            yield at, table
            at += table.num_rows
        if at != piece.first + piece.rows:
            raise DataError(
                f"{source.where(piece.first)}: must hold still while it is read; {piece.rows:,} rows were counted, "
                f"{at - piece.first:,} came"
            )


def in_line(jobs: Iterable[Job[T]]) -> Iterator[T]:
    """Do jobs one after the other in this process."""
    return (job() for job in jobs)


def on_ray(session: Session) -> Driver:
    """Return a driver that has Ray Data do jobs, one a core at a time."""

    def drive(jobs: Iterable[Job[T]]) -> Iterator[T]:
        session.ready()
        import ray.data
        from ray import cloudpickle

        items = [{"number": number, "job": cloudpickle.dumps(job)} for number, job in enumerate(jobs)]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(_do, batch_size=1, num_cpus=1)
        early: dict[int, bytes] = {}
        wanted = 0
        for row in done.iter_rows():
            early[row["number"]] = row["made"]
            while wanted in early:
                yield _unless_error(cloudpickle.loads(early.pop(wanted)))
                wanted += 1

    return drive


def telling(driver: Driver, report: Report, what: str) -> Driver:
    """Return a driver that reports how many of its jobs are done."""

    def drive(jobs: Iterable[Job[T]]) -> Iterator[T]:
        waiting = list(jobs)
        for number, made in enumerate(driver(waiting), 1):
            report(number, len(waiting), f"{what} {number:,} of {len(waiting):,} parts of the rows")
            yield made

    return drive


def _do(batch: dict[str, Any]) -> dict[str, list[Any]]:
    """Do one job; an error of ours travels as what was made, not as a failure of Ray's."""
    from ray import cloudpickle

    try:
        made = cloudpickle.loads(batch["job"][0])()
    except KdRayError as error:
        made = error
    return {"number": [int(batch["number"][0])], "made": [cloudpickle.dumps(made)]}


def _unless_error(made: Any) -> Any:
    if isinstance(made, KdRayError):
        raise made
    return made
