"""Every byte range of every kind of file of a finished run damaged; what reads it must find it or not need it.

One bit flipped and one truncation in each range. `kd-ray verify` must name the file. Every other read must either end
with a message, or give what it gives of the undamaged run: then it did not believe the damage.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos import nursery, oracle
from tests.chaos.harness import Place, Reference, Row, complaints, knows

RANGES = 16
LATER = {
    "data": ("student", "baseline", "augmented_control", "evaluation.*", "export", "report.*"),
    "teachers": ("evaluation.*", "export", "report.*"),
    "soft_targets": ("student", "baseline", "augmented_control", "evaluation.*", "export", "report.*"),
    "student": ("evaluation.*", "export", "report.*"),
    "baseline": ("evaluation.*", "export", "report.*"),
    "augmented_control": ("evaluation.*", "export", "report.*"),
    "evaluation.json": ("export", "report.*"),
}
"""What is removed so that the next `kd-ray run` has to read a file of this folder."""

NEEDS_RAY, RAY_EACH = ("data", "teachers", "soft_targets"), 8  # one of so many truncations is made good by Ray


@dataclass
class Outcome:
    code: int
    said: str
    gave: str
    """A digest of what it made, without what differs from call to call."""


@dataclass
class Reads:
    """The commands that read a run, in forks."""

    place: Place
    reference: Reference
    rows: Path

    def all(self) -> dict[str, Callable[[Path], Outcome]]:
        return {
            "predict": lambda run: self._command(run, "predict", run, self.rows, "--out", "OUT"),
            "ensemble": lambda run: self._command(run, "predict", run, self.rows, "--out", "OUT", "--ensemble"),
            "load_student": lambda run: self._load(run),
            "report": lambda run: self._command(run, "report", run, made=run / "report.html"),
            "run": lambda run: self._again(run),  # the last: it may mend what is damaged
        }

    def _again(self, run: Path) -> Outcome:
        return self._command(run, "run", self.reference.config, "--storage", run.parent, "--json")

    def _command(self, run: Path, *words: Any, made: Path | None = None) -> Outcome:
        with self.place.scratch("read") as folder:
            out = folder / "out.parquet"
            words = tuple(out if word == "OUT" else word for word in words)
            ended = nursery.forked(nursery.cli(*words), log=folder / "log")
            made = made or (out if out.exists() else None)
            gave = "" if made is None or not made.exists() else _timeless(made.read_bytes(), run)
            if words[0] == "run":
                gave = "\n".join(line for line in ended.said.splitlines() if not re.match(r"[a-z ]+: ", line))
            return Outcome(ended.code, ended.said, gave)

    def _load(self, run: Path) -> Outcome:
        rows = self.rows

        def work() -> None:
            import pyarrow.csv

            import kd_ray
            from kd_ray.errors import KdRayError

            try:
                student = kd_ray.load_student(run)
                print(student.predict_proba(pyarrow.csv.read_csv(rows)).tolist())
            except KdRayError as error:
                print(f"kd-ray: {error}")
                raise SystemExit(error.exit_code) from None

        with self.place.scratch("read") as folder:
            ended = nursery.forked(work, log=folder / "log")
            return Outcome(ended.code, ended.said, ended.said)


def _timeless(content: bytes, run: Path) -> str:
    content = content.replace(str(run.parent).encode(), b"")
    return hashlib.sha256(re.sub(rb"\d\d:\d\d(:\d\d)?|\d+\.\d+ s", b"", content)).hexdigest()


def damage(place: Place) -> list[Row]:
    reference = Reference.made(place, export={"int8": True})
    nursery.preload()
    reads = Reads(place, reference, _rows(place))
    expected = {name: read(_copy(place, reference)) for name, read in reads.all().items()}
    if failed := {name: one.said for name, one in expected.items() if one.code}:
        raise RuntimeError(f"reads of the undamaged run failed: {failed}")
    verified = Row("damage", "found by kd-ray verify" if knows("verify") else "kd-ray verify (there is none yet)")
    read_row = Row("damage", "not believed by run, predict, load_student, report")
    redone = Row("damage", "not believed by the stages that read it")
    kinds = _kinds(reference.run)
    found: Counter[str] = Counter()
    for kind, relative in kinds.items():
        for what, hurt in _damages(place, reference.run / relative, place.times(RANGES)):
            for row, check in ((verified, _verify), (read_row, _read), (redone, _redo)):
                with _damaged(place, reference, relative, hurt) as run:
                    problems = check(reads, run, relative, expected, found)
                    if problems is not None:
                        row.add(f"{kind} {what}", problems)
    for row in (verified, read_row, redone):
        row.notes = f"{len(kinds)} kinds of files"
    read_row.notes += "; found " + ", ".join(f"by {name} {n}" for name, n in found.items())
    return [verified, read_row, redone]


def _kinds(run: Path) -> dict[str, str]:
    """One file of each kind: digits in names do not make a kind."""
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    names = [name for name in names if not oracle.NOT_COMPARED.fullmatch(name)]
    return {re.sub(r"\d+", "#", name): name for name in reversed(names)}


def _damages(place: Place, path: Path, ranges: int) -> Iterator[tuple[str, bytes]]:
    content = path.read_bytes()
    bounds = [round(i * len(content) / ranges) for i in range(ranges + 1)]
    draw = place.random("damage", path.name)
    for first, past in pairwise(bounds):
        if first == past:
            continue
        at, bit = draw.randrange(first, past), draw.randrange(8)
        yield f"bit {bit} of byte {at} flipped", content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        at = draw.randrange(first, past)
        yield f"cut at byte {at}", content[:at]


@contextmanager
def _damaged(place: Place, reference: Reference, relative: str, content: bytes) -> Iterator[Path]:
    run = _copy(place, reference)
    (run / relative).unlink()
    (run / relative).write_bytes(content)
    try:
        yield run
    finally:
        shutil.rmtree(run.parent)


def _copy(place: Place, reference: Reference) -> Path:
    """A copy by hard links: what is written anew is renamed into place, so that no copy changes another."""
    storage = place.new("damaged")
    shutil.copytree(reference.run, storage / "default", copy_function=os.link)
    return storage / "default"


def _rows(place: Place) -> Path:
    path = place.folder / "rows.csv"
    draw = place.random("rows")
    lines = [",".join(f"{draw.gauss(0, 1):.6f}" for _ in range(6)) for _ in range(50)]
    path.write_text("\n".join([",".join(f"x{d}" for d in range(6)), *lines]) + "\n")
    return path


Expected = dict[str, Outcome]


def _verify(reads: Reads, run: Path, relative: str, expected: Expected, found: Counter[str]) -> list[str] | None:
    if not knows("verify"):
        return None
    with reads.place.scratch("verify") as folder:
        ended = nursery.forked(nursery.cli("verify", run), log=folder / "log")
    if ended.code == 0:
        return ["verify says it is whole"]
    named = [] if relative in ended.said else [f"verify does not name {relative}: {ended.said[-200:]!r}"]
    return named + complaints(ended.said)


def _read(reads: Reads, run: Path, relative: str, expected: Expected, found: Counter[str]) -> list[str]:
    problems = []
    for name, read in reads.all().items():
        if name == "run" and relative.split("/")[0] in NEEDS_RAY and (run / relative).stat().st_size % RAY_EACH:
            continue
        outcome = read(run)
        problems += [f"{name}: {problem}" for problem in complaints(outcome.said)]
        if outcome.code in (1, 2) and "kd-ray: " in outcome.said:
            found[name] += 1
        elif outcome.code:
            problems.append(f"{name} ended with {outcome.code}: {outcome.said[-300:]!r}")
        elif outcome.gave != expected[name].gave:
            problems.append(f"{name} believed it")
    return problems


def _redo(reads: Reads, run: Path, relative: str, expected: Expected, found: Counter[str]) -> list[str] | None:
    later = LATER.get(relative.split("/")[0])
    if later is None or relative.endswith("history.parquet"):
        return None
    for pattern in later:
        for path in run.glob(pattern):
            if path != run / relative and run / relative not in path.rglob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = reads.all()["run"](run)
    problems = complaints(outcome.said)
    if outcome.code in (1, 2) and "kd-ray: " in outcome.said:
        return problems
    if outcome.code:
        return [*problems, f"ended with {outcome.code}: {outcome.said[-300:]!r}"]
    unread = {relative}
    differing = [line for line in reads.reference.differences(run) if line.split()[0] not in unread]
    return problems + [f"believed: {line}" for line in differing]
