"""The transfer set: which rows the ensemble labels, and how a row is synthesized.

Synthesized rows are functions of (seed, row id) alone: every random number is a hash of its row's id and its
column, so any sharding over any number of actors gives the same rows, and nothing needs to be kept.

With S source rows, copy c of parent p has the id c * S + p; a row that is there is copy 0 of itself.
Axes: N rows, D features, P rows of the pool.
"""

from dataclasses import dataclass, field

import numpy as np

from kd_ray.neighbours import Neighbours
from kd_ray.tables import Rows

KINDS = ("noise", "mixup", "swap", "munge")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_PARTNER, _SHARE, _SWAP, _RADIUS, _ANGLE, _KIND, _CELL, FOLD = range(8)  # what a random number is for


@dataclass(frozen=True)
class Pool:
    """Training rows that partners and neighbours come from; features are numbers, indicators (0 or 1) or codes."""

    rows: Rows
    is_number_D: np.ndarray
    is_code_D: np.ndarray
    neighbours: Neighbours

    @classmethod
    def of(cls, rows: Rows, names_D: list[str], levels_D: list[int]) -> "Pool":
        """A feature called `<column>=missing` is an indicator; one of some levels is a code."""
        is_code_D = np.array(levels_D) > 0
        is_number_D = ~is_code_D & ~np.array([name.endswith("=missing") for name in names_D])
        return cls(rows, is_number_D, is_code_D, Neighbours(rows, is_code_D))


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How rows are made, with the names and meanings of `soft_targets.transfer`."""

    kind: str
    factor: int
    noise: float
    swap: float
    seed: int
    mix: dict[str, float] = field(default_factory=dict)

    @property
    def copies(self) -> int:
        """Copies of each training row in the transfer set, itself included."""
        return 1 if self.kind == "none" else 1 + self.factor

    @property
    def needs_neighbours(self) -> bool:
        return self.kind == "munge" or (self.kind == "mix" and self.mix.get("munge", 0) > 0)

    def kinds(self, row_id_N: np.ndarray) -> np.ndarray:
        """Return how each row is made; a mix draws it by the row's id."""
        if self.kind != "mix":
            return np.full(len(row_id_N), self.kind)
        names = [name for name in KINDS if self.mix.get(name)]
        past_K = np.cumsum([self.mix[name] for name in names])
        at_N = np.searchsorted(past_K / past_K[-1], self._uniform(row_id_N, _KIND), side="right")
        return np.array(names)[np.minimum(at_N, len(names) - 1)]

    def rows(self, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        """Return the synthesized rows' features, float32, for ids of copies >= 1 and their parents."""
        if self.kind != "mix":
            return self._make(self.kind, row_id_N, parents, pool)
        kind_N = self.kinds(row_id_N)
        made_ND = np.empty_like(parents.features_ND)
        for kind in np.unique(kind_N).tolist():
            at = np.flatnonzero(kind_N == kind)
            made_ND[at] = self._make(kind, row_id_N[at], parents.at(at), pool)
        return made_ND

    def _make(self, kind: str, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        make = {"noise": self._noise, "mixup": self._mixup, "swap": self._swap, "munge": self._munge}[kind]
        return make(row_id_N, parents, pool)

    def _noise(self, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        """Normal noise on numbers; a code is drawn from its column's own distribution now and then."""
        parent_ND = parents.features_ND
        noisy_ND = parent_ND + np.float32(self.noise) * self._normal(row_id_N, parent_ND.shape[1])
        if pool.is_number_D.all():
            return noisy_ND
        drawn_ND = (self._grid(row_id_N, parent_ND.shape[1], _CELL) * len(pool.rows.features_ND)).astype(np.int64)
        other_ND = np.take_along_axis(pool.rows.features_ND, drawn_ND, 0)
        resampled_ND = np.where(self._taken(row_id_N, parent_ND) & pool.is_code_D, other_ND, parent_ND)
        return np.where(pool.is_number_D, noisy_ND, resampled_ND)

    def _mixup(self, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        """A point between two rows; what is no number comes from either, the likelier the nearer."""
        parent_ND, partner_ND = parents.features_ND, self._partners(row_id_N, pool)
        # The parent is the nearer of the two: its label is then the row's best guess.
        share_N1 = (0.5 + 0.5 * self._uniform(row_id_N, _SHARE)).astype(np.float32)[:, None]
        between_ND = share_N1 * parent_ND + (1 - share_N1) * partner_ND
        if pool.is_number_D.all():
            return between_ND
        own_ND = self._grid(row_id_N, parent_ND.shape[1], _CELL) < share_N1
        return np.where(pool.is_number_D, between_ND, np.where(own_ND, parent_ND, partner_ND))

    def _swap(self, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        """Some columns of another row."""
        parent_ND = parents.features_ND
        return np.where(self._taken(row_id_N, parent_ND), self._partners(row_id_N, pool), parent_ND)

    def _munge(self, row_id_N: np.ndarray, parents: Rows, pool: Pool) -> np.ndarray:
        """Some columns of the nearest row, numbers spread around it by their distance.

        MUNGE (Bucilă, Caruana & Niculescu-Mizil 2006, "Model compression", section 2.3), with s = 1.
        """
        parent_ND = parents.features_ND
        near_ND = pool.rows.features_ND[pool.neighbours.of(parents)]
        spread_ND = np.abs(parent_ND - near_ND) * pool.is_number_D
        moved_ND = near_ND + spread_ND * self._normal(row_id_N, parent_ND.shape[1])
        return np.where(self._taken(row_id_N, parent_ND), moved_ND, parent_ND)

    def _partners(self, row_id_N: np.ndarray, pool: Pool) -> np.ndarray:
        pool_PD = pool.rows.features_ND
        return np.asarray(pool_PD[(self._uniform(row_id_N, _PARTNER) * len(pool_PD)).astype(np.int64)])

    def _taken(self, row_id_N: np.ndarray, parent_ND: np.ndarray) -> np.ndarray:
        """Which cells come from another row."""
        return self._grid(row_id_N, parent_ND.shape[1], _SWAP) < self.swap

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
        return hashed(row_id_N, self.seed, purpose, columns)


def hashed(row_id_N: np.ndarray, seed: int, purpose: int, columns: int = 1) -> np.ndarray:
    """Uniform numbers in [0, 1), one a row and column: splitmix64 (Steele, Lea & Flood 2014) of a counter."""
    with np.errstate(over="ignore"):
        row_N = _splitmix(row_id_N.astype(np.uint64) + _splitmix(np.uint64(seed)))
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
