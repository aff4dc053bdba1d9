"""Do to runs what happens to them, and print how many ended as they must: `python -m tests.chaos [NAME ...]`."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import machine
from tests.chaos import crashes, damage, diverge, full, fuzz, kills, order, owners, store, workers
from tests.chaos.harness import Place, Row

CASES: dict[str, Callable[[Place], list[Row]]] = {
    "driver": kills.driver,
    "signals": kills.signals,
    "crashes": crashes.crashes,
    "crashes-after-ray": crashes.after_ray,
    "s3-crashes": crashes.s3_crashes,
    "owners": owners.owners,
    "order": order.order,
    "workers": workers.workers,
    "nodes": workers.nodes,
    "full": full.full,
    "store": store.store,
    "diverge": diverge.diverge,
    "damage": damage.damage,
    "fuzz-configs": fuzz.configs,
    "fuzz-runs": fuzz.directories,
}


DEFAULT = [name for name in CASES if name != "crashes-after-ray"]  # which is a part of crashes


def do(name: str, place: Place) -> list[Row]:
    begun = time.monotonic()
    rows = CASES[name](place)
    for row in rows:
        row.seconds = round((time.monotonic() - begun) / len(rows), 1)
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| case | fault | as it must | notes |", "|---|---|---|---|"]
    lines += [f"| {row.case} | {row.fault} | {row.good:,} of {row.tried:,} | {row.notes} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME[=COUNT]", help=f"of {', '.join(CASES)}, and how often; all by default"
    )
    parser.add_argument("--seed", type=int, default=0, help="repeats a case (default 0)")
    parser.add_argument("--count", type=int, help="how often where that is not given; else each case's own default")
    parser.add_argument("--json", type=Path, help="append a line of JSON for each row to this file")
    asked = parser.parse_args()
    wanted = [name.partition("=")[::2] for name in asked.names or DEFAULT]
    if unknown := {name for name, _ in wanted} - set(CASES):
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        place = Place(Path(folder), asked.seed)
        for name, count in wanted:
            print(f"running {name} ...", file=sys.stderr, flush=True)
            place.count = int(count) if count else asked.count
            for row in do(name, place):
                rows.append(row)
                line = json.dumps({"seed": asked.seed, **vars(row)})
                print(line, file=sys.stderr, flush=True)
                if asked.json:
                    with asked.json.open("a") as out:
                        out.write(line + "\n")
    print(f"Done on {machine()}.\n\n{table(rows)}")
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
