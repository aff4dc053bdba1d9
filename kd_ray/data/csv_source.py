"""CSV files as a source; a piece is a file. Types are inferred over all cells of all files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from kd_ray.data import csv_text
from kd_ray.data.files import Files
from kd_ray.data.pieces import Piece, common_schema, holding
from kd_ray.data.texts import MAX_CELL, STAMP, ZONED, Cell, Texts
from kd_ray.errors import DataError
from kd_ray.knobs import Columns, Csv, Data
from kd_ray.mistakes import Mistakes


@dataclass(frozen=True)
class CsvSource:
    """CSV files of one header; a piece is a file."""

    files: Files
    options: Csv
    schema: pa.Schema
    pieces: list[Piece]

    @classmethod
    def open(cls, files: Files, data: Data, mistakes: Mistakes) -> "CsvSource":
        """Read all files once to infer each column's type over all of them."""
        pieces: list[Piece] = []
        texts: dict[str, Texts] = {}
        schemas: dict[str, pa.Schema] = {}
        first = 0
        for number, path in enumerate(files.paths):
            try:
                found = csv_text.infer(files.filesystem, path, data.csv)
            except DataError as error:
                mistakes.add(str(error))
                continue
            mistakes.add(*found.lines)
            schemas[path] = pa.schema([(name, pa.null()) for name in found.names])
            texts |= {name: texts.get(name, Texts()).merge(seen) for name, seen in found.texts.items()}
            pieces.append(Piece(first=first, rows=found.rows, file=number))
            first += found.rows
        names = common_schema(schemas, mistakes).names
        types = {name: csv_type(name, texts[name], data.columns, mistakes, _line_of(files, data.csv)) for name in names}
        return cls(files, data.csv, pa.schema(list(types.items())), pieces)

    def batches(self, piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
        types = {name: self.schema.field(name).type for name in columns}
        yield from csv_text.batches(self.files.filesystem, self.files.paths[piece.file], self.options, types)

    def where(self, row: int) -> str:
        piece = holding(self.pieces, row)
        path = self.files.paths[piece.file]
        return _line_of(self.files, self.options)(Cell(path, row - piece.first, ""))


def csv_type(
    name: str, texts: Texts, columns: Columns, mistakes: Mistakes, place: Callable[[Cell], str]
) -> pa.DataType:
    """Return a column's type, as `data.columns` says or as all its texts have it; what does not fit is a mistake."""
    if texts.long:
        mistakes.add(
            f"{place(texts.long)}: a cell must have at most {MAX_CELL:,} bytes; column {name!r} has a longer one: "
            "shorten it"
        )
    kind = columns.kinds.get(name)
    aside = {*columns.exclude, *columns.ids, columns.group, columns.split}
    if kind == "categorical" or (texts.others and name in aside):
        return pa.string()
    odd = texts.other or texts.number
    if kind == "date" and odd is not None and texts.type not in (STAMP, ZONED):
        mistakes.add(
            f"{place(odd)}: column {name!r} must hold dates such as 2024-12-31 or 2024-12-31 23:59:59, as "
            f"data.columns.kinds says; {odd.text!r} is none"
        )
        return pa.string()
    if texts.other is not None and (texts.numbers or kind == "numeric"):
        mistakes.add(
            f"{place(texts.other)}: column {name!r} must hold numbers alone or texts alone; it has {texts.numbers:,} "
            f"numbers, and {texts.other.text!r} among {texts.others:,} texts: mend it, add the text to "
            f"data.csv.null_values, or say data.columns.kinds: {{{name}: categorical}}"
        )
        return pa.string()
    if texts.huge and kind is None and name not in aside:
        mistakes.add(
            f"{place(texts.huge)}: column {name!r} must hold whole numbers of at most 64 bits; {texts.huge.text} is "
            f"larger: say data.columns.kinds: {{{name}: numeric}} to round it or categorical to keep it"
        )
    return texts.type


def _line_of(files: Files, options: Csv) -> Callable[[Cell], str]:
    def place(cell: Cell) -> str:
        return f"{cell.path}, line {csv_text.line_of(files.filesystem, cell.path, options, cell.row)}"

    return place
