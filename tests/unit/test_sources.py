"""Sources: files, folders, globs, data sets by name and functions, and what is refused of them."""

import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_ray.data.pieces import Source, n_rows
from kd_ray.data.sources import open_source
from kd_ray.errors import DataError
from kd_ray.knobs import Data
from kd_ray.mistakes import Mistakes


def opened(source: Any, folder: Path, **data: Any) -> tuple[Source, list[str]]:
    mistakes = Mistakes()
    with mistakes.gathering():
        return open_source(Data.model_validate({"source": str(source), **data}), mistakes, folder), mistakes.lines
    return None, mistakes.lines  # type: ignore[return-value]


def rows(source: Source) -> pa.Table:
    names = source.schema.names
    return pa.concat_tables([table for piece in source.pieces for table in source.batches(piece, names)])


def csv(folder: Path, content: bytes | str, name: str = "t.csv") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TABLE = pa.table({"a": [1, 2, None], "b": [0.5, None, -1e300], "c": ["x", None, "ü, y"]})


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    (pacsv.write_csv if name.endswith("csv") else pq.write_table)(TABLE, tmp_path / name)
    source, lines = opened(tmp_path / name, tmp_path)
    assert not lines
    assert rows(source).combine_chunks().equals(TABLE)


def test_a_folder_is_read_in_order_of_its_paths_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name, values in (("b/1.csv", "3\n4\n"), ("a.csv", "1\n2\n"), ("c.csv", "5\n"), (".d.csv", "9\n")):
        csv(tmp_path, "a,z\n" + values.replace("\n", ",0\n"), name)
    (tmp_path / "_SUCCESS").write_text("")
    source, lines = opened(tmp_path, tmp_path)
    assert not lines
    assert rows(source)["a"].to_pylist() == [1, 2, 3, 4, 5]
    assert n_rows(source) == 5
    assert source.where(3) == f"{tmp_path}/b/1.csv, line 3"


def test_a_glob_takes_what_it_matches_and_one_star_stays_in_its_folder(tmp_path: Path) -> None:
    for name in ("x1.csv", "x2.csv", "y1.csv", "deep/x3.csv"):
        csv(tmp_path, f"a,b\n{name},1\n", name)
    assert rows(opened(f"{tmp_path}/x*.csv", tmp_path)[0])["a"].to_pylist() == ["x1.csv", "x2.csv"]
    assert rows(opened(f"{tmp_path}/**/x*.csv", tmp_path)[0])["a"].to_pylist() == ["deep/x3.csv", "x1.csv", "x2.csv"]
    assert rows(opened(f"file://{tmp_path}/y1.csv", tmp_path)[0])["a"].to_pylist() == ["y1.csv"]


def test_types_hold_over_all_rows_of_all_files(tmp_path: Path) -> None:
    csv(tmp_path, "whole,number,text,day\n1,1,007,2024-01-31\n", "a.csv")
    csv(tmp_path, "number,whole,text,day\n2.5, 3 ,x1,2024-01-31 10:00:00\n", "b.csv")
    source, _ = opened(tmp_path, tmp_path, columns={"kinds": {"text": "categorical"}})
    assert [str(field.type) for field in source.schema] == ["int64", "double", "string", "timestamp[us]"]
    assert rows(source)["text"].to_pylist() == ["007", "x1"]
    assert rows(source)["whole"].to_pylist() == [1, 3]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_any_encoding_that_is_named_is_read(tmp_path: Path, encoding: str) -> None:
    path = csv(tmp_path, "naïve,b\r\nü,1\r\n".encode(encoding))
    source, lines = opened(path, tmp_path, csv={"encoding": encoding})
    assert not lines
    assert rows(source).to_pylist() == [{"naïve": "ü", "b": 1}]


def test_other_delimiters_quotes_line_breaks_in_cells_and_compression_are_read(tmp_path: Path) -> None:
    path = csv(tmp_path, gzip.compress(b'a;b\n"x\ny";1\n\n"say ""hi""; ok";-\n'), "t.csv.gz")
    source, lines = opened(path, tmp_path, csv={"delimiter": ";", "null_values": ["-"]})
    assert not lines
    assert rows(source).to_pylist() == [{"a": "x\ny", "b": 1}, {"a": 'say "hi"; ok', "b": None}]
    assert source.where(1).endswith("t.csv.gz, line 5")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "t.csv: must hold a table; the file is empty (0 bytes)"),
        ("\n\n", "t.csv: must begin with a line of column names; the file is blank"),
        ("a,b\n", "t.csv: must hold rows; it has a header and nothing below it"),
        ("a,b", "t.csv: must hold rows; it has a header and nothing below it"),
        ("a,b,a\n1,2,3\n", "t.csv, line 1: column names must differ; 'a' is there 2 times"),
        ("a,,b\n1,2,3\n", "t.csv, line 1: every column must have a name; column 2 has none"),
        (
            "a,b\n1,ok\n2,\xfc\n".encode("latin-1"),
            "t.csv, line 3: must be utf-8 text, as data.csv.encoding says; it has bytes that are not: "
            "set data.csv.encoding",
        ),
        ("a,b\n1,x\n\n2\n3,y\n4,y,5\n", "t.csv, line 4: must have 2 cells as the header has; it has 1"),
        ("a,b\n1,x\n\n2\n3,y\n4,y,5\n", "t.csv, line 6: must have 2 cells as the header has; it has 3"),
        ("a,b\n1,x\n2,y\x00z\n", "t.csv, line 3: must be text; it has a NUL byte"),
        (
            "a,b\n1,2\n99999999999999999999,3\n",
            "t.csv, line 3: column 'a' must hold whole numbers of at most 64 bits; 99999999999999999999 is larger",
        ),
        (
            "a,b\n1,2\n2,\n1,3\n1,two\n",
            "t.csv, line 5: column 'b' must hold numbers alone or texts alone; it has 2 numbers, and 'two' "
            "among 1 texts",
        ),
        ("a,b\n1," + "x" * 1_000_000 + "\n", "t.csv, line 2: a cell must have at most 65,536 bytes; column 'b' has"),
        (
            "a,b\n1,2\n2," + "x" * 9_000_000 + "\n",
            "t.csv, line 3: a cell must have at most 65,536 characters; one has 9,000,000",
        ),
        ('a,b\n1,2\n2,"open\n' + "3,4\n" * 50, "t.csv, line 3: a quote must be closed; one that opens there is not"),
        ('a,b\n1,2\n2,"open\n' + "3,4\n" * 2_000_000, "t.csv, line 3: a quote must be closed"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_csv_that_pyarrow_takes_or_stumbles_over_is_refused_with_its_line(
    tmp_path: Path, content: bytes | str, says: str
) -> None:
    _, lines = opened(csv(tmp_path, content), tmp_path)
    assert any(f"{tmp_path}/{says}" in line for line in lines), lines


def test_lines_after_ragged_rows_are_still_the_files_own(tmp_path: Path) -> None:
    _, lines = opened(csv(tmp_path, "a,b\n1,2\n3\n4,5\n6,x\n"), tmp_path)
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["t.csv, line 3", "t.csv, line 5"]


def test_many_ragged_rows_are_counted_not_listed(tmp_path: Path) -> None:
    _, lines = opened(csv(tmp_path, "a,b\n" + "1\n" * 50), tmp_path)
    assert len(lines) == 6
    assert lines[-1].endswith("t.csv: 45 more rows have too few or too many cells")


@pytest.mark.parametrize(
    ("kind", "cell", "says"),
    [
        ("date", "31.12.2024", "column 'b' must hold dates such as 2024-12-31"),
        ("date", "7", "'7' is none"),
        ("numeric", "x", "column 'b' must hold numbers alone"),
    ],
)
def test_cells_that_are_not_of_the_declared_kind_are_refused(tmp_path: Path, kind: str, cell: str, says: str) -> None:
    _, lines = opened(csv(tmp_path, f"a,b\n1,{cell}\n"), tmp_path, columns={"kinds": {"b": kind}})
    assert len(lines) == 1
    assert "t.csv, line 2: " in lines[0]
    assert says in lines[0]


@pytest.mark.parametrize("columns", [{"exclude": ["b"]}, {"ids": ["b"]}, {"kinds": {"b": "categorical"}}])
def test_mixed_cells_are_taken_where_nothing_is_learned_from_them_or_they_are_declared(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    source, lines = opened(csv(tmp_path, "a,b\n1,2\n1,x\n"), tmp_path, columns=columns)
    assert not lines
    assert rows(source)["b"].to_pylist() == ["2", "x"]


def test_an_encoding_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    _, lines = opened(csv(tmp_path, "a,b\n1,2\n"), tmp_path, csv={"encoding": "utf-9"})
    assert lines == ["data.csv.encoding: must be the name of a text encoding; got 'utf-9'"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_mistake_in_words(tmp_path: Path, content: bytes) -> None:
    source, lines = opened(csv(tmp_path, content), tmp_path)
    assert lines or rows(source).num_rows


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)), min_size=1))
def test_numbers_of_a_csv_are_what_python_reads(tmp_path: Path, cells: list[tuple[int, float]]) -> None:
    text = "a,b\n" + "".join(f"{whole},{number!r}\n" for whole, number in cells)
    source, lines = opened(csv(tmp_path, text), tmp_path)
    assert not lines
    assert [tuple(row.values()) for row in rows(source).to_pylist()] == cells


def parquet(folder: Path, name: str = "t.parquet", **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


@pytest.mark.parametrize("damage", ["truncated", "renamed", "flipped"])
def test_parquet_that_is_damaged_is_named_beside_the_whole(tmp_path: Path, damage: str) -> None:
    parquet(tmp_path, "a.parquet", a=[1, 2])
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"a": np.arange(1000)}), path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes({"truncated": content[:-50], "renamed": b"a,b\n1,2\n", "flipped": content}[damage])
    source, lines = opened(tmp_path, tmp_path)
    if damage == "flipped":
        with pytest.raises(DataError) as caught:
            rows(source)
        lines = [str(caught.value)]
    assert len(lines) == 1
    assert f"{tmp_path}/b.parquet: must be whole Parquet; it is truncated, damaged or no Parquet" in lines[0]


def test_texts_in_parquet_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    source, _ = opened(parquet(tmp_path, a=text), tmp_path)
    with pytest.raises(DataError, match=r"t\.parquet: must be whole Parquet; .* Invalid UTF8"):
        rows(source)


def test_row_groups_are_read_one_by_one_and_rows_are_named_by_their_place_in_the_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"a": range(25)}), tmp_path / f"{name}.parquet", row_group_size=10)
    source, _ = opened(tmp_path, tmp_path)
    assert [piece.rows for piece in source.pieces] == [10, 10, 5] * 2
    assert rows(source)["a"].to_pylist() == [*range(25), *range(25)]
    assert source.where(40) == f"{tmp_path}/b.parquet, row 15"


def test_dictionaries_and_widths_that_differ_between_files_become_one_plain_type(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", a=pa.array([1], pa.int8()), b=pa.array(["x"]).dictionary_encode(), c=pa.nulls(1))
    parquet(tmp_path, "b.parquet", c=["z"], b=pa.array(["y"], pa.large_string()), a=[0.5])
    source, lines = opened(tmp_path, tmp_path)
    assert not lines
    assert rows(source).to_pylist() == [{"a": 1.0, "b": "x", "c": None}, {"a": 0.5, "b": "y", "c": "z"}]


def test_files_that_disagree_in_columns_or_types_are_named(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", a=[1], b=["x"])
    parquet(tmp_path, "b.parquet", a=["1"], b=["x"])
    parquet(tmp_path, "c.parquet", a=[1], d=["x"])
    first = f"{tmp_path}/a.parquet"
    assert opened(tmp_path, tmp_path)[1] == [
        f"{tmp_path}/b.parquet: column 'a' must be int64 as in {first}; it is string",
        f"{tmp_path}/c.parquet: must have the columns of {first}; it lacks 'b' and it has 'd' besides",
    ]


def test_headers_that_disagree_are_named(tmp_path: Path) -> None:
    csv(tmp_path, "a,b\n1,2\n", "a.csv")
    csv(tmp_path, "a,c\n1,2\n", "b.csv")
    assert opened(tmp_path, tmp_path)[1] == [
        f"{tmp_path}/b.csv: must have the columns of {tmp_path}/a.csv; it lacks 'b' and it has 'c' besides"
    ]


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, ["a", "b", "a"]), tmp_path / "t.parquet")
    assert "t.parquet: column names must differ; 'a' is there more than once" in opened(tmp_path, tmp_path)[1][0]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("{}/nothing.csv", "data.source: must name a file, folder or glob that exists; there is nothing at"),
        ("{}/*.nothing", "data.source: must name a file, folder or glob that exists"),
        ("{}/both", "data.source: must name files of one format"),
        ("{}/notes.txt", "data.source: must name files that end in .csv, .csv.gz"),
        ("{}/pipe.csv", "pipe.csv: must be a regular file"),
        ("nosuch://x/t.csv", "data.source: must be a path or a URI that pyarrow.fs opens; got 'nosuch://x/t.csv'"),
        ("{}/norows", "data.source: must hold rows; there are none in"),
        ("sklearn:iris2", "data.source: must be sklearn: and one of breast_cancer, diabetes, digits, iris, wine"),
    ],
)
def test_a_source_that_is_no_table_is_refused(tmp_path: Path, where: str, says: str) -> None:
    (tmp_path / "both").mkdir()
    csv(tmp_path, "a,b\n1,2\n", "both/a.csv")
    parquet(tmp_path, "both/b.parquet", a=[1])
    (tmp_path / "norows").mkdir()
    parquet(tmp_path, "norows/b.parquet", a=pa.array([], pa.int64()))
    csv(tmp_path, "a", "notes.txt")
    os.mkfifo(tmp_path / "pipe.csv")
    _, lines = opened(where.format(tmp_path), tmp_path)
    assert len(lines) == 1
    assert says in lines[0]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `mine` of the user's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    "gives",
    [
        "pa.table({'x0': [1., 2.], 'x1': [3., 4.], 'target': [0, 1]})",
        "pd.DataFrame({'x0': [1., 2.], 'x1': [3., 4.], 'target': [0, 1]})",
        "(np.array([[1., 3.], [2., 4.]]), np.array([0, 1]))",
        "(pd.DataFrame({'x0': [1., 2.], 'x1': [3., 4.]}), [0, 1])",
    ],
)
def test_a_function_may_return_a_table_a_frame_or_arrays(module: Path, tmp_path: Path, gives: str) -> None:
    module.write_text(f"import numpy as np, pandas as pd, pyarrow as pa\ndef rows(k): return {gives}\n")
    source, lines = opened("mine:rows", tmp_path, arguments={"k": 1})
    assert not lines
    assert rows(source).to_pydict() == {"x0": [1, 2], "x1": [3, 4], "target": [0, 1]}


@pytest.mark.parametrize(
    ("source", "body", "says"),
    [
        ("nowhere.mine:rows", "1", "data.source: 'nowhere.mine' must be importable; it says: ModuleNotFoundError"),
        ("mine:row", "1", "'mine' must have a function 'row'; it has none; did you mean 'rows'?"),
        ("mine:rows", "1 / 0", "data.source: mine:rows must return a table; it raises ZeroDivisionError: division by"),
        (
            "mine:rows",
            "[1]",
            "must return a pyarrow table, a pandas frame, a pair (X, y) of arrays or a ray.data.Dataset",
        ),
        ("mine:rows", "[1]", "it returns a list"),
        ("mine:rows", "([[1], [2]], [1])", "X must be [rows, columns] and y [rows] of as many rows; they are (2, 1)"),
        ("mine:rows", "pd.DataFrame({'a': [1, 'x']})", "what mine:rows returns cannot be a table: Arrow"),
        ("mine:rows", "pa.table([[1], [2]], ['a', 'a'])", "what mine:rows returns: column names must differ; 'a'"),
        ("mine:rows", "pa.table([[1], [2]], ['a', ' '])", "every column must have a name; column 2 has none"),
    ],
)
def test_a_function_that_is_not_there_raises_or_returns_no_table_is_refused(
    module: Path, tmp_path: Path, source: str, body: str, says: str
) -> None:
    module.write_text(f"import pandas as pd, pyarrow as pa\ndef rows(): return {body}\n")
    _, lines = opened(source, tmp_path)
    assert len(lines) == 1
    assert says in lines[0]


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits", "diabetes", "iris"])
def test_a_data_set_of_scikit_learns_comes_with_its_columns_and_labels(tmp_path: Path, name: str) -> None:
    import sklearn.datasets

    frame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
    table = rows(opened(f"sklearn:{name}", tmp_path)[0])
    pd.testing.assert_frame_equal(table.drop_columns("target").to_pandas(), frame.data, check_dtype=False)
    names = frame.get("target_names", [])
    wanted = [names[c] for c in frame.target] if len(names) and isinstance(names[0], str) else frame.target.tolist()
    assert table["target"].to_pylist() == wanted
