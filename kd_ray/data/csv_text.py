"""CSV read strictly: what pyarrow's reader takes without a word is refused here, with file and line.

Silently taken by pyarrow are: a header without rows, column names that are blank or given twice, bytes that are no
text, whole numbers beyond 64 bits, NUL bytes. Types are inferred over all cells of all files, then fixed.
"""

import codecs
import collections
import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs

from kd_ray.data.texts import MAX_CELL, Texts
from kd_ray.errors import DataError
from kd_ray.knobs import Csv

BLOCK = 1 << 22
MAX_RAGGED = 5


class Decoded(io.RawIOBase):
    """A file's bytes as UTF-8, whatever its encoding. Reading raises DataError where they are no text."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, encoding: str) -> None:
        try:
            self._decoder = codecs.getincrementaldecoder(encoding)()
        except LookupError:
            raise DataError(f"data.csv.encoding: must be the name of a text encoding; got {encoding!r}") from None
        self._path, self._encoding, self._line, self._rest = path, encoding, 1, b""
        self._stream = _opened(filesystem, path)
        self._ended = False
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._ended:
            self._rest = self._next()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _next(self) -> bytes:
        try:
            raw = self._stream.read(1 << 20)
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {str(error).splitlines()[0]}") from None
        self._ended = not raw
        try:
            text = self._decoder.decode(raw, final=self._ended)
        except UnicodeError as error:
            before = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
            line = self._line + before.count(b"\n")
            raise DataError(
                f"{self._path}, line {line}: must be {self._encoding} text, as data.csv.encoding says; it has bytes "
                "that are not: set data.csv.encoding to the file's (latin-1, cp1252, utf-16, ...)"
            ) from None
        if "\0" in text:
            line = self._line + text[: text.index("\0")].count("\n")
            raise DataError(f"{self._path}, line {line}: must be text; it has a NUL byte: write the file anew")
        self._line += text.count("\n")
        self.quotes += text.count('"')
        return text.encode()


def _opened(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    try:
        return filesystem.open_input_stream(path, compression="detect")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or str(error).splitlines()[0]}") from None


def records(
    filesystem: pafs.FileSystem, path: str, options: Csv, *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line it begins on, by Python's own reader.

    Where it is `strict`, a quote that is never closed raises DataError.
    """
    text = io.TextIOWrapper(
        io.BufferedReader(Decoded(filesystem, path, options.encoding)), encoding="utf-8-sig", newline=""
    )
    reader = csv.reader(text, delimiter=options.delimiter, strict=strict)
    before, limit = 0, csv.field_size_limit(1 << 31)
    try:
        for record in reader:
            if record:
                yield before + 1, record
            before = reader.line_num
    except csv.Error as error:
        if "end of data" in str(error):
            raise DataError(f"{path}, line {before + 1}: a quote must be closed; one that opens there is not") from None
    finally:
        csv.field_size_limit(limit)


def line_of(filesystem: pafs.FileSystem, path: str, options: Csv, row: int) -> int:
    """Return the line that row `row` begins on; rows count from 0, the header and ragged rows left out."""
    found = records(filesystem, path, options)
    _, names = next(found)
    whole = (line for line, record in found if len(record) == len(names))
    return next(itertools.islice(whole, row, None), 0)


def header(filesystem: pafs.FileSystem, path: str, options: Csv) -> list[str]:
    """Return the column names. Raises DataError where one is blank or given twice, or where there are none."""
    _, names = next(records(filesystem, path, options), (0, []))
    if not names:
        raise DataError(f"{path}: must begin with a line of column names; the file is blank")
    lines = [
        f"{path}, line 1: every column must have a name; column {number} has none"
        for number, name in enumerate(names, 1)
        if not name.strip()
    ]
    twice = sorted({name for name in names if name.strip() and names.count(name) > 1})
    lines += [
        f"{path}, line 1: column names must differ; {name!r} is there {names.count(name)} times" for name in twice
    ]
    if lines:
        raise DataError("\n".join(lines))
    return names


def batches(
    filesystem: pafs.FileSystem,
    path: str,
    options: Csv,
    types: dict[str, pa.DataType],
    ragged: list[Any] | None = None,
) -> Iterator[pa.Table]:
    """Yield a file's rows, block by block, the columns of `types` alone. Raises DataError naming the file.

    Rows of too few or too many cells are left out; they are put into `ragged`.
    """

    def leave_out(row: Any) -> str:
        if ragged is not None:
            ragged.append(row)
        return "skip"

    content = Decoded(filesystem, path, options.encoding)
    stream = pa.PythonFile(io.BufferedReader(content, 1 << 20), mode="r")
    try:
        yield from (
            pa.Table.from_batches([batch])
            for batch in pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(use_threads=False, block_size=BLOCK),
                parse_options=pacsv.ParseOptions(
                    delimiter=options.delimiter, newlines_in_values=True, invalid_row_handler=leave_out
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    null_values=options.null_values,
                    strings_can_be_null=True,
                ),
            )
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise DataError(_reason(filesystem, path, options, str(error).splitlines()[0])) from None
    if content.quotes % 2 and ragged is not None:
        collections.deque(records(filesystem, path, options, strict=True), maxlen=0)


def _reason(filesystem: pafs.FileSystem, path: str, options: Csv, says: str) -> str:
    if "straddl" in says:
        for line, record in records(filesystem, path, options):
            if any(len(cell) > MAX_CELL for cell in record):
                return (
                    f"{path}, line {line}: a cell must have at most {MAX_CELL:,} characters; one has "
                    f"{max(map(len, record)):,}: shorten it, or close the quote that is open"
                )
    return f"{path}: cannot be read as the CSV that its first rows are: {says}"


@dataclass
class Inference:
    """What one file holds: its column names, its rows, what each column's texts could be, and mistakes as lines."""

    names: list[str]
    rows: int = 0
    texts: dict[str, Texts] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def infer(filesystem: pafs.FileSystem, path: str, options: Csv) -> Inference:
    """Read a whole file as texts. Raises DataError where it cannot be read on; other mistakes come in `lines`."""
    names = header(filesystem, path, options)
    found = Inference(names=names, texts={name: Texts() for name in names})
    ragged: list[Any] = []
    for table in batches(filesystem, path, options, dict.fromkeys(names, pa.string()), ragged):
        for name in names:
            found.texts[name] = found.texts[name].merge(Texts.of(table[name].chunk(0), path, found.rows))
        found.rows += table.num_rows
    found.lines += _ragged_lines(filesystem, path, options, ragged)
    if not found.rows and not ragged:
        found.lines.append(f"{path}: must hold rows; it has a header and nothing below it")
    return found


def _ragged_lines(filesystem: pafs.FileSystem, path: str, options: Csv, ragged: list[Any]) -> list[str]:
    if not ragged:
        return []
    wanted = ragged[0].expected_columns
    crooked = ((line, record) for line, record in records(filesystem, path, options) if len(record) != wanted)
    lines = [
        f"{path}, line {line}: must have {wanted} cells as the header has; it has {len(record)}"
        for line, record in itertools.islice(crooked, MAX_RAGGED)
    ]
    if len(ragged) > MAX_RAGGED:
        lines.append(f"{path}: {len(ragged) - MAX_RAGGED:,} more rows have too few or too many cells")
    return lines
