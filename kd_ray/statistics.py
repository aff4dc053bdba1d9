"""Statistics of training rows that merge: taken of any parts in any order, they say the same of the whole.

Moments are equal up to floating-point rounding, all else is equal to the bit. Memory is bounded: at most some 2.4 MB a
numeric column and 1,000,000 texts a categorical one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray import cells
from kd_ray.errors import DataError
from kd_ray.schema import Column

EXACT_VALUES = 100_000
BINS = 32_768
MAX_TEXTS = 1_000_000
ROWS_AT_ONCE = 131_072


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and sum of squared distances from it."""

    count: int
    mean: float
    squares: float

    @classmethod
    def of(cls, values_N: np.ndarray) -> "Moments":
        if not len(values_N):
            return cls(count=0, mean=0.0, squares=0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values_N.mean())
            return cls(count=len(values_N), mean=mean, squares=float(np.square(values_N - mean).sum()))

    def merge(self, other: "Moments") -> "Moments":
        """Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            squares=self.squares + other.squares + apart * apart * (self.count * (other.count / count)),
        )


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The distribution of numbers: bins in order, each with its least and greatest number and its count.

    Up to 100,000 distinct numbers each is a bin, and all is exact. Beyond, neighbouring bins are joined in pairs until
    32,768 are left, as in UDDSketch (Epicoco, Melle, Cafaro & Pulimeno 2020); a bin holds the numbers that agree in
    all but the last `shift` bits of their floating-point form, so its width is relative to its numbers. How far bins
    are joined depends on the numbers alone, so the sketch of a whole does not depend on the parts it was merged of.
    """

    low_Q: np.ndarray
    high_Q: np.ndarray
    count_Q: np.ndarray
    shift: int

    @classmethod
    def of(cls, values_N: np.ndarray, times: int = 1) -> "Sketch":
        """Sketch finite float64 numbers, each counted `times` times."""
        ordered_N = np.sort(values_N) + 0.0  # one zero, not two
        return cls._of_bins(ordered_N, ordered_N, np.full(len(ordered_N), times, np.int64), 0)

    def merge(self, other: "Sketch") -> "Sketch":
        low_Q = np.concatenate([self.low_Q, other.low_Q])
        order = np.argsort(low_Q, kind="stable")
        high_Q = np.concatenate([self.high_Q, other.high_Q])[order]
        count_Q = np.concatenate([self.count_Q, other.count_Q])[order]
        return self._of_bins(low_Q[order], high_Q, count_Q, max(self.shift, other.shift))

    @classmethod
    def _of_bins(cls, low_Q: np.ndarray, high_Q: np.ndarray, count_Q: np.ndarray, shift: int) -> "Sketch":
        if not len(low_Q):
            return cls(low_Q=low_Q, high_Q=high_Q, count_Q=count_Q, shift=shift)
        key_Q = _ordered_bits(low_Q)
        apart_Q = (key_Q[1:] ^ key_Q[:-1]).view(np.uint64)
        bins = 1 + np.count_nonzero(apart_Q >> np.uint64(shift))
        if bins > (BINS if shift else EXACT_VALUES):
            # Neighbours fall into one bin once the shift drops the highest bit they differ in.
            shift = int(np.partition(apart_Q, -BINS)[-BINS]).bit_length()
        is_last_Q = np.append((apart_Q >> np.uint64(shift)) != 0, True)
        last = np.flatnonzero(is_last_Q)
        first = np.append(0, last[:-1] + 1)
        # A bin's greatest number need not be its last one's: ties of `low` come in the order of merging.
        return cls(
            low_Q=low_Q[first],
            high_Q=np.maximum.reduceat(high_Q, first),
            count_Q=np.diff(np.cumsum(count_Q)[last], prepend=0),
            shift=shift,
        )

    @property
    def past_Q(self) -> np.ndarray:
        """How many numbers lie in a bin or before it."""
        return np.cumsum(self.count_Q)

    def median(self) -> float:
        count = int(self.count_Q.sum())
        return self.ranked((count - 1) // 2) / 2 + self.ranked(count // 2) / 2

    def ranked(self, rank: int) -> float:
        """Return the number with `rank` numbers before it; within a bin numbers are taken as evenly spread."""
        at = int(np.searchsorted(self.past_Q, rank, side="right"))
        before = rank - int(self.past_Q[at] - self.count_Q[at])
        low, high = float(self.low_Q[at]), float(self.high_Q[at])
        return low if low == high else low + (high - low) * (before / max(1, int(self.count_Q[at]) - 1))


def _ordered_bits(values_N: np.ndarray) -> np.ndarray:
    """Return int64 in the order of the float64 numbers."""
    bits_N = np.ascontiguousarray(values_N).view(np.int64)
    return np.where(bits_N < 0, bits_N ^ np.int64(2**63 - 1), bits_N)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Of a numeric column, or of a date's days since 1970; `has_time` where a date had an hour."""

    missing: int
    moments: Moments
    sketch: Sketch
    has_time: bool = False

    @classmethod
    def of(cls, values_N: np.ndarray, has_time: bool = False) -> "Numbers":
        present_N = values_N[~np.isnan(values_N)]
        missing = len(values_N) - len(present_N)
        return cls(missing=missing, moments=Moments.of(present_N), sketch=Sketch.of(present_N), has_time=has_time)

    @property
    def count(self) -> int:
        return self.moments.count

    def merge(self, other: "Numbers") -> "Numbers":
        return Numbers(
            missing=self.missing + other.missing,
            moments=self.moments.merge(other.moments),
            sketch=self.sketch.merge(other.sketch),
            has_time=self.has_time or other.has_time,
        )

    def filled(self, value: float) -> "Numbers":
        """Return the statistics of the column with its missing cells filled."""
        if not self.missing:
            return self
        moments = self.moments.merge(Moments(count=self.missing, mean=value, squares=0.0))
        sketch = self.sketch.merge(Sketch.of(np.array([value]), times=self.missing))
        return replace(self, missing=0, moments=moments, sketch=sketch)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How often each text of a categorical column comes.

    Beyond 1,000,000 texts the rarest go: the count of the text after the last kept one is taken from all, and added to
    `taken` (Misra & Gries 1982; that it merges: Agarwal et al. 2012, "Mergeable summaries"). A true count is then at
    most `taken` above the one held, which is at most a millionth of the rows.
    """

    missing: int
    text_L: pa.Array
    count_L: np.ndarray
    taken: int = 0

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Texts":
        counted = pc.value_counts(column.drop_null())
        texts_L, count_L = counted.field("values"), counted.field("counts").to_numpy()
        return cls(missing=column.null_count, text_L=texts_L, count_L=count_L)._pruned()

    @property
    def count(self) -> int:
        """Rows that are not missing, less those of pruned texts."""
        return int(self.count_L.sum())

    def merge(self, other: "Texts") -> "Texts":
        text_L = pa.chunked_array([self.text_L, other.text_L], pa.large_string())
        both = pa.table({"text": text_L, "count": np.concatenate([self.count_L, other.count_L])})
        summed = both.group_by("text").aggregate([("count", "sum")]).combine_chunks()
        return Texts(
            missing=self.missing + other.missing,
            text_L=summed["text"].combine_chunks(),
            count_L=summed["count_sum"].to_numpy(),
            taken=self.taken + other.taken,
        )._pruned()

    def _pruned(self) -> "Texts":
        if len(self.count_L) <= MAX_TEXTS:
            return self
        next_after_last = -(MAX_TEXTS + 1)
        taken = int(np.partition(self.count_L, next_after_last)[next_after_last])
        kept = self.count_L > taken
        return replace(
            self,
            text_L=self.text_L.filter(pa.array(kept)),
            count_L=self.count_L[kept] - taken,
            taken=self.taken + taken,
        )

    def most_frequent(self, *, min_rows: int, max_levels: int) -> list[str]:
        """Return the texts of at least `min_rows` rows, by count and then by code points, `max_levels` at most."""
        enough = self.count_L + self.taken >= min_rows
        counted = pa.table({"text": self.text_L, "count": self.count_L}).filter(pa.array(enough))
        ranked = counted.sort_by([("count", "descending"), ("text", "ascending")])
        return list(ranked["text"].slice(0, max_levels).to_pylist())


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Partial statistics of training rows: small, picklable, mergeable in any order.

    `held` says of each column in a word what its cells hold.
    """

    rows: int
    held: dict[str, str]
    columns: dict[str, Numbers | Texts]

    @classmethod
    def of(cls, columns: Sequence[Column], table: pa.Table) -> "Statistics":
        """Take the statistics of a table's rows. Raises DataError naming the column that cannot be read."""
        held: dict[str, str] = {}
        found: dict[str, Numbers | Texts] = {}
        for column in columns:
            column_cells = cells.take(table, column)
            held[column.name] = cells.held(column, column_cells.type)
            found[column.name] = _of_column(column, column_cells)
        return cls(rows=table.num_rows, held=held, columns=found)

    @classmethod
    def of_all(cls, columns: Sequence[Column], tables: Iterable[pa.Table]) -> "Statistics":
        """Take the statistics of tables as they come, one after the other. Raises DataError."""
        nothing = cls.of(columns, pa.table({column.name: pa.nulls(0) for column in columns}))
        return reduce(cls.merge, (cls.of(columns, table) for table in _put_together(tables)), nothing)

    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both parts' rows. Raises DataError where a column holds another type in each."""
        held = {name: _same(name, word, other.held[name]) for name, word in self.held.items()}
        merged = {name: ours.merge(other.columns[name]) for name, ours in self.columns.items()}  # type: ignore[arg-type]
        return Statistics(rows=self.rows + other.rows, held=held, columns=merged)


def _of_column(column: Column, column_cells: pa.ChunkedArray) -> Numbers | Texts:
    if column.kind == "categorical":
        return Texts.of(cells.texts(column_cells))
    if column.kind == "numeric":
        return Numbers.of(cells.numbers(column, column_cells))
    instants = cells.Instants.of(column_cells)
    return Numbers.of(instants.days(), has_time=instants.has_time)


def _put_together(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables of one schema: merging statistics costs about as much as taking them of 100,000 rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        if waiting and (sum(map(len, waiting)) >= ROWS_AT_ONCE or table.schema != waiting[0].schema):
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(table)
    if waiting:
        yield pa.concat_tables(waiting)


def _same(name: str, ours: str, theirs: str) -> str:
    words = sorted({ours, theirs} - {cells.NOTHING})
    if len(words) > 1:
        raise DataError(
            f"column {name!r}: must hold one type in all training rows; found {words[0]} and {words[1]}: "
            "convert the files to one"
        )
    return words[0] if words else cells.NOTHING
