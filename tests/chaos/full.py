"""A disk that is full, read-only or not ours any more, at each stage of a run, and then as it should be."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.harness import Place, Reference, Row, Started, complaints, resumed
from tests.chaos.workers import ORDER

SIZE_MIB = 64
BLOCK = 4096
FULL = "No space left on device"
# root may write anywhere: without these two capabilities modes count for it as well
MODES_COUNT = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")


def full(place: Place) -> list[Row]:
    reference = place.reference
    if not _can_mount(place):
        return [_limited(place, reference)]
    return [_no_room(place, reference), _closed(place, reference, "read-only"), _closed(place, reference, "permission")]


def _no_room(place: Place, reference: Reference) -> Row:
    """Leave room for what is done before a stage, and part of what the stage writes."""
    row, draw = Row("full", "disk full in each stage, then room again"), place.random("full")
    said: set[str] = set()
    used = _used_by_stage(reference.run)
    for i in range(place.times(3 * len(ORDER))):
        stage = ORDER[i % len(ORDER)]
        before = sum(used[name] for name in ORDER[: ORDER.index(stage)])
        room = before + draw.uniform(0.05, 0.95) * used[stage]
        with _small_disk(place) as disk:
            ballast = disk / "ballast"
            log_room = 8 * BLOCK
            free = os.statvfs(disk).f_bavail * BLOCK - int(room) - log_room
            with ballast.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(BLOCK, free // BLOCK * BLOCK))
            started = _start_beside(place, reference, disk)
            code = started.wait()
            problems = complaints(started.said())
            said |= {line.rpartition(": ")[2] for line in started.said().splitlines() if line.startswith("kd-ray:")}
            if code != 2 or FULL not in started.said():
                problems.append(f"ended with {code}: {started.said()[-300:]!r}")
            kept = _finished(disk / "default")
            ballast.unlink()
            problems += resumed(reference, disk)
            row.add(f"{i}: room for {room:,.0f} bytes, {stage}; {kept} stages were finished", problems)
    row.notes = "says: " + "; ".join(sorted(said))
    return row


def _closed(place: Place, reference: Reference, how: str) -> Row:
    row = Row("full", f"{how} at the beginning and from each stage on, then as before")
    stages = ("start", *ORDER)
    for i in range(place.times(len(stages))):
        stage = stages[i % len(stages)]
        with _small_disk(place) as disk:
            run = disk / "default"
            if stage == "start":
                _close(disk, run, how)
            started = _start_beside(place, reference, disk, prefix=MODES_COUNT if how == "permission" else ())
            if stage != "start":
                started.wait_until(0, f"{stage.replace('_', ' ')}: started")
                _close(disk, run, how)
            code = started.wait()
            problems = complaints(started.said())
            finished = code == 0 and stage == "report"
            if code != 2 and not finished:
                problems.append(f"ended with {code}: {started.said()[-300:]!r}")
            _open(disk, run, how)
            problems += resumed(reference, disk)
            row.add(f"{how} from {stage}", problems)
    return row


def _start_beside(place: Place, reference: Reference, disk: Path, prefix: tuple[str, ...] = ()) -> Started:
    """Start a run whose log does not lie on the small disk."""
    return Started.run(reference.config, f"{disk}", prefix=prefix)


def _close(disk: Path, run: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    else:
        for folder in [disk, *(path for path in run.rglob("*") if path.is_dir()), *([run] if run.exists() else [])]:
            folder.chmod(0o555)


def _open(disk: Path, run: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    else:
        for folder in [disk, *([run] if run.exists() else []), *(path for path in run.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)


def _limited(place: Place, reference: Reference) -> Row:
    """Where nothing may be mounted: a limit on the size of files, which ends each write of a larger one."""
    row = Row("full", "files may not grow beyond a limit (no mount here), then may")
    sizes = sorted({path.stat().st_size for path in reference.run.rglob("*") if path.is_file()})
    for size in sizes[:: max(1, len(sizes) // place.times(10))]:
        with place.scratch("limited") as storage:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))
            try:
                started = Started.run(reference.config, storage)
                code = started.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            problems = complaints(started.said())
            problems += [] if code == 2 else [f"ended with {code}: {started.said()[-300:]!r}"]
            row.add(f"files below {size} bytes", problems + resumed(reference, storage))
    return row


def _can_mount(place: Place) -> bool:
    try:
        with _small_disk(place):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def _small_disk(place: Place) -> Iterator[Path]:
    disk = place.new("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "chaos", disk], check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)


def _used_by_stage(run: Path) -> dict[str, int]:
    """Bytes that each stage takes on a disk of whole blocks."""
    folders = {
        "student": ("student", "baseline", "augmented_control"),
        "evaluation": ("evaluation.json", "evaluation.manifest.json"),
        "report": ("report.html", "report.manifest.json"),
    }
    found = {}
    for stage in ORDER:
        paths = [run / name for name in folders.get(stage, (stage,))]
        every = [path for one in paths for path in ([one] if one.is_file() else [one, *one.rglob("*")])]
        found[stage] = sum((path.stat().st_size // BLOCK + 1) * BLOCK for path in every if path.is_file())
    return found


def _finished(run: Path) -> int:
    return sum((run / name).exists() for name in _MANIFESTS)


_MANIFESTS = (
    *(f"{stage}/manifest.json" for stage in ("data", "teachers", "soft_targets", "student", "export")),
    "evaluation.manifest.json",
    "report.manifest.json",
)
