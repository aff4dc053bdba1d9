"""The soft targets read back, against the rows that were written."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kd_ray import tables
from kd_ray.errors import ManifestError
from kd_ray.rundir import Manifest, RunDir
from kd_ray.tables import Dataset
from kd_ray.transfer_set import ORIGINS, TransferSet, read_transfer_set

CLASSES = {"kind": "classification", "classes": ["a", "b", "c"]}
NUMBER = {"kind": "regression", "mean": 5.0, "scale": 2.0}
S = 100  # source rows: copy 1 of row 3 has the id 103


def soft(run: RunDir, number: int, row_id: list[int], label: list[Any], outputs: int, **columns: Any) -> Any:
    """One file of soft targets whose every number can be told from its row's id."""
    ids = np.array(row_id)
    table = {
        "row_id": ids,
        "parent_row_id": columns.pop("parent", ids % S),
        "origin": np.where(ids < S, np.where(ids < 50, "train", "unlabelled"), "swap"),
        "features": tables.fixed_lists(np.stack([ids, -ids], 1).astype(np.float32), pa.float32()),
        "label": pa.array(label, pa.float32() if outputs == 1 else pa.int32()),
        "logits": tables.fixed_lists(np.repeat(ids[:, None] / 10, outputs, 1), pa.float32()),
        **columns,
    }
    return tables.write(run, f"soft_targets/{number:05d}.parquet", pa.table(table))


def opened(run: RunDir, task: dict[str, Any], files: list[Any], rows: int, **splits: pa.Table) -> Dataset:
    schema = run.write_json("data/schema.json", {"task": task, "features": {"shape": [2]}, "rows": {"train": 3}})
    records = [tables.write(run, f"data/{split}/00000.parquet", table) for split, table in splits.items()]
    data = Manifest(fingerprint="data", files=[schema, *records], summary={})
    run.write_bytes("data/manifest.json", data.to_json())
    summary = {"rows": rows, "member_log_probs": "member_log_probs" in str(files)}
    run.write_bytes("soft_targets/manifest.json", Manifest(fingerprint="s", files=files, summary=summary).to_json())
    return Dataset.open(run)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path), "run")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_rows_come_in_order_of_their_ids_from_files_in_any_order(run: RunDir, order: list[int]) -> None:
    files = [
        soft(run, 0, [1, 2], [0, 2], 3),
        soft(run, 1, [7, 101], [1, None], 3),
        soft(run, 2, [102, 207], [None, None], 3),
    ]
    found = read_transfer_set(opened(run, CLASSES, [files[i] for i in order], 6), "logits")
    assert found.row_id_N.tolist() == [1, 2, 7, 101, 102, 207]
    assert found.features_ND[:, 1].tolist() == [-1, -2, -7, -101, -102, -207]
    assert found.label_N.tolist() == [0, 2, 1, -1, -1, -1]
    assert found.parent_label_N.tolist() == [0, 2, 1, 0, 2, 1]
    assert found.real_N.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.log_prob_NMC[:, 0, 2], found.row_id_N / 10, rtol=1e-6)
    assert found.weight_N is None


def test_an_unlabelled_row_is_its_own_parent_and_neither_it_nor_its_copies_have_a_label(run: RunDir) -> None:
    files = [soft(run, 0, [1, 50, 101, 150], [2, None, None, None], 3)]
    found = read_transfer_set(opened(run, CLASSES, files, 4), "logits")
    assert found.parent_label_N.tolist() == [2, -1, 2, -1]
    assert [ORIGINS[at] for at in found.origin_N] == ["train", "unlabelled", "swap", "swap"]
    assert found.real_N.tolist() == [0]


@pytest.mark.parametrize("averaging", ["logits", "probabilities"])
def test_a_regression_has_numbers_for_labels_and_means_whatever_the_averaging(run: RunDir, averaging: str) -> None:
    found = read_transfer_set(opened(run, NUMBER, [soft(run, 0, [1, 2, 101], [0.5, -2.0, None], 1)], 3), averaging)
    assert found.is_regression
    np.testing.assert_array_equal(found.label_N, np.array([0.5, -2.0, np.nan], np.float32))
    assert found.parent_label_N.tolist() == [0.5, -2.0, 0.5]
    np.testing.assert_allclose(found.log_prob_NMC, np.array([0.1, 0.2, 10.1]).reshape(3, 1, 1), rtol=1e-6)


def test_a_row_has_the_weight_of_its_parent_and_1_where_the_parents_file_has_none(run: RunDir) -> None:
    def rows(ids: list[int], **more: Any) -> pa.Table:
        features = tables.fixed_lists(np.zeros((len(ids), 2), np.float32), pa.float32())
        return pa.table({"row_id": ids, "features": features, "label": pa.nulls(len(ids), pa.int32()), **more})

    files = [soft(run, 0, [1, 2, 50, 101, 102, 150], [2, 0, None, None, None, None], 3)]
    train = rows([2, 1, 9], weight=pa.array([4.0, 0.5, 7.0], pa.float32()))
    data = opened(run, CLASSES, files, 6, train=train, unlabelled=rows([50]))
    assert read_transfer_set(data, "logits").weight_N.tolist() == [0.5, 4.0, 1.0, 0.5, 4.0, 1.0]


def test_soft_targets_that_lack_rows_are_refused(run: RunDir) -> None:
    data = opened(run, CLASSES, [soft(run, 0, [1, 2], [0, 1], 3)], 5)
    with pytest.raises(ManifestError, match="must hold 5 rows, each id once; it holds 2 rows of 2 ids"):
        read_transfer_set(data, "logits")


def test_soft_targets_with_a_row_twice_are_refused(run: RunDir) -> None:
    data = opened(run, CLASSES, [soft(run, 0, [1, 2], [0, 1], 3), soft(run, 1, [2], [1], 3)], 3)
    with pytest.raises(ManifestError, match="must hold 3 rows, each id once; it holds 3 rows of 2 ids"):
        read_transfer_set(data, "logits")


def test_a_row_whose_parent_is_missing_is_refused(run: RunDir) -> None:
    data = opened(run, CLASSES, [soft(run, 0, [1, 102], [0, None], 3)], 2)
    with pytest.raises(ManifestError, match="a row's parent is not among the rows"):
        read_transfer_set(data, "logits")


def test_probabilities_cannot_be_averaged_where_the_members_were_not_kept(run: RunDir) -> None:
    data = opened(run, CLASSES, [soft(run, 0, [1], [0], 3)], 1)
    with pytest.raises(ManifestError, match=r"needs each member's log-probabilities.*; use logits"):
        read_transfer_set(data, "probabilities")


def test_a_run_without_soft_targets_is_refused(run: RunDir) -> None:
    data = opened(run, CLASSES, [], 0)
    run.remove("soft_targets/manifest.json")
    with pytest.raises(ManifestError, match="has no finished soft targets"):
        read_transfer_set(data, "logits")


@pytest.mark.parametrize("averaging", ["logits", "probabilities"])
def test_soft_targets_made_in_blocks_are_the_members_average(averaging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits_NMC = rng.normal(size=(50, 4, 3))
    log_prob_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(-1, keepdims=True))
    ids, label_N = np.arange(50), np.zeros(50, np.int64)
    transfer = TransferSet(
        row_id_N=ids,
        features_ND=np.zeros((50, 1)),
        label_N=label_N,
        parent_label_N=label_N,
        origin_N=np.zeros(50, np.int8),
        log_prob_NMC=log_prob_NMC.astype(np.float16),
    )
    monkeypatch.setattr("kd_ray.transfer_set.ROWS_AT_ONCE", 7)
    scaled = log_prob_NMC / 2.0
    if averaging == "logits":
        mean = np.exp(scaled.mean(1))
    else:
        mean = (np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)).mean(1)
    expected = mean / mean.sum(-1, keepdims=True)
    np.testing.assert_allclose(transfer.soft_targets(2.0, averaging), expected, atol=2e-3)
