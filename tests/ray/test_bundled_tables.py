"""scikit-learn's bundled tables, end to end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from kd_ray import Result

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("name", "outputs", "metric", "at_least"),
    [
        ("breast_cancer", 2, "accuracy", 0.9),
        ("wine", 3, "accuracy", 0.9),
        ("digits", 10, "accuracy", 0.9),
        ("diabetes", 1, "r2", 0.3),
    ],
)
def test_a_bundled_table_is_learned_and_its_score_is_that_of_the_files(
    do: Callable[..., Result], tmp_path: Path, name: str, outputs: int, metric: str, at_least: float
) -> None:
    done = do(
        tmp_path,
        data={"source": f"sklearn:{name}", "split": {"valid": 0.1}},
        teachers={
            "count": 3,
            "epochs": 60,
            "model": {"hidden": [32], "dropout": []},
            "batch_size": 32,
            "learning_rate": 3e-3,
        },
        soft_targets={"transfer": {"kind": "mixup", "factor": 4}},
        student={"epochs": 60, "replicas": 1, "learning_rate": 5e-3, "batch_size": 32, "model": {"hidden": [24]}},
    )
    table = pq.read_table(Path(done.path, "data/test"))
    features_ND = np.array(table["features"].to_pylist(), np.float32)
    label_N = table["label"].to_numpy()
    width = features_ND.shape[1]
    student = torch.nn.Sequential(torch.nn.Linear(width, 24), torch.nn.ReLU(), torch.nn.Linear(24, outputs))
    student.load_state_dict(load_file(Path(done.path, "student/model.safetensors")))
    with torch.no_grad():
        said_NC = student(torch.from_numpy(features_ND)).numpy()
    if metric == "accuracy":
        score = (said_NC.argmax(1) == label_N).mean()
    else:
        score = 1 - ((said_NC[:, 0] - label_N) ** 2).mean() / label_N.var()
    assert done.evaluation["metrics"]["student"][metric] == pytest.approx(score, abs=1e-4)
    assert score >= at_least
