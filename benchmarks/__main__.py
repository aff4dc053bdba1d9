"""Measure kd-ray against plain alternatives on the same cores; print one table at the end."""

import argparse
import contextlib
import inspect
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import labelling, members, memory, recovery, speed, students
from benchmarks.harness import Row, keep_ray_in, machine, say, table

BENCHMARKS: dict[str, Callable[[Path, int], list[Row]]] = {
    "article": recovery.article,
    "recovered": recovery.recovered,
    "teachers": speed.teachers,
    "whole": speed.whole,
    "labelling": labelling.labelling,
    "memory": memory.memory,
    "students": students.students,
    "members": members.members,
}


def main() -> int:
    arguments = _arguments()
    names = list(dict.fromkeys(arguments.names)) or list(BENCHMARKS)
    with contextlib.ExitStack() as stack:
        # Opened first: hours of measuring should not end at a mistyped folder.
        out = stack.enter_context(open(arguments.out, "w", encoding="utf-8")) if arguments.out else None
        rows, failed = _run(names, arguments.runs)
        text = f"Measured on {machine()}; {arguments.runs} run(s) of what is timed.\n\n{table(rows)}"
        print(text)
        if out:
            print(text, file=out)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    about = "\n".join(f"  {name:<10} {_about(name)}" for name in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark of those below; all by default")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="repetitions of what is timed (default 3)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table to this file, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if arguments.runs < 1:
        parser.error(f"--runs must be 1 or more, got {arguments.runs}")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"--out: the folder of {arguments.out} must exist")
    return arguments


def _about(name: str) -> str:
    """What a benchmark compares: the first line of its docstring."""
    return (inspect.getdoc(BENCHMARKS[name]) or "").partition("\n")[0]


def _run(names: list[str], runs: int) -> tuple[list[Row], list[str]]:
    """Run benchmarks one after another; one that fails costs its own rows alone."""
    rows: list[Row] = []
    failed: list[str] = []
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] {name}: {_about(name)}")
        try:
            with tempfile.TemporaryDirectory(prefix="kdb-") as folder, keep_ray_in(folder):
                found = BENCHMARKS[name](Path(folder), runs)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            found = [Row(what=name, ours="", against="", figure="failed", must="", aim="")]
        for row in found:
            say(f"  {row.what}: {row.ours} | {row.against} | {row.figure}")
        rows += found
    return rows, failed


if __name__ == "__main__":
    sys.exit(main())
