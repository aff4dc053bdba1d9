"""The loop on the driver: packs to actors, until none is left; dead and hung actors are replaced.

What it holds grows with the actors, and by a line a member; no weights pass here.
"""

import math
import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
import torch

from kd_ray.ensemble import spec_of
from kd_ray.errors import DivergedError, KdRayError, ResourceError, TeacherFailedError
from kd_ray.estimators import KINDS
from kd_ray.groups import Member
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord
from kd_ray.scheduling import Ask, Footprint, PackQueue, patience
from kd_ray.session import Session, killed_after
from kd_ray.teachers.actor import TeacherActor, Work, recipe_of

TURN_SECONDS = 1.0
COUNT_SECONDS = 5.0  # between looks at the cluster's nodes
START_SECONDS = 1200.0  # as long as a cloud may take for a node
GET_SECONDS = 60.0
MAX_FAILED_STARTS = 3


@dataclass(kw_only=True, eq=False)
class Job:
    """A pack that an actor is at."""

    actor: Any
    pack: list[int]
    heard: float = field(default_factory=time.monotonic)
    progress: float = 0.0


@dataclass(kw_only=True)
class Driver:
    """Trains the packs of `queue` on actors of `ask`, `most` of them at once, or all that fit."""

    queue: PackQueue
    work: Work
    table: Any
    rows: int
    ask: Ask
    most: int | None
    session: Session
    report: Report
    landed: dict[int, list[FileRecord]] = field(default_factory=dict)
    """The files of each member that was trained."""

    def __post_init__(self) -> None:
        self._remote = ray.remote(
            num_cpus=self.ask.cpus, num_gpus=self.ask.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )(TeacherActor)
        self._hired, self._mark = 0, secrets.token_hex(3)  # names stay taken for a while after an actor's end
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._jobs: dict[Any, Job] = {}
        self._facts: dict[Any, dict[str, Any]] = {}
        self._nodes: list[dict[str, float]] = []
        self._counted = -math.inf
        self._moved = time.monotonic()
        self._failed_starts = 0
        self._slowest: dict[str, float] = {}
        self._score, self._said = 0.0, ""
        self._count = len(self.work.members)
        self._before = self._count - sum(len(pack) for pack in self.queue.waiting)

    def run(self) -> None:
        """Return when all packs are done, or more members failed than may. Raises ResourceError, KdRayError."""
        with killed_after([]) as alive:
            self._alive = alive
            while True:
                self._give_out()
                if not self._jobs and self.queue.is_over:
                    return
                self._hire()
                if ready := self._ready():
                    for each in ready:
                        self._hear(each)
                    self._tell()
                self._dismiss_the_silent()

    def _give_out(self) -> None:
        while self._idle:
            actor = self._idle[-1]
            pack = self.queue.take(partial(self._fitting, self._facts[actor]))
            if pack is None:
                return
            self._jobs[actor.train.remote(pack)] = Job(actor=self._idle.pop(), pack=pack)

    def _hire(self) -> None:
        """Start actors while there is room and work for them."""
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._nodes, self._counted = self.session.nodes(), time.monotonic()
        useful = len(self._jobs) + (0 if self.queue.is_over else len(self.queue.waiting))
        room = self.ask.slots(self._nodes)
        while len(self._alive) < min(room if self.most is None else self.most, room, useful):
            self._hired += 1
            name = f"teachers of {self.work.data.run.name}, actor {self._hired}, {self._mark}"
            actor = self._remote.options(name=name).remote(self.work, self.table)
            self._alive.append(actor)
            self._starting[actor.ready.remote()] = actor
            self._moved = time.monotonic()

    def _ready(self) -> list[Any]:
        """Wait a turn for news; return all there is."""
        waited = [*self._starting, *self._jobs]
        if not waited:
            time.sleep(TURN_SECONDS)
        elif ray.wait(waited, num_returns=1, timeout=TURN_SECONDS)[0]:
            self._moved = time.monotonic()
            return ray.wait(waited, num_returns=len(waited), timeout=0)[0]
        if not self._jobs and time.monotonic() - self._moved > START_SECONDS:
            raise ResourceError(
                f"teachers: no actor could start in {START_SECONDS:g} s: each asks for {self.ask}, and the cluster's "
                f"{len(self._nodes)} node(s) give it to none; others may hold them"
            )
        return []

    def _hear(self, ready: Any) -> None:
        if ready in self._starting:
            self._greet(ready, self._starting.pop(ready))
            return
        job = self._jobs[ready]
        try:
            self._take_in(job, ray.get(next(ready), timeout=GET_SECONDS))
        except StopIteration:
            del self._jobs[ready]
            self._idle.append(job.actor)
        except ray.exceptions.RayTaskError as error:
            if _is_out_of_memory(error.cause):
                self.queue.too_large(job.pack, self._too_large(job.pack))
                self._dismiss(ready)
                return
            self._blame(job, error)
            del self._jobs[ready]
            self._idle.append(job.actor)
        except ray.exceptions.OutOfMemoryError:
            self.queue.too_large(job.pack, self._too_large(job.pack))
            self._dismiss(ready)
        except ray.exceptions.RayError as error:
            self.queue.lost(job.pack, self._died(job.pack), with_node=self._is_gone(job.actor, error))
            self._dismiss(ready)

    def _greet(self, ready: Any, actor: Any) -> None:
        try:
            self._facts[actor] = ray.get(ready, timeout=GET_SECONDS)
        except ray.exceptions.RayError as error:
            self._alive.remove(actor)
            ray.kill(actor)
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise TeacherFailedError(
                    f"teachers: {self._failed_starts} actors in a row could not start: {_last_line(error)}"
                ) from error
            return
        self._failed_starts = 0
        self._idle.append(actor)

    def _take_in(self, job: Job, news: dict[str, Any]) -> None:
        now, kind = time.monotonic(), self._kind(job.pack)
        self._slowest[kind] = max(self._slowest.get(kind, 0.0), now - job.heard)
        job.heard, job.progress = now, news["progress"]
        for number, why in news.get("failed", ()):
            self.queue.fail(number, DivergedError(why))
        for member in news.get("landed", ()):
            self.queue.finished(member["member"])
            self.landed[member["member"]] = [FileRecord(**record) for record in member["files"]]
            self._score += member["score"]
            self._said = f", mean {member['metric']} {self._score / len(self.landed):.3f} on {member['rows']} rows"

    def _tell(self) -> None:
        done, failed = self._before + len(self.landed), len(self.queue.failed)
        under_way = self._before + sum(job.progress * len(job.pack) for job in self._jobs.values())
        note = f"{done} of {self._count} trained" + (f", {failed} failed" if failed else "") + self._said
        self.report(max(done + failed, under_way), self._count, note)

    def _blame(self, job: Job, error: Any) -> None:
        """A member's own fault counts against it; anything else ends the run."""
        cause = error.cause
        if isinstance(cause, KdRayError) and not isinstance(cause, DivergedError):
            raise cause from error
        own = cause if isinstance(cause, KdRayError) else self._failure(job.pack, f"training failed: {cause}")
        if len(job.pack) > 1:
            raise own from error
        self.queue.fail(job.pack[0], own)

    def _dismiss_the_silent(self) -> None:
        now = time.monotonic()
        for stream, job in list(self._jobs.items()):
            silent = now - job.heard
            if silent > self._patience(job):
                why = self._failure(
                    job.pack,
                    f"its actor gave no news for {silent:.0f} s, three times; raise teachers.deadline_seconds where "
                    "training may be so slow",
                )
                self.queue.lost(job.pack, why)
                self._dismiss(stream)

    def _patience(self, job: Job) -> float:
        given = self.work.teachers.deadline_seconds
        if given != "auto":
            return given
        member = self.work.members[job.pack[0]]
        work = None
        if member.group.kind == "mlp":
            work = float(self.rows) * len(job.pack) * spec_of(member.group.model, self.work.data).n_parameters
        slowest = self._slowest.get(self._kind(job.pack)) if member.group.kind not in KINDS else None
        return patience(work=work, slowest=slowest)

    def _dismiss(self, stream: Any) -> None:
        actor = self._jobs.pop(stream).actor
        self._alive.remove(actor)
        self._facts.pop(actor, None)
        ray.kill(actor)

    def _is_gone(self, actor: Any, error: Exception) -> bool:
        """Whether the actor died with its node."""
        if isinstance(error, ray.exceptions.NodeDiedError) or getattr(error, "preempted", False):
            return True
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return self._facts[actor]["node"] not in alive

    def _fitting(self, facts: dict[str, Any], pack: list[int]) -> int:
        footprint = self._footprint(self.work.members[pack[0]])
        if footprint is None or self.work.teachers.pack_size != "auto":
            return len(pack)
        return footprint.fits(host=self.ask.memory(self._nodes), device=facts["device"])

    def _footprint(self, member: Member) -> Footprint | None:
        """What a network's training takes; of other members nobody knows."""
        if member.group.kind != "mlp":
            return None
        spec = spec_of(member.group.model, self.work.data)
        return Footprint.of(
            rows=self.rows,
            features=self.work.data.n_features,
            layers=spec.layers,
            parameters=spec.n_parameters,
            batch_size=recipe_of(self.work.teachers, self.rows).batch_size,
        )

    def _kind(self, pack: list[int]) -> str:
        return self.work.members[pack[0]].group.model_dump_json()

    def _failure(self, pack: list[int], what: str) -> KdRayError:
        return TeacherFailedError(f"{', '.join(self.work.members[number].name for number in pack)}: {what}")

    def _died(self, pack: list[int]) -> KdRayError:
        return self._failure(
            pack,
            "its actor died three times while training it; it may need more memory than one actor has: give it more, "
            "or fewer actors a node, by teachers.resources",
        )

    def _too_large(self, pack: list[int]) -> KdRayError:
        of_one = self._footprint(self.work.members[pack[0]])
        needs = f" (about {of_one.alone / 1e9:.2f} GB)" if of_one else ""
        return self._failure(
            pack,
            f"training it alone takes more memory{needs} than one actor has: give it more, or fewer actors a node, by "
            "teachers.resources, or lower teachers.batch_size",
        )


def _is_out_of_memory(cause: Any) -> bool:
    return isinstance(cause, MemoryError | torch.OutOfMemoryError) or (
        isinstance(cause, RuntimeError) and "can't allocate memory" in str(cause)
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
