"""The first look at all rows: facts of each column that can be merged, in one pass, without keeping the rows.

Kept whole are only the columns that have a part in splitting and labelling: the target, the weight, and the like.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray.data.texts import MAX_CELL

UNIQUE_ROWS = 1 << 20
FEW = 127  # codes of one byte
SUM_TOLERANCE = 1e-3  # probabilities in float16 or of three decimals add up to no better


@dataclass
class Facts:
    """Facts of a column. Rows are the source's; -1 where there is none.

    `values` are kept while they all differ, up to some UNIQUE_ROWS: a column that repeats none among so many is taken
    for one that never does. None: it does, or was not asked.
    """

    present: int = 0
    missing: int = 0
    infinite: int = 0
    long: int = 0
    beyond_calendar: bool = False
    first_missing: int = -1
    first_infinite: int = -1
    first_long: int = -1
    first: pa.Scalar | None = None
    varies: bool = False
    values: pa.Array | None = None

    @classmethod
    def of(cls, column: pa.ChunkedArray, first_row: int, *, can_be_id: bool) -> "Facts":
        """`first_row` is the source's row that the column begins with; `can_be_id`: whether to keep values."""
        floating = pa.types.is_floating(column.type)
        is_missing = pc.is_null(column, nan_is_null=floating)
        missing = pc.sum(is_missing).as_py() or 0
        facts = cls(present=len(column) - missing, missing=missing, first_missing=_first(is_missing, first_row))
        if floating:
            is_infinite = pc.is_inf(column)
            facts.infinite, facts.first_infinite = _count(is_infinite), _first(is_infinite, first_row)
        if pa.types.is_string(column.type):
            is_long = pc.greater(pc.binary_length(column), MAX_CELL)
            facts.long, facts.first_long = _count(is_long), _first(is_long, first_row)
        there = column.filter(pc.invert(is_missing)) if missing else column
        if facts.present and not pa.types.is_nested(column.type):
            facts.first = there[0]
            facts.beyond_calendar = not _can_be_said(there)
            facts.varies = bool(pc.any(pc.not_equal(there, there[0])).as_py())
        facts.values = _if_all_differ(there.combine_chunks()) if can_be_id else None
        return facts

    def merge(self, later: "Facts") -> "Facts":
        return Facts(
            present=self.present + later.present,
            missing=self.missing + later.missing,
            infinite=self.infinite + later.infinite,
            long=self.long + later.long,
            beyond_calendar=self.beyond_calendar or later.beyond_calendar,
            first_missing=_earlier(self.first_missing, later.first_missing),
            first_infinite=_earlier(self.first_infinite, later.first_infinite),
            first_long=_earlier(self.first_long, later.first_long),
            first=self.first if self.present else later.first,
            varies=self.varies or later.varies or _differ(self.first, later.first),
            values=_if_together_differ(self.values, later.values),
        )

    @property
    def never_repeats(self) -> bool:
        return self.values is not None and self.present > 1


def _differ(a: pa.Scalar | None, b: pa.Scalar | None) -> bool:
    return a is not None and b is not None and not a.equals(b)


def _can_be_said(column: pa.ChunkedArray) -> bool:
    """Whether dates, if `column` has such, are of the years that Python's calendar has."""
    if not pa.types.is_temporal(column.type):
        return True
    try:
        pc.min_max(column).as_py()
    except (OverflowError, ValueError):
        return False
    return True


def _if_all_differ(values: pa.Array) -> pa.Array | None:
    return values if pc.count_distinct(values).as_py() == len(values) else None


def _if_together_differ(a: pa.Array | None, b: pa.Array | None) -> pa.Array | None:
    if a is None or b is None:
        return None
    return a if len(a) >= UNIQUE_ROWS else _if_all_differ(pa.concat_arrays([a, b]))


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


def _first(mask: pa.ChunkedArray, first_row: int) -> int:
    at = pc.index(mask, True).as_py()
    return -1 if at < 0 else first_row + at


def _earlier(a: int, b: int) -> int:
    return b if a < 0 else a


@dataclass(frozen=True, kw_only=True)
class Interest:
    """What a survey looks at: facts of `columns`, whether those in `ids` repeat, the values of `held`.

    Rows that are alike in `twins` can be found; each list of `sums` must be probabilities.
    """

    columns: list[str]
    ids: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    sums: list[list[str]] = field(default_factory=list)


@dataclass
class Survey:
    """Facts of columns, those columns that are kept whole, and a hash of each row where twins are asked for.

    `unsound` has for each list of `sums` how many rows are no probabilities, and the first of them or -1.
    """

    rows: int
    facts: dict[str, Facts]
    held: dict[str, list[pa.Array]]
    twins: list[np.ndarray]
    unsound: list[tuple[int, int]]

    @classmethod
    def of(cls, table: pa.Table, first_row: int, interest: Interest) -> "Survey":
        """Look at rows that begin with the source's row `first_row`. Pure; for any driver."""
        facts = {n: Facts.of(table[n], first_row, can_be_id=n in interest.ids) for n in interest.columns}
        held = {name: [_coded(table[name])] for name in interest.held}
        twins = [row_hashes(table.select(interest.twins))] if interest.twins else []
        unsound = [_unsound(table.select(names), first_row) for names in interest.sums]
        return cls(table.num_rows, facts, held, twins, unsound)

    def merge(self, later: "Survey") -> "Survey":
        """Add a look at the rows that come right after."""
        return Survey(
            self.rows + later.rows,
            {name: facts.merge(later.facts[name]) for name, facts in self.facts.items()},
            {name: [*chunks, *later.held[name]] for name, chunks in self.held.items()},
            [*self.twins, *later.twins],
            [(a + b, _earlier(at, then)) for (a, at), (b, then) in zip(self.unsound, later.unsound, strict=True)],
        )

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column that was held, over all rows: codes of one dictionary, or numbers that are no codes."""
        chunks = self.held[name]
        levels = [chunk.dictionary for chunk in chunks if pa.types.is_dictionary(chunk.type)]
        if len(levels) < len(chunks) or len(pc.unique(pa.concat_arrays(levels))) > FEW:
            chunks = [_widened(chunk) for chunk in chunks]
        return pa.chunked_array(chunks).unify_dictionaries()


def _coded(column: pa.ChunkedArray) -> pa.Array:
    """One array, as codes of one byte where few values differ: this is what is kept of every row."""
    whole = column.combine_chunks()
    coded = pc.dictionary_encode(whole)
    if len(coded.dictionary) <= FEW:
        return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int8()), coded.dictionary)
    return coded if pa.types.is_string(whole.type) else whole


def _widened(chunk: pa.Array) -> pa.Array:
    """Texts as codes of four bytes, numbers as they came."""
    if not pa.types.is_dictionary(chunk.type):
        return chunk
    if pa.types.is_string(chunk.type.value_type):
        return chunk.cast(pa.dictionary(pa.int32(), pa.string()))
    return chunk.dictionary_decode()


def _unsound(table: pa.Table, first_row: int) -> tuple[int, int]:
    values_NC = np.column_stack([pc.cast(column, pa.float64()).to_numpy() for column in table.columns])
    sound_N = ((values_NC >= 0) & (values_NC <= 1)).all(1) & (np.abs(values_NC.sum(1) - 1) <= SUM_TOLERANCE)
    at = np.flatnonzero(~sound_N)
    return len(at), first_row + int(at[0]) if len(at) else -1


def row_hashes(table: pa.Table) -> np.ndarray:
    """Return a 64-bit hash of each row, the same wherever the row stands."""
    hash_N = np.zeros(table.num_rows, np.uint64)
    for name in table.column_names:
        codes = pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode")
        texts = (f"{name}\0{value!r}".encode() for value in codes.dictionary.to_pylist())
        words = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
        hash_N = hash_N * np.uint64(0x9E3779B97F4A7C15) + np.array(words, np.uint64)[codes.indices.to_numpy()]
    return hash_N
