"""Members of four kinds, folds and a hundred classes: the soft targets, worked out again from the run's files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
import torch
from safetensors.torch import load_file

from kd_ray import Config, run
from kd_ray.groups import saw

pytestmark = pytest.mark.ray
CLASSES, ROWS, CLIP = 100, 3000, 1e-6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(7)
    centre_CD = rng.normal(0, 3, (CLASSES, 6))
    label_N = np.arange(ROWS) % CLASSES
    features_ND = centre_CD[label_N] + rng.normal(0, 1, (ROWS, 6))
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    columns = {f"x{d}": features_ND[:, d] for d in range(6)}
    pq.write_table(pa.table(columns | {"label": [f"class {c:02d}" for c in label_N]}), path)
    return path


def said_of(folder: Path, features_ND: np.ndarray) -> np.ndarray:
    """Return a stored member's logits, by the library that it is of."""
    file = next(path for path in folder.iterdir() if path.name != "teacher.json")
    if file.name == "model.safetensors":
        network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, CLASSES))
        network.load_state_dict(load_file(file))
        return network(torch.from_numpy(features_ND)).detach().numpy()
    if file.name == "model.skops":
        model = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
        prob_NC = np.zeros((len(features_ND), CLASSES))
        prob_NC[:, model.classes_] = model.predict_proba(features_ND)
    elif file.name == "model.json":
        xgboost = pytest.importorskip("xgboost", reason="the extra xgboost")
        booster = xgboost.Booster(model_file=file)
        prob_NC = booster.predict(xgboost.DMatrix(features_ND))
    else:
        lightgbm = pytest.importorskip("lightgbm", reason="the extra lightgbm")
        prob_NC = lightgbm.Booster(model_file=file).predict(features_ND)
    clipped_NC = np.maximum(prob_NC, CLIP)
    return np.log(clipped_NC / clipped_NC.sum(1, keepdims=True))


def test_rows_are_labelled_by_the_members_that_did_not_see_them(node: None, table: Path, tmp_path: Path) -> None:
    config = Config.of(
        {
            "storage": str(tmp_path),
            "data": {"source": str(table), "columns": {"target": "label"}, "split": {"stratify": True}},
            "teachers": {
                "groups": [
                    {"kind": "mlp", "count": 3, "model": {"hidden": [32], "dropout": []}},
                    {
                        "kind": "sklearn",
                        "estimator": "sklearn.ensemble.RandomForestClassifier",
                        "parameters": {"n_estimators": 5, "max_depth": 12},
                    },
                    {"kind": "xgboost", "parameters": {"n_estimators": 2, "max_depth": 3}},
                    {"kind": "lightgbm", "parameters": {"n_estimators": 2, "num_leaves": 7}},
                ],
                "folds": 3,
                "bootstrap": True,
                "epochs": 3,
            },
            "soft_targets": {"transfer": {"kind": "noise", "factor": 1}},
            "student": {"epochs": 3, "replicas": 1},
        }
    )
    done = run(config)
    soft = pa.concat_tables([pq.read_table(path) for path in sorted(Path(done.path, "soft_targets").glob("*.parquet"))])
    features_ND = np.array(soft["features"].to_pylist(), np.float32)
    logits_NC = np.array(soft["logits"].to_pylist())
    logits_MNC = np.stack([said_of(Path(done.path, f"teachers/{m:04d}"), features_ND) for m in range(6)])
    row_id_N, origin_N = soft["row_id"].to_numpy(), np.array(soft["origin"].to_pylist())
    asked_MN = np.stack([~saw(m, row_id_N, config.teachers, config.seed) for m in range(6)])
    asked_MN[:, origin_N != "train"] = True
    assert (asked_MN[:, origin_N == "train"].sum(0) == 2).all()  # six members in three folds
    expected_NC = (logits_MNC * asked_MN[..., None]).sum(0) / asked_MN.sum(0)[:, None]
    apart = (logits_NC - logits_NC.mean(1, keepdims=True)) - (expected_NC - expected_NC.mean(1, keepdims=True))
    np.testing.assert_allclose(apart, 0, atol=2e-3)
    assert len(done.evaluation["class_rows"]) == CLASSES
    assert done.evaluation["metrics"]["ensemble"]["accuracy"] > 0.3
