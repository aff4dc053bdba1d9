"""Who trains what next, on what, and when to give up: pure decisions, no Ray."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from kd_ray.errors import DivergedError, KdRayError, TeacherFailedError

MAX_PACK = 256
MIN_PACK = 16  # cutting a long queue finer costs more in steps than a shorter tail saves
MAX_LOSSES = 3
NODE_LOSS = 0.25  # of a loss: a node that goes is seldom the fault of the members on it
SECONDS_A_ROW = 1e-8  # and a weight of a member, at the slowest: a hundred times what a core was seen to take
EPOCH_SECONDS = 300.0
DAY_SECONDS = 86_400.0
SLOWER = 20  # times an epoch may be slower than the slowest so far
USABLE = 0.8  # of a memory
CHUNK = 1024  # steps whose batches are drawn at once


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one actor or worker of a stage asks the cluster for."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"] if self.cpus else []
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        return " and ".join(parts) or "nothing"

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray names it."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def slots(self, nodes: list[dict[str, float]]) -> int:
        """How many of these fit at once on `nodes`, given each node's total resources."""
        if not self.bundle:
            return len(nodes)
        return sum(
            min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in self.bundle.items())
            for node in nodes
        )

    def memory(self, nodes: list[dict[str, float]]) -> float:
        """Bytes that each of these has where a node is full of them, on the node where that is least."""
        shares = [node["memory"] / self.slots([node]) for node in nodes if "memory" in node and self.slots([node])]
        return min(shares, default=math.inf)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that training takes: of the rows, once a pack, and of each member, on the device and beside it."""

    rows: float
    device: float
    host: float

    @classmethod
    def of(
        cls, *, rows: int, features: int, layers: list[tuple[int, int]], parameters: int, batch_size: int
    ) -> "Footprint":
        """A weight has a gradient and Adam's two moments; a layer's output its mask and its gradient."""
        units = features + layers[0][0] + 3 * sum(units_out for _, units_out in layers)
        steps = min(CHUNK, -(-rows // batch_size))
        return cls(
            rows=rows * (4 * features + 8),
            device=16 * parameters + batch_size * (4 * units + 8 * steps),
            host=24 * rows,  # its own positions in the table, shuffled and cut
        )

    @property
    def alone(self) -> float:
        """Bytes that one member takes."""
        return self.rows + self.device + self.host

    def fits(self, *, host: float, device: float | None = None) -> int:
        """How many members fit in a device's memory and its host's, at least one; without a device all is the host's.

        More may be asked of the memory than is there: the pack is halved then.
        """
        if device is None:
            room = (USABLE * host - 2 * self.rows) / (self.device + self.host)
        else:
            room = min((USABLE * device - self.rows) / self.device, (USABLE * host - self.rows) / self.host)
        return MAX_PACK if room >= MAX_PACK else max(1, math.floor(room))


def packs(members: list[int], actors: int, pack_size: int | None = None) -> list[list[int]]:
    """Cut `members` into packs, none empty, of at most MAX_PACK, or of `pack_size`.

    Few members are cut into equal parts, one an actor. Of many, half go in equal parts, then half of the rest, and so
    on: packs grow smaller, so that slow actors and late ones hold up a short tail ("factoring", Hummel, Schonberg &
    Flynn 1992).
    """
    left, sizes = len(members), []
    if pack_size is not None:
        sizes = [pack_size] * (left // pack_size) + ([left % pack_size] if left % pack_size else [])
        left = 0
    while left > 2 * MIN_PACK * actors:
        size = min(MAX_PACK, math.ceil(left / (2 * actors)))
        sizes += [size] * actors
        left -= size * actors
    parts = min(actors, left)
    bounds = [round(i * left / parts) for i in range(parts + 1)] if parts else []
    sizes += [b - a for a, b in pairwise(bounds)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [members[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def useful_actors(alike: list[int]) -> int:
    """How many actors have something to do at once, where so many members can share a pack each time."""
    return sum(math.ceil(count / MIN_PACK) for count in alike)


def patience(*, work: float | None, slowest: float | None) -> float:
    """Seconds without news after which an actor is taken for hung.

    `work` is rows times weights of an epoch, None where nobody knows how long it takes; `slowest` is the longest wait
    for news so far from members alike.
    """
    if work is None and slowest is None:
        return DAY_SECONDS
    return max(EPOCH_SECONDS, SECONDS_A_ROW * (work or 0.0), SLOWER * (slowest or 0.0))


@dataclass
class PackQueue:
    """Packs waiting for an actor, and what became of members.

    A dead actor's unfinished members wait again. Where their actors keep dying, the pack is halved, so that one that
    kills its actor is found, and fails when it was lost MAX_LOSSES times and alone. More failures than `allowed` end
    the giving out.
    """

    waiting: deque[list[int]]
    allowed: int = 0
    done: set[int] = field(default_factory=set)
    failed: dict[int, KdRayError] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, waiting: list[list[int]], allowed: int = 0) -> "PackQueue":
        return cls(deque(waiting), allowed)

    @property
    def is_over(self) -> bool:
        """Whether nothing is given out any more."""
        return not self.waiting or len(self.failed) > self.allowed

    def take(self, at_most: Callable[[list[int]], int] = len) -> list[int] | None:
        """Return the next pack, None where there is none; of one that is too large, what `at_most` allows."""
        if self.is_over:
            return None
        pack = self.waiting.popleft()
        fits = max(1, at_most(pack))
        if pack[fits:]:
            self.waiting.appendleft(pack[fits:])
        return pack[:fits]

    def finished(self, member: int) -> None:
        self.done.add(member)

    def fail(self, member: int, error: KdRayError) -> None:
        self.failed[member] = error

    def unfinished(self, pack: list[int]) -> list[int]:
        return [member for member in pack if member not in self.done and member not in self.failed]

    def lost(self, pack: list[int], why: KdRayError, *, with_node: bool = False) -> None:
        """Put a dead actor's unfinished members back; one alone that was lost too often fails of `why`."""
        left = self.unfinished(pack)
        for member in left:
            self.losses[member] = self.losses.get(member, 0.0) + (NODE_LOSS if with_node else 1.0)
        most = max((self.losses[member] for member in left), default=0.0)
        if len(left) == 1 and most >= MAX_LOSSES:
            self.fail(left[0], why)
        else:
            self._again(left, in_halves=most >= (MAX_LOSSES if with_node else 2))

    def too_large(self, pack: list[int], why: KdRayError) -> None:
        """Put a pack that ran out of memory back in halves; one member that did fails of `why`."""
        left = self.unfinished(pack)
        if len(left) == 1:
            self.fail(left[0], why)
        else:
            self._again(left, in_halves=True)

    def _again(self, left: list[int], *, in_halves: bool) -> None:
        cut = math.ceil(len(left) / 2) if in_halves else len(left)
        self.waiting.extendleft(part for part in (left[cut:], left[:cut]) if part)


NAMED = 10


def verdict(failed: dict[int, KdRayError], allowed: int, count: int) -> KdRayError | None:
    """Return what ends a run of `count` members: None unless more failed than `allowed`, or none is left."""
    if len(failed) <= allowed and len(failed) < count:
        return None
    numbers = sorted(failed)
    lines = [str(failed[number]) for number in numbers[:NAMED]]
    if numbers[NAMED:]:
        lines.append(f"and teachers {', '.join(map(str, numbers[NAMED:]))}")
    if len(failed) > 1 or allowed:
        lines.insert(0, f"{len(failed)} of {count} teachers failed, teachers.allow_failures is {allowed}:")
    kind = DivergedError if all(isinstance(error, DivergedError) for error in failed.values()) else TeacherFailedError
    return kind("\n".join(lines))
