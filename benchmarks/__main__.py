"""Run the benchmarks, all or those named, and print one table."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import deploy, keeping, labelling, preprocessing, recovery, scale, speed, tables, transfer, tune
from benchmarks.harness import Row, machine, table

BENCHMARKS: dict[str, Callable[[Path, int], list[Row]]] = {
    "speed": speed.against_plain,
    "students": speed.students,
    "labelling": labelling.labelling,
    "preprocessing": preprocessing.preprocessing,
    "article": recovery.article,
    "draws": recovery.draws,
    "fresh": recovery.fresh,
    "churn": tables.churn,
    "digits": tables.digits,
    "transfer": transfer.transfer,
    "deploy": deploy.deploy,
    "tune": tune.tune,
    "keeping": keeping.keeping,
    "overhead": scale.overhead,
    "actors": scale.actors,
    "nodes": scale.nodes,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of what is timed (default 3)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or BENCHMARKS:
            print(f"running {name} ...", file=sys.stderr, flush=True)
            rows += BENCHMARKS[name](Path(folder), arguments.runs)
    print(f"Measured on {machine()}.\n\n{table(rows)}")


if __name__ == "__main__":
    main()
