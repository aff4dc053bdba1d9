"""Every file of a run, read back with plain libraries."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from kd_ray import Config, Result

pytestmark = pytest.mark.ray

N_FEATURES, N_CLASSES, TEACHERS, FACTOR = 8, 3, 4, 2


def rows(result: Result, split: str) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    table = pa.dataset.dataset(f"{result.path}/data/{split}").to_table().sort_by("row_id")
    features = torch.tensor(np.array(table["features"].to_pylist(), np.float32))
    return table["row_id"].to_numpy(), features, table["label"].to_numpy()


def teacher(result: Result, member: int) -> nn.Sequential:
    layers = (nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8), nn.ReLU())
    module = nn.Sequential(*layers, nn.Linear(8, N_CLASSES)).eval()
    module.load_state_dict(load_file(f"{result.path}/teachers/{member:04d}/model.safetensors"))
    return module


def student(result: Result, role: str = "student") -> nn.Sequential:
    module = nn.Sequential(nn.Linear(N_FEATURES, 8), nn.ReLU(), nn.Linear(8, N_CLASSES))
    module.load_state_dict(load_file(f"{result.path}/{role}/model.safetensors"))
    return module


def test_the_splits_have_all_rows_once(small: Result) -> None:
    ids = np.concatenate([rows(small, split)[0] for split in ("train", "valid", "test")])
    assert sorted(ids) == list(range(603))
    assert small.evaluation["rows"] == {"train": 433, "valid": 49, "test": 121, "transfer": 433 * (1 + FACTOR)}


def test_the_resolved_config_reads_back_as_it_was(small: Result) -> None:
    assert Config.of(yaml.safe_load(Path(small.path, "config.yaml").read_text())) == small.config


def test_every_manifest_says_what_its_files_are(small: Result) -> None:
    seen = 0
    manifests = [*Path(small.path).glob("*/manifest.json"), *Path(small.path).glob("teachers/*/teacher.json")]
    for path in manifests:
        for record in json.loads(path.read_text())["files"]:
            content = Path(small.path, record["path"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (record["bytes"], record["sha256"])
            if record["path"].endswith(".parquet") and record["rows"] is not None:
                assert pq.read_metadata(Path(small.path, record["path"])).num_rows == record["rows"]
            seen += 1
    assert seen > 3 + 2 * TEACHERS


def test_soft_targets_have_the_promised_columns_and_every_row_once(small: Result) -> None:
    table = pa.dataset.dataset(f"{small.path}/soft_targets", exclude_invalid_files=True).to_table()
    assert table.schema.field("row_id").type == pa.int64()
    assert table.schema.field("features").type == pa.list_(pa.field("element", pa.float32()), N_FEATURES)
    assert table.schema.field("logits").type == pa.list_(pa.field("element", pa.float32()), N_CLASSES)
    members = pa.list_(pa.field("element", pa.float16()), TEACHERS * N_CLASSES)
    assert table.schema.field("member_log_probs").type == members
    train_ids, _, _ = rows(small, "train")
    expected = np.concatenate([train_ids + copy * 603 for copy in range(1 + FACTOR)])
    assert sorted(table["row_id"].to_pylist()) == sorted(expected)
    frame = table.to_pandas()
    assert (frame["parent_row_id"] == frame["row_id"] % 603).all()
    assert (frame["label"].isna() == (frame["origin"] == "noise")).all()
    assert frame["origin"].value_counts().to_dict() == {"train": 433, "noise": 433 * FACTOR}


def test_soft_targets_are_what_each_teacher_says_of_the_row(small: Result) -> None:
    table = pa.dataset.dataset(f"{small.path}/soft_targets", exclude_invalid_files=True).to_table()
    features = torch.tensor(np.array(table["features"].to_pylist(), np.float32))
    with torch.no_grad():
        logits_KNC = torch.stack([teacher(small, member)(features) for member in range(TEACHERS)])
    np.testing.assert_allclose(np.array(table["logits"].to_pylist()), logits_KNC.mean(0), atol=1e-5)
    stored = np.array(table["member_log_probs"].to_pylist()).reshape(-1, TEACHERS, N_CLASSES)
    np.testing.assert_allclose(stored, logits_KNC.log_softmax(-1).permute(1, 0, 2), atol=4e-3, rtol=1e-3)


@pytest.mark.parametrize("role", ["student", "baseline", "augmented_control"])
def test_metrics_recomputed_from_the_files_equal_the_evaluation(small: Result, role: str) -> None:
    _, features, label_N = rows(small, "test")
    with torch.no_grad():
        prob_NC = student(small, role)(features).double().softmax(-1).numpy()
    found = small.evaluation["metrics"][role]
    assert found["accuracy"] == pytest.approx((prob_NC.argmax(1) == label_N).mean())
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(label_N, prob_NC), abs=1e-6)
    assert found["roc_auc"] == pytest.approx(
        sklearn.metrics.roc_auc_score(label_N, prob_NC, multi_class="ovr"), abs=1e-6
    )


def test_the_ensemble_is_scored_on_its_mean_logits(small: Result) -> None:
    _, features, label_N = rows(small, "test")
    with torch.no_grad():
        logits = torch.stack([teacher(small, m)(features) for m in range(TEACHERS)]).double().mean(0)
    prob_NC = logits.softmax(-1).numpy()
    assert small.evaluation["metrics"]["ensemble"]["nll"] == pytest.approx(
        sklearn.metrics.log_loss(label_N, prob_NC), abs=1e-6
    )


def test_the_replica_with_the_best_validation_nll_is_delivered(small: Result) -> None:
    _, features, label_N = rows(small, "valid")
    stacked = load_file(f"{small.path}/student/replicas.safetensors")
    nlls = []
    for replica in range(2):
        module = nn.Sequential(nn.Linear(N_FEATURES, 8), nn.ReLU(), nn.Linear(8, N_CLASSES))
        prefix = f"{replica}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in stacked.items() if k.startswith(prefix)})
        nlls.append(nn.functional.cross_entropy(module(features), torch.tensor(label_N).long()).item())
    facts = json.loads(Path(small.path, "student/metrics.json").read_text())
    assert facts["replica"] == int(np.argmin(nlls))
    assert facts["valid_nll"] == pytest.approx(nlls, abs=1e-5)


def test_run_json_has_each_stage_seconds(small: Result) -> None:
    record = json.loads(Path(small.path, "run.json").read_text())
    assert list(record["stages"]) == ["data", "teachers", "soft_targets", "student", "evaluation", "export", "report"]
    assert all(stage["seconds"] > 0 for stage in record["stages"].values())
    assert set(record["stages"]["student"]["training_seconds"]) == {"student", "baseline", "augmented_control"}


def test_history_has_a_row_for_each_epoch_and_replica(small: Result) -> None:
    table = pq.read_table(f"{small.path}/student/history.parquet").to_pandas()
    assert len(table) == 4 * 2
    assert np.isfinite(table[["loss", "valid_nll"]].to_numpy()).all()
