"""Parquet of the run directory: readable by anyone, damage found."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray import tables
from kd_ray.errors import ManifestError
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.tables import Dataset, Positions, Rows


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path), "trial")


def table(n_rows: int, first: int = 0) -> pa.Table:
    ids = np.arange(first, first + n_rows)
    return pa.table(
        {
            "row_id": ids,
            "features": tables.fixed_lists(np.outer(ids, [1, 10]).astype(np.float32), pa.float32()),
            "label": pa.array(ids % 3, pa.int32()),
        }
    )


def test_a_table_is_read_as_it_was_written_by_us_and_by_others(run: RunDir) -> None:
    record = tables.write(run, "data/train/0.parquet", table(10))
    assert record.rows == 10
    assert tables.read(run, record).equals(table(10))
    assert pq.read_table(run.path(record.path)).equals(table(10))
    frame = pd.read_parquet(run.path(record.path))
    assert list(frame["features"][3]) == [3.0, 30.0]


def test_a_flipped_bit_anywhere_is_found(run: RunDir) -> None:
    record = tables.write(run, "t.parquet", table(50))
    content = Path(run.path("t.parquet")).read_bytes()
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print("seed", seed)
    for at in np.random.default_rng(seed).integers(0, len(content), 30):
        damaged = bytearray(content)
        damaged[at] ^= 1
        Path(run.path("t.parquet")).write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"t\.parquet"):
            tables.read(run, record)


def test_a_wrong_count_of_rows_is_found(run: RunDir) -> None:
    record = tables.write(run, "t.parquet", table(5))
    lying = FileRecord(path=record.path, bytes=record.bytes, sha256=record.sha256, rows=6)
    with pytest.raises(ManifestError, match=r"must hold 6 rows as its manifest says; it holds 5"):
        tables.read(run, lying)


def test_rows_come_in_order_of_their_ids_and_each_once() -> None:
    shuffled = table(20).take(np.random.default_rng(0).permutation(20))
    rows = Rows.of(shuffled)
    assert rows.row_id_N.tolist() == list(range(20))
    assert rows.features_ND[:, 1].tolist() == [10.0 * i for i in range(20)]
    with pytest.raises(ManifestError, match="row_id: must be unique"):
        Rows.of(pa.concat_tables([table(3), table(1)]))


def dataset(run: RunDir, files: list[FileRecord], levels: list[int]) -> Dataset:
    schema = {"features": {"shape": [2], "names": ["a", "b"], "levels": levels}, "task": {"kind": "classification"}}
    return Dataset(run, Manifest(fingerprint="f", files=files, summary={}), schema)


@pytest.mark.parametrize(("code", "said"), [(5, "5"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan")])
def test_a_code_without_a_level_is_found_and_named(run: RunDir, code: float, said: str) -> None:
    features_ND = np.array([[7, 4], [8, 0], [9, code]], np.float32)
    rows = table(3).set_column(1, "features", tables.fixed_lists(features_ND, pa.float32()))
    data = dataset(run, [tables.write(run, "data/train/0.parquet", rows)], [0, 5])
    line = (
        f"{run}/{{}}: feature 'b' must be a whole number from 0 to 4, as data/schema.json says; row 2 has {said}: "
        "delete the run's folder and run again"
    )
    with pytest.raises(ManifestError) as error:
        data.rows("train")
    assert str(error.value) == line.format("data/train")
    with pytest.raises(ManifestError) as error:
        Positions(data, "train").take(0, 1)
    assert str(error.value) == line.format("data/train/0.parquet")


def test_codes_of_every_level_are_taken(run: RunDir) -> None:
    data = dataset(run, [tables.write(run, "data/train/0.parquet", table(5))], [5, 41])
    assert data.rows("train").features_ND.max(0).tolist() == [4, 40]


def test_positions_are_slices_of_the_whole_split(run: RunDir) -> None:
    files = [tables.write(run, f"data/train/{i}.parquet", table(7, first=7 * i)) for i in range(3)]
    positions = Positions(dataset(run, files, [0, 0]), "train")
    assert len(positions) == 21
    for first, past in ((0, 21), (0, 1), (6, 8), (5, 20), (20, 21)):
        assert positions.take(first, past).row_id_N.tolist() == list(range(first, past))
