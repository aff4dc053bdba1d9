"""What a column of texts could be: whole numbers, numbers, dates, or texts."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

MAX_CELL = 65_536
STAMP, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$|^\s*[+-]?(?i:nan|inf|infinity)\s*$"
_MANY_DIGITS = r"^\s*[+-]?[0-9]{19,}\s*$"


@dataclass(frozen=True)
class Cell:
    """A cell of a file; `row` counts from 0, the header and ragged rows left out."""

    path: str
    row: int
    text: str


@dataclass(frozen=True)
class Texts:
    """Facts of the cells seen so far, missing ones left out.

    `huge` is the first whole number beyond 64 bits, `number` and `other` are the first cells that are a number and
    that are none, `long` is the first cell of more than MAX_CELL bytes.
    """

    numbers: int = 0
    others: int = 0
    all_whole: bool = True
    all_stamps: bool = True
    all_zoned: bool = True
    number: Cell | None = None
    other: Cell | None = None
    huge: Cell | None = None
    long: Cell | None = None

    @classmethod
    def of(cls, column: pa.Array, path: str, first_row: int) -> "Texts":
        present = len(column) - column.null_count
        if not present:
            return cls()
        start = Cell(path, first_row, "")
        long = _first(column, pc.greater(pc.binary_length(column), MAX_CELL), start)
        column = pc.utf8_trim_whitespace(column)
        if _casts(column, pa.int64()):
            return cls(numbers=present, all_stamps=False, all_zoned=False, number=_first(column, None, start))
        if _casts(column, pa.float64()):
            is_number = None
        else:
            is_number = pc.match_substring_regex(column, _NUMBER)
        numbers = present if is_number is None else pc.sum(is_number).as_py()
        is_other = pc.invert(is_number) if is_number is not None else None
        return cls(
            numbers=numbers,
            others=present - numbers,
            all_whole=False,
            all_stamps=not numbers and _casts(column, STAMP),
            all_zoned=not numbers and _casts(column, ZONED),
            number=_first(column, is_number, start) if numbers else None,
            other=_first(column, is_other, start) if present - numbers else None,
            huge=_huge(column, start),
            long=long,
        )

    def merge(self, later: "Texts") -> "Texts":
        return Texts(
            numbers=self.numbers + later.numbers,
            others=self.others + later.others,
            all_whole=self.all_whole and later.all_whole,
            all_stamps=self.all_stamps and later.all_stamps,
            all_zoned=self.all_zoned and later.all_zoned,
            number=self.number or later.number,
            other=self.other or later.other,
            huge=self.huge or later.huge,
            long=self.long or later.long,
        )

    @property
    def type(self) -> pa.DataType:
        """The narrowest type that all cells have; null where there is none."""
        if not self.numbers and not self.others:
            return pa.null()
        if not self.others:
            return pa.int64() if self.all_whole else pa.float64()
        return STAMP if self.all_stamps else ZONED if self.all_zoned else pa.string()


def _casts(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        pc.cast(column, kind)
    except pa.ArrowInvalid:
        return False
    return True


def _first(column: pa.Array, mask: pa.Array | None, start: Cell) -> Cell | None:
    """The first cell where `mask` is true; without a mask, the first that is there."""
    at = pc.index(pc.is_valid(column) if mask is None else mask, True).as_py()
    return None if at < 0 else Cell(start.path, start.row + at, column[at].as_py()[:60])


def _huge(column: pa.Array, start: Cell) -> Cell | None:
    many = pc.match_substring_regex(column, _MANY_DIGITS)
    for at in pc.indices_nonzero(pc.fill_null(many, False)).to_pylist():
        if not -(2**63) <= int(column[at].as_py()) < 2**63:
            return Cell(start.path, start.row + at, column[at].as_py()[:60])
    return None
