"""Who trains what next, on what, and when to give up: pure decisions, no Ray."""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

MAX_PACK = 256
MAX_LOSSES = 3


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one actor or worker of a stage asks the cluster for."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"] if self.cpus else []
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        return " and ".join(parts) or "nothing"

    def slots(self, nodes: list[dict[str, float]]) -> int:
        """How many of these fit at once on `nodes`, given each node's total resources."""
        asked = [(name, amount) for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount]
        if not asked:
            return len(nodes)
        fits = [min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked) for node in nodes]
        return sum(fits)


def packs(members: list[int], actors: int, pack_size: int | None = None) -> list[list[int]]:
    """Cut `members` into packs of `pack_size`, or into equal parts, one an actor, of at most MAX_PACK.

    The parts differ by one member at most, and no part is empty.
    """
    if not members:
        return []
    count = math.ceil(len(members) / (pack_size or MAX_PACK))
    if pack_size is None:
        count = max(count, min(actors, len(members)))
        bounds = [round(i * len(members) / count) for i in range(count + 1)]
    else:
        bounds = [min(i * pack_size, len(members)) for i in range(count + 1)]
    return [members[a:b] for a, b in pairwise(bounds)]


@dataclass
class PackQueue:
    """Packs waiting for an actor. A dead actor's unfinished members wait again, until one was lost too often."""

    waiting: deque[list[int]]
    done: set[int] = field(default_factory=set)
    losses: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, waiting: list[list[int]]) -> "PackQueue":
        return cls(deque(waiting))

    def take(self) -> list[int] | None:
        """Return the next pack, or None where none waits."""
        return self.waiting.popleft() if self.waiting else None

    def finished(self, member: int) -> None:
        self.done.add(member)

    def lost(self, pack: list[int]) -> list[int]:
        """Put a dead actor's unfinished members back; return those that were lost MAX_LOSSES times by now."""
        unfinished = [member for member in pack if member not in self.done]
        for member in unfinished:
            self.losses[member] = self.losses.get(member, 0) + 1
        if unfinished:
            self.waiting.appendleft(unfinished)
        return [member for member in unfinished if self.losses[member] >= MAX_LOSSES]
