"""What a member learns from next: its own random streams, its batches, and a process's share of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Streams:
    """A member's own random streams, derived from the run's seed and the member's."""

    weights: np.random.Generator
    shuffle: np.random.Generator
    dropout: np.random.Generator

    @classmethod
    def of(cls, *seed: int, rank: int = 0) -> "Streams":
        weights, shuffle, dropout = np.random.SeedSequence(seed).spawn(3)
        return cls(
            np.random.default_rng(weights),
            np.random.default_rng(shuffle),
            np.random.Generator(np.random.SFC64(dropout.spawn(rank + 1)[rank])),
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """This process's part of every batch in data-parallel training, and how gradients are summed.

    `gather` returns what each process gives, in order of their ranks.
    """

    rank: int = 0
    world: int = 1
    sum_: Callable[[torch.Tensor], None] = lambda _: None
    gather: Callable[[Any], list[Any]] = lambda one: [one]

    def of_batch(self, batch_size: int) -> slice:
        each = -(-batch_size // self.world)
        return slice(self.rank * each, (self.rank + 1) * each)


class Feed:
    """Batches of `rows` for ever, a fresh shuffle each pass; a pass's last batch is what remains, then -1s."""

    def __init__(self, rows: np.ndarray, batch_size: int, shuffle: np.random.Generator) -> None:
        self._rows, self._shuffle, self._before_pass = rows, shuffle, shuffle.bit_generator.state
        self._left_SB = np.empty((0, min(batch_size, len(rows))), np.int64)

    def take(self, steps: int) -> np.ndarray:
        """Return the next batches, shape [steps, B]."""
        parts = [self._left_SB]
        have = len(self._left_SB)
        while have < steps:
            parts.append(self._pass())
            have += len(parts[-1])
        batch_SB = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._left_SB = batch_SB[steps:]
        return batch_SB[:steps]

    @property
    def state(self) -> dict[str, Any]:
        """How many batches of the last pass are left, and the stream before that pass; JSON."""
        return {"left": len(self._left_SB), "stream": self._before_pass}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on as a feed of the same rows whose `state` this was, after at least one batch."""
        self._shuffle.bit_generator.state = state["stream"]
        last_SB = self._pass()
        self._left_SB = last_SB[len(last_SB) - state["left"] :]

    def _pass(self) -> np.ndarray:
        self._before_pass = self._shuffle.bit_generator.state
        width = self._left_SB.shape[1]
        padded = np.full(-(-len(self._rows) // width) * width, -1, np.int64)
        padded[: len(self._rows)] = self._rows[self._shuffle.permutation(len(self._rows))]
        return padded.reshape(-1, width)
