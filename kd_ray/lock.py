"""One writer a run directory, on any storage that files can be put on.

Whoever wants to write creates .writer/<epoch>.json, the record of the owner; the highest epoch owns the run. Only one
process can create an epoch, and epochs only grow: an owner that is done marks its record as ended. Every few seconds a
thread of the owner's writes .writer/<epoch>.beat.

An owner on this machine is asked for by its process and that process's start: a dead one is taken over at once. Of any
other, what counts is whether its beat changes while the contender watches, by the contender's own monotonic clock, for
a whole lease: clocks of two machines need not agree. The beat's own time only says whether watching is worth it.

An owner that was stopped and goes on after it was taken over finds a higher epoch before its next commit, and stops.
Correctness does not hang on that alone: see commits.py.
"""

import contextlib
import dataclasses
import datetime
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_ray.commits import of_json, to_json
from kd_ray.errors import KdRayError, RunBusyError

if TYPE_CHECKING:
    from kd_ray.rundir import RunDir

FOLDER = ".writer"
LEASE_VARIABLE = "KD_RAY_LEASE_SECONDS"
LEASE_SECONDS = 60.0
BEATS = 6  # a lease
JOIN_SECONDS = 5.0
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who writes a run, or did: a process, by its number and start on one machine since that was booted."""

    host: str
    machine: str
    pid: int
    started: int
    since: str
    lease_seconds: float
    token: str
    ended: bool = False

    @classmethod
    def of_this_process(cls) -> "Owner":
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or 0,
            since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            lease_seconds=float(os.environ.get(LEASE_VARIABLE) or LEASE_SECONDS),
            token=secrets.token_hex(8),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether it has let go, or its process is known to be dead."""
        return self.ended or (self.machine == _machine() != "" and _started(self.pid) != self.started)


def _machine() -> str:
    """What process numbers are numbers of: this boot of this machine, this container; "" where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return when a process began, in ticks since the boot; None where there is none, or only its exit code."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@contextlib.contextmanager
def held(run: "RunDir", tell: Tell) -> Iterator[int]:
    """Own the run inside the block; yield the epoch. Raises RunBusyError where another process does, StorageError."""
    epoch, owner = _acquire(run, tell)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(run, epoch, owner, ended), daemon=True)
    heart.start()
    try:
        yield epoch
    finally:
        ended.set()
        heart.join(JOIN_SECONDS)
        # What cannot be said here, others find out: this process will be dead, or silent.
        with contextlib.suppress(KdRayError):
            if last(run)[0] == epoch:
                run.write_bytes(_record(epoch), to_json(dataclasses.asdict(dataclasses.replace(owner, ended=True))))
                run.remove(_pulse(epoch))


def check(run: "RunDir", epoch: int) -> None:
    """Raise RunBusyError where the run is no longer that of the owner who got `epoch`."""
    found, owner = last(run)
    if found != epoch:
        raise RunBusyError(
            f"{run}: was taken over by {owner or 'nobody: its lock was deleted'}; this process, which had been silent "
            "for too long, stops and commits nothing more"
        )


def owner_of(run: "RunDir") -> Owner | None:
    """Return who writes the run now, as far as can be told from here, or None."""
    owner = last(run)[1]
    return None if owner is None or owner.is_gone else owner


def silence(run: "RunDir") -> float:
    """Return for how many seconds nothing was heard of the owner, by its clock and ours."""
    epoch, owner = last(run)
    return 0.0 if owner is None else _silence(_heard(run, epoch), owner)


def last(run: "RunDir") -> tuple[int, Owner | None]:
    """Return the highest epoch and its owner; 0 where nobody ever wrote here, None where the record is unreadable."""
    epochs = _epochs(run)
    if not epochs:
        return 0, None
    path = _record(epochs[-1])
    try:
        return epochs[-1], Owner(**of_json(run.read_bytes(path), path))
    except (KdRayError, TypeError):
        return epochs[-1], None


def _epochs(run: "RunDir") -> list[int]:
    names = [path.rpartition("/")[2] for path in run.sizes(FOLDER)]
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())


def _acquire(run: "RunDir", tell: Tell) -> tuple[int, Owner]:
    while True:
        epoch, owner = last(run)
        if owner is not None and not owner.is_gone and not _is_silent(run, epoch, owner, tell):
            raise RunBusyError(f"{run}: is being written by {owner}; wait for it, or use another --name")
        mine = Owner.of_this_process()
        if not run.create(_record(epoch + 1), to_json(dataclasses.asdict(mine))):
            continue
        every = _epochs(run)
        if every[-1] > epoch + 1:  # this process slept while others came and went
            run.remove(_record(epoch + 1))
            continue
        for older in every[:-1]:
            run.remove(_record(older))
            run.remove(_pulse(older))
        return epoch + 1, mine


def _is_silent(run: "RunDir", epoch: int, owner: Owner, tell: Tell) -> bool:
    """Whether an owner gives no sign of life for a whole lease; told at once where it gave one lately."""
    heard = _heard(run, epoch)
    silent = _silence(heard, owner)
    if abs(silent) < owner.lease_seconds:
        return False
    tell(f"{run}: {owner} has been silent for {silent:.0f} s; waiting {owner.lease_seconds:.0f} s for a sign of it")
    until = time.monotonic() + owner.lease_seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, owner.lease_seconds / BEATS))
        if owner_of(run) != owner:
            return True  # it ended, died, or another took over: look again
        if _heard(run, epoch) != heard:
            return False
    return True


def _heard(run: "RunDir", epoch: int) -> bytes:
    """The last beat as it was written, empty where there was none yet."""
    try:
        return run.read_bytes(_pulse(epoch))
    except KdRayError:
        return b""


def _silence(heard: bytes, owner: Owner) -> float:
    since = datetime.datetime.fromisoformat(owner.since).timestamp()
    with contextlib.suppress(ValueError, IndexError):
        since = float(heard.split()[1])
    return time.time() - since


def _beat(run: "RunDir", epoch: int, owner: Owner, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(owner.lease_seconds / BEATS):
        count += 1
        with contextlib.suppress(KdRayError):  # a full disk, a store that does not answer: the next may come through
            if last(run)[0] != epoch:
                return
            run.write_bytes(_pulse(epoch), f"{count} {time.time():.3f}\n".encode())


def _record(epoch: int) -> str:
    return f"{FOLDER}/{epoch:010d}.json"


def _pulse(epoch: int) -> str:
    return f"{FOLDER}/{epoch:010d}.beat"
