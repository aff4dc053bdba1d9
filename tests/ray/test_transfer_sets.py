"""A table with categories, missing numbers and unlabelled rows, through every kind of synthesis."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kd_ray import Result
from kd_ray.rundir import RunDir
from kd_ray.tables import Dataset, to_numpy

pytestmark = pytest.mark.ray

KINDS = ["mixup", "munge", "noise", "swap"]
TRAIN, TEST, UNLABELLED, FACTOR = 200, 100, 50, 4


def columns(rows: int, seed: int) -> dict[str, pa.Array]:
    rng = np.random.default_rng(seed)
    return {
        "age": pa.array(rng.normal(40, 10, rows), mask=rng.random(rows) < 0.1),
        "city": pa.array(rng.choice(["Bonn", "Rome", "Oslo"], rows)),
        "shop": pa.array([f"shop {code}" for code in rng.integers(0, 30, rows)]),
    }


@pytest.fixture(scope="module")
def labelled(do: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Do a small run over the table with some rows a file of soft targets."""
    folder = tmp_path_factory.mktemp("table")
    known = columns(TRAIN + TEST, seed=0)
    answer = pc.if_else(pc.equal(known["city"], "Rome"), "yes", "no")
    pq.write_table(pa.table({**known, "bought": answer}), folder / "known.parquet", write_page_checksum=True)
    pq.write_table(pa.table(columns(UNLABELLED, seed=1)), folder / "new.parquet", write_page_checksum=True)

    def label(rows_per_file: int | str) -> Result:
        transfer = {"kind": "mix", "mix": dict.fromkeys(KINDS, 1), "factor": FACTOR}
        return do(
            folder / str(rows_per_file),
            data={
                "source": str(folder / "known.parquet"),
                "unlabelled": str(folder / "new.parquet"),
                "columns": {"target": "bought"},
                "split": {"test": TEST, "valid": 0},
            },
            soft_targets={"transfer": transfer, "rows_per_file": rows_per_file},
        )

    return label


@pytest.fixture(scope="module")
def result(labelled: Callable[..., Result]) -> Result:
    return labelled("auto")


def soft_targets(result: Result) -> pa.Table:
    files = sorted(Path(result.path).glob("soft_targets/*.parquet"))
    return pa.concat_tables(pq.read_table(file) for file in files).sort_by("row_id")


def test_every_sharding_gives_the_same_rows_and_soft_targets(result: Result, labelled: Callable[..., Result]) -> None:
    assert soft_targets(labelled(37)).equals(soft_targets(result))


def test_the_transfer_set_is_every_row_that_is_there_and_copies_of_all_kinds(result: Result) -> None:
    table = soft_targets(result)
    origins = {item["values"]: item["counts"] for item in table["origin"].value_counts().to_pylist()}
    assert sorted(origins) == sorted([*KINDS, "train", "unlabelled"])
    assert (origins["train"], origins["unlabelled"]) == (TRAIN, UNLABELLED)
    assert sum(origins[kind] for kind in KINDS) == FACTOR * (TRAIN + UNLABELLED)
    own = pc.equal(table["row_id"], table["parent_row_id"])
    assert own.equals(pc.is_in(table["origin"], pa.array(["train", "unlabelled"])))
    assert pc.is_valid(table["label"]).equals(pc.equal(table["origin"], "train"))
    copy_N, parent_N = np.divmod(to_numpy(table["row_id"]), TRAIN + TEST + UNLABELLED)
    assert np.array_equal(parent_N, to_numpy(table["parent_row_id"]))
    assert np.bincount(copy_N).tolist() == [TRAIN + UNLABELLED] * (1 + FACTOR)


def test_synthesized_codes_and_indicators_are_values_of_the_table(result: Result) -> None:
    data = Dataset.open(RunDir.at(str(Path(result.path).parent), Path(result.path).name))
    names = data.schema["features"]["names"]
    assert names == ["age", "age=missing", "city", "shop"]
    features_ND = to_numpy(soft_targets(result)["features"])
    assert set(features_ND[:, 1]) == {0.0, 1.0}
    for d in (2, 3):
        assert set(features_ND[:, d]) <= set(range(data.levels_D[d]))
    assert len(np.unique(features_ND[:, 0])) > FACTOR * TRAIN / 2


def test_a_student_learns_from_all_of_it(result: Result) -> None:
    found = result.evaluation
    assert found["rows"]["transfer"] == (1 + FACTOR) * (TRAIN + UNLABELLED)
    assert np.isfinite(found["metrics"]["student"]["nll"])
    assert np.isfinite(found["metrics"]["augmented_control"]["nll"])
