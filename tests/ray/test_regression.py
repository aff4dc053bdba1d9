"""A regression from its data to its summary; teachers and soft targets are made here, from foundations alone."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
import torch
from rich.console import Console
from safetensors.torch import load_file, save
from torch import nn

from kd_ray import Config, Result, evaluate, student, tables
from kd_ray.feeds import Streams
from kd_ray.losses import squared_error
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.session import Session
from kd_ray.summary import show
from kd_ray.tables import TEACHERS_MANIFEST
from kd_ray.training import Recipe, fit

pytestmark = pytest.mark.ray
BUNDLE = {"variants": [{"name": "student", "bytes": 1_000, "recommended": True}]}

MEAN, SCALE, MEMBERS, S = 200.0, 50.0, 6, 4200
SPLITS = {"train": (0, 100), "valid": (100, 150), "test": (150, 4150), "unlabelled": (4150, 4200)}
CONFIG = Config.of(
    {
        "data": {"task": "regression"},
        "teachers": {"count": MEMBERS, "model": {"hidden": [32], "dropout": [0.0]}},
        "student": {
            "model": {"hidden": [16]},
            "epochs": 500,
            "batch_size": 25,
            "replicas": 2,
            "alpha": 0.9,
            "learning_rate": 1e-2,
        },
    }
)


def truth(features_ND: np.ndarray) -> np.ndarray:
    return np.sin(features_ND[:, 0]) + 0.5 * features_ND[:, 1] ** 2 - 0.5


RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(S, 3)).astype(np.float32)
LABELS = (truth(FEATURES) + 0.5 * RNG.normal(size=S)).astype(np.float32)


def rows_of(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.arange(*SPLITS[split])
    return ids, FEATURES[ids], LABELS[ids]


def write_data(run: RunDir) -> None:
    files = []
    for split in SPLITS:
        ids, features_ND, label_N = rows_of(split)
        label = pa.nulls(len(ids), pa.float32()) if split == "unlabelled" else label_N
        columns = {"row_id": ids, "features": tables.fixed_lists(features_ND, pa.float32()), "label": label}
        files.append(tables.write(run, f"data/{split}/00000.parquet", pa.table(columns)))
    rows = {split: past - first for split, (first, past) in SPLITS.items()}
    task = {"kind": "regression", "mean": MEAN, "scale": SCALE}
    files.append(run.write_json("data/schema.json", {"task": task, "features": {"shape": [3]}, "rows": rows}))
    run.write_bytes("data/manifest.json", Manifest(fingerprint="data", files=files, summary={}).to_json())


def write_teachers(run: RunDir) -> PackedMLP:
    _, features_ND, label_N = rows_of("train")
    labels = torch.from_numpy(label_N)
    spec = MLP.of(n_features=3, hidden=[32], n_classes=1, dropout=[0.0])
    streams = [Streams.of(member) for member in range(MEMBERS)]
    pack = PackedMLP(spec, MEMBERS)
    for member, stream in enumerate(streams):
        pack.load(member, spec.initial_weights(stream.weights))
    recipe = Recipe(epochs=150, steps=4, batch_size=25, learning_rate=2e-2, weight_decay=0.0, schedule="cosine")
    list(
        fit(
            pack,
            torch.from_numpy(features_ND),
            lambda values_CKB, rows_KB, weight_KB: squared_error(values_CKB, labels[rows_KB], weight_KB),
            rows=[np.arange(len(labels))] * MEMBERS,
            streams=streams,
            recipe=recipe,
            names=[f"teacher {member}" for member in range(MEMBERS)],
        )
    )
    files = []
    for member in range(MEMBERS):
        files.append(run.write_bytes(f"teachers/{member:04d}/model.safetensors", save(pack.weights(member))))
        run.write_bytes(
            f"teachers/{member:04d}/teacher.json", Manifest(fingerprint="t", files=files[-1:], summary={}).to_json()
        )
    run.write_bytes(TEACHERS_MANIFEST, Manifest(fingerprint="t", files=files, summary={}).to_json())
    return pack


def write_soft_targets(run: RunDir, teachers: PackedMLP) -> int:
    """Training and unlabelled rows, and five noisy copies of each."""
    parents = np.concatenate([rows_of(split)[0] for split in ("train", "unlabelled")])
    files: list[FileRecord] = []
    for copy in range(6):
        noise_ND = 0.3 * np.random.default_rng(copy).normal(size=(len(parents), 3)) if copy else 0
        features_ND = (FEATURES[parents] + noise_ND).astype(np.float32)
        mean_NC = teachers.logits(torch.from_numpy(features_ND)).mean(0).numpy()
        columns = {
            "row_id": parents + copy * S,
            "parent_row_id": parents,
            "origin": np.where(copy > 0, "noise", np.where(parents < 100, "train", "unlabelled")),
            "features": tables.fixed_lists(features_ND, pa.float32()),
            "label": pa.array(LABELS[parents], mask=(parents >= 100) | (copy > 0)),
            "logits": tables.fixed_lists(mean_NC, pa.float32()),
        }
        files.append(tables.write(run, f"soft_targets/{copy:05d}.parquet", pa.table(columns)))
    summary = {"rows": 6 * len(parents), "member_log_probs": False}
    run.write_bytes("soft_targets/manifest.json", Manifest(fingerprint="s", files=files, summary=summary).to_json())
    return 6 * len(parents)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Result:
    run = RunDir.at(str(tmp_path_factory.mktemp("regression")), "run")
    write_data(run)
    write_soft_targets(run, write_teachers(run))
    with Session(None, dashboard=False) as session:

        def report(done: float, total: float, note: str) -> None:
            pass

        student.distill(CONFIG, run, session, report, "student")
        evaluation = evaluate.measure(CONFIG, run, session, report, "evaluation")
    return Result(path=str(run), config=CONFIG, evaluation=evaluation, bundle=BUNDLE, seconds={})


def network(result: Result, path: str, hidden: int) -> nn.Sequential:
    module = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    module.load_state_dict(load_file(f"{result.path}/{path}/model.safetensors"))
    return module


def predicted(module: nn.Sequential, split: str) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(rows_of(split)[1])).double().numpy()[:, 0] * SCALE + MEAN


def scores(value_N: np.ndarray, split: str = "test") -> dict[str, Any]:
    label_N = rows_of(split)[2].astype(np.float64) * SCALE + MEAN
    return {
        "rmse": sklearn.metrics.root_mean_squared_error(label_N, value_N),
        "mae": sklearn.metrics.mean_absolute_error(label_N, value_N),
        "r2": sklearn.metrics.r2_score(label_N, value_N),
    }


@pytest.mark.parametrize("role", ["student", "baseline", "augmented_control"])
def test_each_role_is_scored_on_what_its_network_predicts(done: Result, role: str) -> None:
    assert done.evaluation["metrics"][role] == pytest.approx(scores(predicted(network(done, role, 16), "test")))


def test_the_ensemble_is_the_mean_of_its_members(done: Result) -> None:
    members = [predicted(network(done, f"teachers/{member:04d}", 32), "test") for member in range(MEMBERS)]
    found = done.evaluation
    assert found["metrics"]["ensemble"] == pytest.approx(scores(np.mean(members, 0)), rel=1e-5)
    for member, value_N in enumerate(members):
        expected = {"seed": member, **scores(value_N)}
        assert found["teachers"][member] == pytest.approx(expected, rel=1e-5)
    assert found["disagreement"] == pytest.approx(np.std(members, 0).mean(), rel=1e-5)


def test_recovered_is_the_ratio_of_mean_rmses(done: Result) -> None:
    found, means = done.evaluation, done.evaluation["replica_means"]
    base = means["baseline"]["rmse"]
    expected = (base - means["student"]["rmse"]) / (base - found["metrics"]["ensemble"]["rmse"])
    assert found["recovered"]["rmse"]["value"] == pytest.approx(expected)
    assert set(found["recovered_by_augmentation"]) == {"rmse"}
    assert expected > 0.3


def test_fidelity_is_the_likeness_of_student_and_ensemble(done: Result) -> None:
    members = [predicted(network(done, f"teachers/{member:04d}", 32), "test") for member in range(MEMBERS)]
    mine, theirs = predicted(network(done, "student", 16), "test"), np.mean(members, 0)
    expected = {
        "rmse": sklearn.metrics.root_mean_squared_error(theirs, mine),
        "correlation": np.corrcoef(mine, theirs)[0, 1],
    }
    assert done.evaluation["fidelity"] == pytest.approx(expected, rel=1e-5)


def test_the_replica_with_the_best_validation_rmse_is_delivered(done: Result) -> None:
    stacked = load_file(f"{done.path}/student/replicas.safetensors")
    rmses = []
    for replica in range(2):
        module = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        prefix = f"{replica}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in stacked.items() if k.startswith(prefix)})
        rmses.append(scores(predicted(module, "valid"), "valid")["rmse"])
    facts = json.loads(Path(done.path, "student/metrics.json").read_text())
    assert facts["selected_by"] == "validation RMSE"
    assert facts["valid_rmse"] == pytest.approx(rmses, rel=1e-5)
    assert facts["replica"] == int(np.argmin(rmses))


def test_history_has_the_validation_rmse_of_each_epoch_and_replica(done: Result) -> None:
    table = pq.read_table(f"{done.path}/student/history.parquet").to_pandas()
    assert len(table) == 500 * 2
    assert list(table) == ["epoch", "replica", "loss", "valid_rmse"]
    assert np.isfinite(table.to_numpy()).all()


def test_the_summary_speaks_of_rmse(done: Result) -> None:
    console = Console(width=100, file=io.StringIO())
    show(dataclasses.replace(done, seconds={"student": 1.0}), console)
    text = console.file.getvalue()
    assert "ensemble of 6" in text
    assert "RMSE" in text
    assert "accuracy" not in text
