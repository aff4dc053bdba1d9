"""The transfer set: which rows the ensemble labels, and how a row is synthesized.

Synthesized rows are functions of (seed, row id) alone: every random number is a hash of its row's id and its
column, so any sharding over any number of actors gives the same rows, and nothing needs to be kept.

With S source rows, copy c of parent p has the id c * S + p; a training row is copy 0 of itself.
Axes: N rows, D features.
"""

from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_PARTNER, _SHARE, _SWAP, _RADIUS, _ANGLE = range(5)  # what a random number is for


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How rows are made; `pool_ND` holds the training rows that mixup and swap draw partners from."""

    kind: str
    factor: int
    noise: float
    swap: float
    seed: int

    @property
    def copies(self) -> int:
        """Copies of each training row in the transfer set, itself included."""
        return 1 if self.kind == "none" else 1 + self.factor

    @property
    def needs_pool(self) -> bool:
        return self.kind in ("mixup", "swap")

    def rows(self, row_id_N: np.ndarray, parent_ND: np.ndarray, pool_ND: np.ndarray | None = None) -> np.ndarray:
        """Return the synthesized rows' features, float32, for ids of copies >= 1 and their parents' features."""
        if self.kind == "noise":
            return parent_ND + np.float32(self.noise) * self._normal(row_id_N, parent_ND.shape[1])
        assert pool_ND is not None
        partner_ND = pool_ND[(self._uniform(row_id_N, _PARTNER) * len(pool_ND)).astype(np.int64)]
        if self.kind == "mixup":
            # The parent is the nearer of the two: its label is then the row's best guess.
            share_N1 = (0.5 + 0.5 * self._uniform(row_id_N, _SHARE)).astype(np.float32)[:, None]
            return share_N1 * parent_ND + (1 - share_N1) * partner_ND
        taken_ND = self._grid(row_id_N, parent_ND.shape[1], _SWAP) < self.swap
        return np.where(taken_ND, partner_ND, parent_ND)

    def _uniform(self, row_id_N: np.ndarray, purpose: int) -> np.ndarray:
        """One number in [0, 1) a row."""
        return self._grid(row_id_N, 1, purpose)[:, 0]

    def _normal(self, row_id_N: np.ndarray, columns: int) -> np.ndarray:
        """Standard normal numbers, float32, by Box & Muller 1958: one pair of hashes gives two columns."""
        half = -(-columns // 2)
        radius = np.sqrt(-2 * np.log1p(-self._grid(row_id_N, half, _RADIUS).astype(np.float32)))
        angle = (2 * np.pi * self._grid(row_id_N, half, _ANGLE)).astype(np.float32)
        return np.hstack([radius * np.cos(angle), radius * np.sin(angle)])[:, :columns]

    def _grid(self, row_id_N: np.ndarray, columns: int, purpose: int) -> np.ndarray:
        """Uniform numbers in [0, 1), one a row and column: splitmix64 (Steele, Lea & Flood 2014) of a counter."""
        with np.errstate(over="ignore"):
            row_N = _splitmix(row_id_N.astype(np.uint64) + _splitmix(np.uint64(self.seed)))
            column_D = np.arange(columns, dtype=np.uint64) * np.uint64(8) + np.uint64(purpose)
            bits_ND = _splitmix(row_N[:, None] + column_D * _GOLDEN)
        return (bits_ND >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _splitmix(counter: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed = np.asarray(counter + _GOLDEN)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A run of the transfer set: positions start to stop - 1 in the order copy by copy, parent by parent."""

    number: int
    start: int
    stop: int

    @property
    def path(self) -> str:
        return f"soft_targets/{self.number:05d}.parquet"

    def spans(self, n_parents: int) -> list[tuple[int, int, int]]:
        """Cut at copies: (copy, first parent position, past the last)."""
        spans, at = [], self.start
        while at < self.stop:
            copy, first = divmod(at, n_parents)
            past = min(n_parents, first + self.stop - at)
            spans.append((copy, first, past))
            at += past - first
        return spans


def shards(total: int, rows_per_file: int) -> list[Shard]:
    """Cut `total` rows into shards of `rows_per_file`."""
    starts = range(0, total, rows_per_file)
    return [Shard(number=i, start=start, stop=min(start + rows_per_file, total)) for i, start in enumerate(starts)]
