"""Members that are columns of the table, beside a network: their word counts where they have one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from kd_ray import Config, run
from kd_ray.errors import ConfigError
from kd_ray.models import MLP
from kd_ray.pipeline import run_until
from kd_ray.rundir import RunDir

pytestmark = pytest.mark.ray
CLIP = 1e-6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features_ND, label_N = load_breast_cancer(return_X_y=True)
    features_ND = features_ND[:, :5]
    prob_NC = LogisticRegression(max_iter=5000).fit(features_ND, label_N).predict_proba(features_ND)
    columns = {f"x{d}": features_ND[:, d] for d in range(5)} | {"no": prob_NC[:, 0], "yes": prob_NC[:, 1]}
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    pq.write_table(pa.table(columns | {"label": label_N}), path)
    return path


def config(table: Path, storage: Path, transfer: str, groups: list[dict]) -> Config:
    return Config.of(
        {
            "storage": str(storage),
            "data": {"source": str(table), "columns": {"target": "label"}},
            "teachers": {"groups": groups, "epochs": 3},
            "soft_targets": {"transfer": {"kind": transfer, "factor": 2}},
            "student": {"epochs": 3, "replicas": 1},
        }
    )


GIVEN = {"kind": "columns", "columns": [["no", "yes"]]}


def test_a_given_member_labels_real_rows_and_no_synthesized_ones(node: None, table: Path, tmp_path: Path) -> None:
    network = {"kind": "mlp", "model": {"hidden": [8]}}
    done = run(config(table, tmp_path, "noise", [GIVEN, network]))
    soft = pa.concat_tables([pq.read_table(path) for path in sorted(Path(done.path, "soft_targets").glob("*.parquet"))])
    source = pq.read_table(table).select(["no", "yes"]).to_pandas().to_numpy()
    members = np.array(soft["member_log_probs"].to_pylist(), np.float32).reshape(len(soft), 2, 2)
    logits = np.array(soft["logits"].to_pylist())
    ids, origin = soft["row_id"].to_numpy(), np.array(soft["origin"].to_pylist())
    clipped = np.maximum(source, CLIP)
    words = np.log(clipped / clipped.sum(1, keepdims=True))
    real = origin == "train"
    np.testing.assert_allclose(members[real, 0], words[ids[real]], rtol=2e-3, atol=1e-5)
    apart = logits[..., 1] - logits[..., 0]
    network_apart = members[:, 1, 1] - members[:, 1, 0]
    given_apart = words[ids[real], 1] - words[ids[real], 0]
    np.testing.assert_allclose(apart[real], (given_apart + network_apart[real]) / 2, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(apart[~real], network_apart[~real], rtol=0.02, atol=0.02)
    assert done.evaluation["parameters"]["compression"] is None
    assert done.evaluation["bytes"]["ensemble"] > 0


def test_given_members_alone_need_a_transfer_set_of_real_rows(node: None, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="members given as columns say nothing of synthesized rows"):
        run(config(table, tmp_path, "mixup", [GIVEN]))
    done = run(config(table, tmp_path, "none", [GIVEN]))
    assert done.evaluation["metrics"]["ensemble"]["accuracy"] > 0.85


def test_a_saved_member_whose_file_was_replaced_is_taken_in_again_and_labels_anew(
    node: None, table: Path, tmp_path: Path
) -> None:
    model, storage = tmp_path / "mine.safetensors", tmp_path / "runs"
    group = {"kind": "saved", "paths": [str(model)], "model": {"hidden": [4], "dropout": []}}
    wanted = config(table, storage, "noise", [group])
    spec = MLP.of(n_features=7, hidden=[4], n_classes=2, dropout=[])
    run_dir = RunDir.at(str(storage), wanted.name)

    def labelled(seed: int | None) -> tuple[bytes, int]:
        if seed is not None:
            model.write_bytes(save(spec.initial_weights(np.random.default_rng(seed))))
        run_until("soft_targets", wanted)
        copy = Path(run_dir.path("teachers/0000/model.safetensors")).read_bytes()
        return copy, Path(run_dir.path("soft_targets/manifest.json")).stat().st_mtime_ns

    first, then = labelled(1)
    assert labelled(1) == (first, then)
    board = run_dir.write_json("tune/leaderboard.json", {})
    second, later = labelled(2)
    assert second == model.read_bytes() != first
    assert later > then
    assert not run_dir.exists(board.path)
    model.unlink()
    assert labelled(None) == (second, later)
