"""Tables that come from Ray Data, or are worked on by it."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray import data
from kd_ray.config import Config
from kd_ray.data import passes
from kd_ray.errors import DataError
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.tables import Dataset, read

pytestmark = pytest.mark.ray
N = 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for number in range(3):
        table = pa.table(
            {
                "age": pa.array(rng.normal(40, 10, N), mask=rng.random(N) < 0.1),
                "city": rng.choice(["Bonn", "Rome", "Oslo"], N),
                "key": [f"{number}-{i}" for i in range(N)],
                "target": rng.choice(["no", "yes"], N),
            }
        )
        (tmp_path / "rows").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"rows/{number}.parquet", row_group_size=200, write_page_checksum=True)
    return tmp_path


def prepared(folder: Path, name: str, source: str) -> Dataset:
    run = RunDir.at(str(folder), name)
    config = Config.of({"data": {"source": source, "columns": {"ids": ["key"]}, "split": {"valid": 0.1}}})
    with Session() as session:
        data.prepare(config, run, session, lambda done, total, note: None, "fingerprint")
    return Dataset.open(run)


@pytest.mark.usefixtures("node")
def test_ray_makes_what_a_loop_makes_to_the_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "UNIT_ROWS", 300)
    alone = prepared(folder, "alone", str(folder / "rows"))
    monkeypatch.setattr(passes, "PARALLEL_BYTES", 0)
    by_ray = prepared(folder, "by-ray", str(folder / "rows"))
    assert [record.sha256 for record in by_ray.manifest.files] == [record.sha256 for record in alone.manifest.files]
    assert len(by_ray.files("train")) > 3


@pytest.mark.usefixtures("node")
def test_damage_that_a_ray_worker_finds_is_said_as_a_loop_says_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PARALLEL_BYTES", 0)
    path = folder / "rows/1.parquet"
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepared(folder, "damaged", str(folder / "rows"))
    assert str(caught.value).startswith(f"{path}: must be whole Parquet; it is truncated, damaged or no Parquet")


@pytest.mark.usefixtures("node")
def test_a_function_may_return_a_ray_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "mine.py").write_text(
        "import ray.data\n"
        f"def rows(): return ray.data.read_parquet({str(folder / 'rows')!r}).sort('key')\n"
        "def none(): return ray.data.from_items([])\n"
    )
    found = prepared(folder, "dataset", "mine:rows")
    assert sum(found.schema["rows"].values()) == 3 * N
    keys = sorted(f"{number}-{i}" for number in range(3) for i in range(N))
    for record in found.files("test"):
        table = read(found.run, record)
        assert table["key"].to_pylist() == [keys[i] for i in table["row_id"].to_pylist()]
    with pytest.raises(DataError, match="the Dataset that mine:none returns must hold rows"):
        prepared(folder, "none", "mine:none")
    sys.modules.pop("mine")
