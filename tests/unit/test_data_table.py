"""A table of the user's own: what becomes of it, against plain loops and scikit-learn, and all that is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.model_selection import train_test_split

from kd_ray import data
from kd_ray.config import Config
from kd_ray.data import encode, passes, pieces, recipe, splits
from kd_ray.errors import DataError
from kd_ray.fingerprints import fingerprints
from kd_ray.preprocess import Preprocessor
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.tables import Dataset, Positions, read

N = 200
RNG = np.random.default_rng(7)
COLUMNS: dict[str, Any] = {
    "customer_id": np.arange(N) + 5000,
    "age": pa.array(RNG.normal(40, 10, N).round(1), mask=RNG.random(N) < 0.1),
    "city": RNG.choice(["Bonn", "Rome", "Oslo"], N),
    "vip": RNG.random(N) < 0.3,
    "since": np.datetime64("2020-01-01") + RNG.integers(0, 900, N).astype("timedelta64[D]"),
    "mail": [f"u{i}@example.org" for i in range(N)],
    "version": np.full(N, 3),
    "churned": np.where(RNG.random(N) < 0.3, "yes", "no"),
}
TABLE = pa.table(COLUMNS)


def changed(**columns: Any) -> pa.Table:
    """The table with columns put in, replaced, or (None) left out."""
    values = {name: TABLE[name] for name in TABLE.column_names} | columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def config(folder: Path, table: pa.Table, name: str = "t.parquet", **knobs: Any) -> Config:
    (pacsv.write_csv if name.endswith("csv") else pq.write_table)(table, folder / name)
    columns = {"target": "churned", **knobs.pop("columns", {})}
    return Config.of(
        {
            "teachers": knobs.pop("teachers", {}),
            "data": {"source": str(folder / name), "columns": columns, "split": {"stratify": True}, **knobs},
        }
    )


def prepared(folder: Path, table: pa.Table = TABLE, name: str = "t.parquet", **knobs: Any) -> Dataset:
    run = RunDir.at(str(folder), "trial")
    made = config(folder, table, name, **knobs)
    data.prepare(made, run, Session(), lambda done, total, note: None, "fingerprint")
    return Dataset.open(run)


def refused(folder: Path, table: pa.Table = TABLE, name: str = "t.parquet", **knobs: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        prepared(folder, table, name, **knobs)
    assert not (folder / "trial").exists()
    return str(caught.value).splitlines()


def preprocessor(found: Dataset) -> Preprocessor:
    arrays = load_file(found.run.path("data/preprocess.safetensors"))
    return Preprocessor.of(found.schema["preprocess"], arrays)


def whole(found: Dataset) -> dict[int, tuple[str, np.ndarray, float]]:
    """Split, features and label of every row by its id."""
    out = {}
    for split in splits.SPLITS:
        rows = found.rows(split)
        for at, row_id in enumerate(rows.row_id_N.tolist()):
            out[row_id] = (split, rows.features_ND[at], rows.label_N[at])
    return out


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_every_row_keeps_its_place_its_label_and_its_cells(tmp_path: Path, name: str) -> None:
    found = prepared(tmp_path, name=name, split={"valid": 0.1, "stratify": True})
    table = TABLE.cast(pa.schema([(f.name, pa.string() if f.name == "vip" else f.type) for f in TABLE.schema]))
    wanted_ND = preprocessor(found).apply(table if name == "t.csv" else TABLE)
    rows = whole(found)
    assert sorted(rows) == list(range(N))
    for row_id, (_, features_D, label) in rows.items():
        assert features_D.tolist() == wanted_ND[row_id].tolist()
        assert found.schema["task"]["classes"][int(label)] == COLUMNS["churned"][row_id]
    classes = ["no", "yes"]
    assert found.schema["task"] == {"kind": "classification", "classes": classes, "class_values": classes}
    assert found.schema["rows"] == {"train": 144, "valid": 16, "test": 40}


def test_columns_are_taken_for_what_they_are_and_those_that_say_nothing_are_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    schema = prepared(tmp_path).schema
    missing = TABLE["age"].null_count
    assert schema["columns"] == [
        {"name": "age", "kind": "numeric", "note": f"{missing} missing"},
        {"name": "city", "kind": "categorical", "note": ""},
        {"name": "vip", "kind": "categorical", "note": ""},
        {"name": "since", "kind": "date", "note": ""},
    ]
    assert schema["left_out"] == {
        "customer_id": "looks like an id: no value comes twice",
        "mail": "looks like an id: no value comes twice",
        "version": "constant: every value is '3'",
    }
    assert schema["features"]["shape"] == [len(schema["features"]["names"])] == [len(schema["features"]["levels"])]
    assert schema["features"]["levels"][-2:] == [5, 4]


def test_splits_are_scikit_learns_of_ids_and_labels(tmp_path: Path) -> None:
    found = prepared(tmp_path, split={"test": 0.25, "valid": 30, "stratify": True, "seed": 3})
    label = np.array(COLUMNS["churned"])
    rest, test = train_test_split(np.arange(N), test_size=0.25, random_state=3, stratify=label)
    rest = np.sort(rest)
    train, valid = train_test_split(rest, test_size=30, random_state=3, stratify=label[rest])
    for name, ids in (("train", train), ("valid", valid), ("test", test)):
        assert found.rows(name).row_id_N.tolist() == sorted(ids)


def test_only_training_rows_are_fitted_to(tmp_path: Path) -> None:
    found = prepared(tmp_path, columns={"include": ["age"]}, preprocess={"missing": "mean"})
    ages = TABLE["age"].to_numpy()[found.rows("train").row_id_N]
    arrays = load_file(found.run.path("data/preprocess.safetensors"))
    assert arrays["scaling"][0, 0] == pytest.approx(np.nanmean(ages))


def test_the_kind_that_is_declared_goes_before_what_a_column_looks_like(tmp_path: Path) -> None:
    kinds = {"customer_id": "numeric", "mail": "categorical", "vip": "numeric"}
    schema = prepared(tmp_path, columns={"kinds": kinds}).schema
    found = {column["name"]: column["kind"] for column in schema["columns"]}
    assert kinds.items() <= found.items()


def test_include_and_exclude_choose_the_columns(tmp_path: Path) -> None:
    schema = prepared(tmp_path, columns={"include": ["city", "age"]}).schema
    assert [column["name"] for column in schema["columns"]] == ["city", "age"]
    schema = prepared(tmp_path, columns={"exclude": ["since", "mail", "customer_id"]}).schema
    assert [column["name"] for column in schema["columns"]] == ["age", "city", "vip"]
    assert list(schema["left_out"]) == ["version"]


def test_ids_and_columns_of_members_words_are_kept_beside_the_rows(tmp_path: Path) -> None:
    word = RNG.random(N).round(3)
    group = {"kind": "columns", "columns": [["p_no", "p_yes"]]}
    found = prepared(
        tmp_path,
        changed(p_yes=word, p_no=1 - word),
        columns={"ids": ["mail", "customer_id"]},
        teachers={"groups": [group]},
    )
    assert found.schema["beside"] == ["mail", "customer_id", "p_no", "p_yes"]
    for split in ("train", "test"):
        table = read(found.run, found.files(split)[0])
        ids = table["row_id"].to_pylist()
        assert table["mail"].to_pylist() == [COLUMNS["mail"][i] for i in ids]
        assert table["p_yes"].to_pylist() == [word[i] for i in ids]


def test_a_column_of_weights_comes_with_the_rows_and_without_one_all_are_1(tmp_path: Path) -> None:
    weight = RNG.random(N)
    found = prepared(tmp_path, changed(w=weight), columns={"weight": "w"})
    train = found.rows("train")
    assert train.weight_N.tolist() == weight.astype(np.float32)[train.row_id_N].tolist()
    assert Positions(found, "train").take(3, 9).weight_N.tolist() == train.weight_N[3:9].tolist()
    assert "w" not in [column["name"] for column in found.schema["columns"]]
    assert set(prepared(tmp_path).rows("test").weight_N.tolist()) == {1.0}


def test_the_users_own_split_is_taken(tmp_path: Path) -> None:
    said = RNG.choice(["train", "valid", "test"], N, p=[0.6, 0.2, 0.2])
    rows = whole(prepared(tmp_path, changed(part=said), columns={"split": "part"}))
    assert [rows[i][0] for i in range(N)] == said.tolist()


@pytest.mark.parametrize("stratify", [True, False])
def test_rows_of_a_group_never_straddle(tmp_path: Path, stratify: bool) -> None:
    household = np.array([f"h{i}" for i in RNG.integers(0, 40, N)])
    split = {"valid": 0.2, "stratify": stratify}
    rows = whole(prepared(tmp_path, changed(h=household), columns={"group": "h"}, split=split))
    parts = {h: {rows[i][0] for i in range(N) if household[i] == h} for h in set(household)}
    assert all(len(part) == 1 for part in parts.values())
    assert {"train", "valid", "test"} == set.union(*parts.values())


def test_unlabelled_rows_join_with_ids_after_the_others(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    more = changed(churned=None, city=["Paris"] * N).select(["since", "vip", "city", "age"]).slice(0, 50)
    pacsv.write_csv(more.slice(0, 20), tmp_path / "more/1.csv")
    pacsv.write_csv(more.slice(20), tmp_path / "more/2.csv")
    found = prepared(tmp_path, name="t.csv", unlabelled=str(tmp_path / "more"))
    assert found.schema["rows"]["unlabelled"] == 50
    rows = found.rows("unlabelled")
    assert rows.row_id_N.tolist() == list(range(N, N + 50))
    assert set(rows.label_N.tolist()) == {-1}
    city = found.schema["features"]["names"].index("city")
    assert set(rows.features_ND[:, city].tolist()) == {1.0}


@pytest.mark.parametrize(
    ("target", "task", "kind", "classes"),
    [
        (RNG.random(N), "auto", "regression", None),
        (np.arange(N) % 150, "auto", "regression", None),
        (np.arange(N) % 100, "auto", "classification", [str(i) for i in range(100)]),
        (np.arange(N) % 3, "regression", "regression", None),
        (np.arange(N) % 3 * 5.0, "auto", "classification", ["0", "5", "10"]),
        (np.arange(N) % 12, "classification", "classification", [str(i) for i in range(12)]),
        (np.arange(N) % 2 == 0, "auto", "classification", ["false", "true"]),
        (np.array(["b", "a"])[np.arange(N) % 2], "auto", "classification", ["a", "b"]),
    ],
)
def test_what_is_predicted_is_seen_in_the_target(
    tmp_path: Path, target: np.ndarray, task: str, kind: str, classes: list[str] | None
) -> None:
    found = prepared(tmp_path, changed(churned=target), task=task, split={"test": 0.5, "stratify": kind[0] == "c"})
    assert found.schema["task"]["kind"] == kind
    assert found.schema["task"].get("classes") == classes


def test_a_regressions_labels_are_standardized_by_the_training_rows(tmp_path: Path) -> None:
    target = RNG.normal(100, 7, N)
    found = prepared(tmp_path, changed(churned=target))
    train, test = found.rows("train"), found.rows("test")
    mean, scale = target[train.row_id_N].mean(), target[train.row_id_N].std()
    assert found.schema["task"] == {"kind": "regression", "mean": pytest.approx(mean), "scale": pytest.approx(scale)}
    np.testing.assert_allclose(test.label_N, (target[test.row_id_N] - mean) / scale, rtol=1e-5)
    assert test.label_N.dtype == np.float32


def test_many_files_and_small_batches_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = whole(prepared(tmp_path))
    (tmp_path / "parts").mkdir()
    for number, start in enumerate(range(0, N, 23)):
        pq.write_table(TABLE.slice(start, 23), tmp_path / f"parts/{number:02d}.parquet", row_group_size=7)
    for module, name in ((passes, "UNIT_ROWS"), (pieces, "BATCH_ROWS"), (encode, "ROWS_PER_FILE")):
        monkeypatch.setattr(module, name, 30)
    found = prepared(tmp_path, source=str(tmp_path / "parts"))
    again = whole(found)
    assert {i: row[0] for i, row in once.items()} == {i: row[0] for i, row in again.items()}
    for row_id, (_, features_D, label) in once.items():
        np.testing.assert_allclose(again[row_id][1], features_D, rtol=1e-6)
        assert again[row_id][2] == label
    assert len(found.files("train")) > 4
    assert Positions(found, "train").take(0, 160).row_id_N.tolist() == found.rows("train").row_id_N.tolist()


def test_the_stage_is_done_anew_where_a_file_or_the_columns_of_members_change(tmp_path: Path) -> None:
    made = config(tmp_path, TABLE)
    before = fingerprints(made)["data"]
    assert fingerprints(made)["data"] == before
    pq.write_table(TABLE.slice(1), tmp_path / "t.parquet")
    assert fingerprints(made)["data"] != before


BAD_FLOATS = pa.array([*[1.0, np.nan] * (N // 2 - 1), np.inf, -np.inf])
SPLIT = np.array(["train", "test"])[np.arange(N) % 2]
SAID = {"columns": {"split": "part"}}


@pytest.mark.parametrize(
    ("columns", "knobs", "says"),
    [
        (
            {},
            {"columns": {"target": "churn"}},
            "data.columns.target: must name columns of the table; there is no 'churn'",
        ),
        ({}, {"columns": {"target": "churn"}}, "did you mean 'churned'?"),
        (
            {},
            {"columns": {"target": None}},
            "data.columns.target: must name the column to predict; the table has customer_",
        ),
        ({}, {"columns": {"weight": "w"}}, "data.columns.weight: must name columns of the table; there is no 'w'"),
        ({}, {"columns": {"exclude": ["w"]}}, "data.columns.exclude: must name columns of the table"),
        ({}, {"columns": {"kinds": {"w": "date"}}}, "data.columns.kinds: must name columns of the table"),
        ({}, {"columns": {"ids": ["age"], "weight": "age"}}, "a column must have one part; 'age' has several"),
        (
            {},
            {"columns": {"include": ["churned"]}},
            "data.columns.include: must be columns without another part; 'churned'",
        ),
        ({}, {"columns": {"include": ["version"]}}, "must have columns to learn from; all are left out: {'version': "),
        ({"churned": ["no"] * N}, {}, "column 'churned': the target must have at least 2 classes; every row is 'no'"),
        ({"churned": [2.5] * N}, {"task": "regression"}, "column 'churned': the target must vary; every value is 2.5"),
        (
            {"churned": [None, *COLUMNS["churned"][1:]]},
            {},
            "t.parquet, row 0: column 'churned': the target must be there in every row; 1 are missing: move these "
            "rows to data.unlabelled",
        ),
        ({"churned": BAD_FLOATS}, {}, "row 198: column 'churned': the target must be finite; 2 are infinite"),
        ({"churned": ["a", *["b", "c"] * 99, "b"]}, {}, "'a' of 3 classes has a single row"),
        ({"churned": COLUMNS["mail"]}, {}, "and 195 more of 200 classes have a single row"),
        ({"churned": COLUMNS["since"]}, {}, "the target must be numbers, texts or booleans; it is date32[day]"),
        ({}, {"task": "regression"}, "column 'churned': must be numbers for data.task: regression; it is string"),
        ({"empty": pa.nulls(N)}, {}, "column 'empty': must have values; every one is missing"),
        ({"empty": np.full(N, np.nan)}, {}, "column 'empty': must have values; every one is missing"),
        ({"x": BAD_FLOATS}, {}, "t.parquet, row 198: column 'x' must hold finite numbers; 2 are infinite"),
        ({"x": [[1, 2]] * N}, {}, "column 'x': must hold numbers, texts, booleans or dates; it holds list"),
        ({"x": [b"1"] * N}, {}, "column 'x': must hold numbers, texts, booleans or dates; it holds binary"),
        (
            {"x": pa.array([2**30, *range(N - 1)], pa.date32())},
            {},
            "column 'x': must hold dates of the years 1 to 9999",
        ),
        ({}, {"columns": {"kinds": {"city": "numeric"}}}, "column 'city': must be numeric, as data.columns.kinds says"),
        (
            {"x": ["y", *["z" * 1_000_000]] * (N // 2)},
            {},
            "t.parquet, row 1: a cell must have at most 65,536 bytes; column",
        ),
        ({"logits": np.arange(N) % 9}, {}, "column 'logits': must not be called as a column of kd_ray's own files is"),
        ({"label": np.arange(N)}, {"columns": {"ids": ["label"]}}, "column 'label': must not be called as a column"),
        (
            {"w": np.arange(N) - 3.0},
            {"columns": {"weight": "w"}},
            "row 0: column 'w': weights must be at least 0; 3 are",
        ),
        ({"w": np.zeros(N)}, {"columns": {"weight": "w"}}, "column 'w': weights must not all be 0"),
        (
            {"w": ["1"] * N},
            {"columns": {"weight": "w"}},
            "column 'w': data.columns.weight must be numbers; it is string",
        ),
        (
            {"w": [None] + [1] * (N - 1)},
            {"columns": {"weight": "w"}},
            "'w': data.columns.weight must be there in every row",
        ),
        (
            {"h": [None] + [1] * (N - 1)},
            {"columns": {"group": "h"}},
            "'h': data.columns.group must be there in every row",
        ),
        ({"h": [1] * N}, {"columns": {"group": "h"}}, "data.split.test: must leave groups to train on"),
        (
            {"part": ["train", "dev"] * 100},
            SAID,
            "row 1: column 'part': data.columns.split must say train, valid or test; got",
        ),
        ({"part": ["train", "valid"] * 100}, SAID, "column 'part': data.columns.split must have rows that say test"),
        (
            {"part": np.where(np.array(COLUMNS["churned"]) == "yes", "test", "train")},
            SAID,
            "the train split must have rows of every class; 'yes' of 2 classes has no training row",
        ),
        (
            {"part": SPLIT, "h": np.arange(N) // 50},
            {"columns": {"split": "part", "group": "h"}},
            "column 'part': rows of one group must stay in one split; 4 groups of 'h' do not",
        ),
        (
            {"part": SPLIT} | {name: TABLE[name].take(np.arange(N) // 2) for name in TABLE.column_names},
            SAID,
            "the splits that it says must not overlap; 100 of 100 test rows are training rows too, such as",
        ),
        ({}, {"split": {"test": 2}}, "the test split must have rows of every class; "),
        ({}, {"split": {"test": 300}}, "data.split.test: must leave rows to train on; it takes 300 of 200 rows"),
        ({}, {"split": {"test": 1, "stratify": True}}, "data.split.test: cannot be stratified: "),
    ],
)
def test_a_table_that_cannot_be_learned_from_is_refused(
    tmp_path: Path, columns: dict[str, Any], knobs: dict[str, Any], says: str
) -> None:
    lines = refused(tmp_path, changed(**columns), **knobs)
    assert any(says in line for line in lines), lines


@pytest.mark.parametrize(
    ("columns", "group", "says"),
    [
        ({"p": [0.5] * N}, {"columns": [["p", "q"]]}, "teachers.groups: columns must be of the table; there is no 'q'"),
        ({"p": [0.5] * N, "q": [0.7] * N}, {"columns": [["p", "q"]]}, "in 200 rows they do not: mend them"),
        (
            {"p": [1.5] * N, "q": [-0.5] * N},
            {"columns": [["p", "q"]]},
            "row 0: columns p, q: teachers.groups says that they",
        ),
        (
            {"p": ["x"] * N, "q": [0.5] * N},
            {"columns": [["p", "q"]]},
            "columns p, q: must be numbers for teachers.groups",
        ),
        (
            {"p": BAD_FLOATS, "q": [0.5] * N},
            {"columns": [["p", "q"]], "values": "logits"},
            "'p': a member's word must be",
        ),
        (
            {"p": [1.0] * N},
            {"columns": [["p"]]},
            "teachers.groups: a member must have a column for each of the 2 classes",
        ),
    ],
)
def test_columns_that_are_no_members_word_are_refused(
    tmp_path: Path, columns: dict[str, Any], group: dict[str, Any], says: str
) -> None:
    lines = refused(tmp_path, changed(**columns), teachers={"groups": [{"kind": "columns", **group}]})
    assert any(says in line for line in lines), lines


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"age": None}, "data.unlabelled: must have one column 'age'; there is none"),
        ({"age": ["old"] * N}, "data.unlabelled: column 'age' must be numeric as in training; it is string"),
        ({"age": BAD_FLOATS}, "column 'age' must hold finite numbers; 2 are infinite"),
        ({"customer_id": None}, "data.unlabelled: must have the columns kept beside the rows; it lacks customer_id"),
    ],
)
def test_unlabelled_rows_of_another_kind_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    pq.write_table(changed(churned=None, **change), tmp_path / "more.parquet")
    lines = refused(tmp_path, unlabelled=str(tmp_path / "more.parquet"), columns={"ids": ["customer_id"]})
    assert any(says in line for line in lines), lines


def test_all_mistakes_are_found_at_once(tmp_path: Path) -> None:
    bad = changed(x=BAD_FLOATS, churned=["no"] * N, w=-np.ones(N), y=pa.nulls(N))
    lines = refused(tmp_path, bad, columns={"weight": "w", "ids": ["nothing"]}, unlabelled=str(tmp_path / "no.csv"))
    for says in (
        "'x' must hold finite",
        "at least 2 classes",
        "weights must be",
        "'y': must have",
        "'nothing'",
        "no.csv",
    ):
        assert sum(says in line for line in lines) == 1, lines
    assert len(lines) == 6


def test_mistakes_in_files_and_in_columns_are_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("x,y,churned\n1,2\n1,2,no\ninf,3,no\n")
    (tmp_path / "in/b.csv").write_text("x,y,churned\n1,two,no\n\x00")
    lines = refused(tmp_path, source=str(tmp_path / "in"))
    for says in (
        "a.csv, line 2: must have 3 cells",
        "b.csv, line 3: must be text",
        "at least 2 classes",
        "a.csv, line 4: ",
    ):
        assert sum(says in line for line in lines) == 1, lines


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pacsv.write_csv(TABLE, path)
    from kd_ray.data.sources import open_source
    from kd_ray.mistakes import Mistakes

    source = open_source(Config.of({"data": {"source": str(path)}}).data, Mistakes(), tmp_path)
    pacsv.write_csv(TABLE.slice(0, 50), path)
    with pytest.raises(DataError, match="must hold still while it is read; 200 rows were counted, 50 came"):
        list(passes.rows_of(source, source.pieces, ["age"]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["train", "test"])), min_size=4, max_size=60))
def test_overlap_counts_test_rows_with_a_twin_in_training(rows: list[tuple[int, str]]) -> None:
    value_N = np.array([value for value, _ in rows], np.uint64)
    split_N = np.array([splits.SPLITS.index(split) for _, split in rows], np.int8)
    count, n_test, test, train = splits.overlap(split_N, value_N)
    training = {value for value, split in rows if split == "train"}
    twins = [value for value, split in rows if split == "test" and value in training]
    assert count in (0, len(twins))
    assert n_test == sum(split == "test" for _, split in rows)
    if count:
        assert value_N[test] == value_N[train]
        assert (split_N[test], split_N[train]) == (splits.TEST, splits.TRAIN)


def test_twins_by_chance_in_a_table_of_few_different_rows_are_no_overlap() -> None:
    rng = np.random.default_rng(0)
    value_N = rng.integers(0, 20, 5000).astype(np.uint64)
    assert splits.overlap(rng.choice([0, 2], 5000).astype(np.int8), value_N)[0] == 0


def test_check_says_what_a_run_would_do(tmp_path: Path) -> None:
    made = config(tmp_path, TABLE, split={"valid": 0.1, "stratify": True}, columns={"ids": ["mail"]})
    found, _ = data.check(made, Session())
    assert found["rows"] == {"train": 144, "valid": 16, "test": 40}
    assert found["transfer_rows"] == 144 * 41
    assert {c: sum(counts.values()) for c, counts in found["classes"].items()} == {
        c: COLUMNS["churned"].tolist().count(c) for c in ("no", "yes")
    }
    assert found["features"] >= prepared(tmp_path, columns={"ids": ["mail"]}).n_features
    assert json.loads(json.dumps(found)) == found
    text = "\n".join(data.lines(found))
    for word in (
        "200 rows",
        "train 144",
        "city                 categorical",
        "looks like an id",
        "12 x mlp",
        "5,904 rows",
    ):
        assert word in text
    assert not (tmp_path / "runs").exists()


def test_check_knows_generated_rows_too() -> None:
    found, _ = data.check(Config(), Session())
    assert found["rows"] == {"train": 4000, "valid": 0, "test": 1000}
    assert len(found["columns"]) == 20


def test_a_starter_is_a_config_for_the_table(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "my rows.parquet")
    text = data.starter(str(tmp_path / "my rows.parquet"), "churned")
    (tmp_path / "config.yaml").write_text(text)
    made = Config.from_yaml(tmp_path / "config.yaml")
    assert made.name == "my-rows"
    assert made.data.columns.kinds == {"age": "numeric", "city": "categorical", "vip": "categorical", "since": "date"}
    assert made.data.task == "classification"
    assert (made.data.split.valid, made.data.split.stratify) == (0.1, True)
    assert "#   customer_id: looks like an id: no value comes twice" in text
    assert data.check(made, Session())[0]["rows"]["train"] == 144


@pytest.mark.parametrize("rows", [100, 19_999, 20_000, 60_000, 160_000, 1_000_000, 50_000_000])
def test_a_starters_sizes_suit_the_rows(rows: int) -> None:
    factor, epochs = recipe.sizes(rows)
    if rows <= 20_000:
        assert (factor, epochs) == (40, 400)
    assert rows * epochs * 4 <= 100_000_000 or epochs == 5
    assert rows * factor <= 2_000_000 or factor == 1
