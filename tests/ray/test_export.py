"""What a run hands over: files that say what the torch student says, without torch, and that are refused if damaged."""

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import check_estimator

from kd_ray import Config, Result, finished, load_student
from kd_ray.data import generated
from kd_ray.errors import ConfigError, DataError, ManifestError
from kd_ray.predict import predict
from kd_ray.rundir import RunDir
from kd_ray.session import Session

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def raw(small: Result) -> pa.Table:
    """The test rows as they were generated, with their ids and labels."""
    table = generated.table(small.config.data.options)
    files = sorted(Path(small.path, "data/test").glob("*.parquet"))
    ids = np.concatenate([pq.read_table(path)["row_id"].to_numpy() for path in files])
    return table.take(pa.array(ids)).append_column("row_id", pa.array(ids))


@pytest.fixture
def copy(small: Result, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "a folder" / "copied"))


def features(raw: pa.Table) -> pa.Table:
    return raw.drop_columns(["target", "row_id"])


@pytest.mark.parametrize("variant", ["student", "int8", "pruned-50"])
def test_each_file_scores_on_the_raw_test_rows_what_the_bundle_says(small: Result, raw: pa.Table, variant: str) -> None:
    student: Any = load_student(small.path, variant)
    entry = next(entry for entry in small.bundle["variants"] if entry["name"] == variant)
    content = Path(small.path, "export", entry["file"]).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert student.score(features(raw), raw["target"].to_numpy()) == pytest.approx(entry["metrics"]["accuracy"])
    probabilities_NC = student.predict_proba(features(raw)).astype(np.float64)
    probabilities_NC /= probabilities_NC.sum(1, keepdims=True)
    assert log_loss(raw["target"], probabilities_NC) == pytest.approx(entry["metrics"]["nll"], abs=1e-5)
    if variant == "student":
        assert entry["metrics"]["nll"] == pytest.approx(small.evaluation["metrics"]["student"]["nll"], abs=1e-6)
        base = small.evaluation["replica_means"]["baseline"]["nll"]
        edge = base - small.evaluation["metrics"]["ensemble"]["nll"]
        wanted = (
            None if small.evaluation["recovered"]["nll"]["value"] is None else (base - entry["metrics"]["nll"]) / edge
        )
        assert entry["recovered"]["nll"] == (None if wanted is None else pytest.approx(wanted))


def test_the_bundle_says_how_far_the_file_is_from_the_torch_student(small: Result) -> None:
    found = small.bundle["largest_difference"]
    assert found["real"]["rows"] > 400
    assert found["edge"]["rows"] == 4
    assert 0 <= found["real"]["difference"] <= found["tolerance"] == 1e-5
    assert 0 <= found["edge"]["difference"] <= 1e-5


def test_what_loses_more_than_the_tolerance_is_not_recommended(do: Callable[..., Result], tmp_path: Path) -> None:
    trained = {"epochs": 80, "learning_rate": 1e-2}
    export = {"pruning": [0.9], "fine_tuning": 1, "tolerance": 0.0, "latency": False}
    done = do(tmp_path, student=trained, export=export)
    pruned = done.bundle["variants"][-1]
    assert pruned["name"] == "pruned-90"
    assert pruned["hidden"] == [1]
    assert pruned["lost"] > 0
    assert pruned["recommended"] is False
    assert not Path(done.path, "export/latency.json").exists()
    before = Path(done.path, "student/model.safetensors").stat().st_mtime_ns
    again = do(tmp_path, student=trained, export={"pruning": [], "int8": False, "latency": False})
    assert [entry["name"] for entry in again.bundle["variants"]] == ["student"]
    assert Path(done.path, "student/model.safetensors").stat().st_mtime_ns == before


def test_onnxruntime_alone_reads_the_file_and_its_metadata(small: Result, raw: pa.Table) -> None:
    session = onnxruntime.InferenceSession(small.student_path)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["0", "1", "2"]
    columns = json.loads(facts["columns"])
    assert columns == [[f"x{d}", "numeric"] for d in range(8)]
    numeric = np.column_stack([raw[name] for name, _ in columns])
    said = session.run(None, {"numeric": numeric})[0]
    np.testing.assert_array_equal(said, load_student(small.path).predict_proba(features(raw)))  # type: ignore[attr-defined]


def test_a_student_is_loaded_and_asked_without_torch_ray_or_any_table_library(small: Result) -> None:
    code = (
        "import sys; from kd_ray import load_student; "
        f"load_student({small.path!r}).predict_proba([[0.5] * 8]); "
        "print([name for name in ('torch', 'ray', 'pandas', 'pyarrow', 'sklearn', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_scikit_learn_takes_it_for_a_classifier(small: Result, raw: pa.Table) -> None:
    student: Any = load_student(small.path)
    assert is_classifier(student)
    assert clone(FrozenEstimator(student)).estimator is student
    assert student.classes_.tolist() == [0, 1, 2]
    again = pickle.loads(pickle.dumps(student))
    np.testing.assert_array_equal(again.predict(features(raw)), student.predict(features(raw)))
    X, y = features(raw).to_pandas(), raw["target"].to_numpy()
    calibrated = CalibratedClassifierCV(FrozenEstimator(student), method="sigmoid", cv=3).fit(X, y)
    assert calibrated.predict_proba(X).shape == (raw.num_rows, 3)


def test_it_passes_the_checks_of_scikit_learn_that_need_no_training(small: Result) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(load_student(small.path), on_fail=None, on_skip=None)
    failed = {check["check_name"]: check["exception"] for check in found if check["status"] == "failed"}
    passed = {check["check_name"] for check in found if check["status"] == "passed"}
    assert {
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_get_params_invariance",
        "check_set_params",
        "check_mixin_order",
    } <= passed
    of_shape = [name for name, error in failed.items() if isinstance(error, DataError)]
    assert len(of_shape) >= 10
    for name in of_shape:
        assert re.search(r"X has \d+ features, but the student is expecting 8 features as input", str(failed[name]))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: shutil.rmtree(run / "export"), r"copied: has no finished export: there is no bundle.json"),
        (lambda run: (run / "export/bundle.json").unlink(), r"export: has no finished export"),
        (lambda run: shutil.rmtree(run), r"copied: is no run directory"),
        (lambda run: (run / "export/bundle.json").write_text("{"), r"bundle.json: is not JSON; delete it"),
        (lambda run: (run / "export/bundle.json").write_text("[]"), r"bundle.json: is not what kd-ray writes"),
        (lambda run: flip(run / "export/bundle.json"), r"bundle.json: is not (JSON|what was written)"),
        (lambda run: (run / "export/student.onnx").unlink(), r"student.onnx: cannot be read: No such file"),
        (lambda run: cut(run / "export/student.onnx"), r"student.onnx: is not what export/bundle.json says .* damaged"),
        (
            lambda run: flip(run / "export/student.onnx"),
            r"student.onnx: is not what export/bundle.json says .* damaged",
        ),
        (
            lambda run: newer(run / "export/bundle.json"),
            r"has format 99, this version of kd-ray reads 1: install a newer",
        ),
    ],
)
def test_a_damaged_export_is_named_and_refused(copy: Path, damage: Callable[[Path], Any], says: str) -> None:
    damage(copy)
    with pytest.raises(ManifestError, match=says):
        load_student(copy)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newer(path: Path) -> None:
    value = json.loads(path.read_text())
    value.pop("sha256", None)
    path.write_text(json.dumps({**value, "format": 99}))


def test_a_variant_that_is_not_there_is_named_with_those_that_are(small: Result) -> None:
    with pytest.raises(ConfigError, match=r"variant: must be one of student, int8, pruned-50; got 'int4'"):
        load_student(small.path, "int4")


def scored(run: str | Path, source: Path, out: Path, **how: Any) -> pa.Table:
    rows = predict(str(run), str(source), str(out), session=Session(), report=lambda *_: None, **how)
    table = pq.read_table(out)
    assert table.num_rows == rows
    return table


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_are_scored_as_the_loaded_student_does_and_keep_what_is_asked_for(
    small: Result, raw: pa.Table, tmp_path: Path, ending: str
) -> None:
    source = tmp_path / f"rows.{ending}"
    (pa.csv.write_csv if ending == "csv" else pq.write_table)(raw, source)
    found = scored(small.path, source, tmp_path / "out.parquet", keep=["row_id"])
    assert found.column_names == ["row_id", "prediction", "probability_0", "probability_1", "probability_2"]
    assert found["row_id"].to_pylist() == raw["row_id"].to_pylist()
    student: Any = load_student(small.path)
    expected_NC = student.predict_proba(features(raw))
    np.testing.assert_allclose(np.column_stack(found.columns[2:]), expected_NC, atol=1e-6)
    assert found["prediction"].to_pylist() == student.predict(features(raw)).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", source.name]


def test_the_ensemble_scores_as_evaluated(small: Result, raw: pa.Table, tmp_path: Path) -> None:
    pq.write_table(raw, tmp_path / "rows.parquet")
    found = scored(small.path, tmp_path / "rows.parquet", tmp_path / "out.parquet", ensemble=True)
    accuracy = (found["prediction"].to_numpy() == raw["target"].to_numpy()).mean()
    assert accuracy == pytest.approx(small.evaluation["metrics"]["ensemble"]["accuracy"])
    said = np.column_stack(found.columns[1:]).astype(np.float64)
    nll = log_loss(raw["target"], said / said.sum(1, keepdims=True))
    assert nll == pytest.approx(small.evaluation["metrics"]["ensemble"]["nll"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["x3"]), r"must have one column 'x3'; there is none"),
        (lambda t: t.set_column(0, "x0", pa.array(["a"] * t.num_rows)), r"column 'x0' must be numeric as in training"),
        (lambda t: t.slice(0, 0), r"must hold rows; there are none"),
        (lambda t: t.set_column(0, "x0", pa.array([np.inf] * t.num_rows)), r"column 'x0': must hold finite numbers"),
        (lambda t: t.append_column("prediction", t["x0"]), r"--keep: 'prediction' is what a column of the predictions"),
        (lambda t: t.rename_columns(["id", *t.column_names[1:]]), r"must have one column 'x0'; there is none"),
    ],
)
def test_a_table_that_is_not_as_in_training_is_refused_and_nothing_is_written(
    small: Result, raw: pa.Table, tmp_path: Path, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    changed = change(raw)
    pq.write_table(changed, tmp_path / "rows.parquet")
    keep = ["prediction"] if "prediction" in changed.column_names else None
    with pytest.raises(DataError, match=says):
        scored(small.path, tmp_path / "rows.parquet", tmp_path / "out.parquet", keep=keep)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "export/manifest.json").unlink(), r"its export is not finished: kd-ray run takes it up"),
        (
            lambda run: cut(run / "export/student.int8.onnx"),
            r"student.int8.onnx: must have .* bytes as export/manifest",
        ),
        (lambda run: flip(run / "export/student.onnx"), r"student.onnx: is not what its manifest says"),
        (lambda run: newer(run / "data/manifest.json"), r"data/manifest.json: has format 99, this version reads 3"),
    ],
)
def test_scoring_refuses_a_damaged_run(
    copy: Path, raw: pa.Table, tmp_path: Path, damage: Callable[[Path], Any], says: str
) -> None:
    pq.write_table(raw, tmp_path / "rows.parquet")
    damage(copy)
    with pytest.raises(ManifestError, match=says):
        scored(copy, tmp_path / "rows.parquet", tmp_path / "out.parquet")


def test_code_that_a_run_names_is_imported_only_where_it_is_trusted(copy: Path, raw: pa.Table, tmp_path: Path) -> None:
    pq.write_table(raw, tmp_path / "rows.parquet")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["teachers"]["groups"] = [{"kind": "torch", "count": 4, "estimator": "no_such_module_of_anyones.Net"}]
    finished.write_config(RunDir.at(str(copy.parent), copy.name), Config.of(config))
    with pytest.raises(
        ConfigError, match=r"needs the code no_such_module_of_anyones.Net, .* say --trust if you trust it"
    ):
        scored(copy, tmp_path / "rows.parquet", tmp_path / "out.parquet", ensemble=True)
    with pytest.raises(ConfigError, match="cannot be imported"):
        scored(copy, tmp_path / "rows.parquet", tmp_path / "out.parquet", ensemble=True, trust=True)
    assert scored(copy, tmp_path / "rows.parquet", tmp_path / "out.parquet").num_rows == raw.num_rows


def test_the_card_has_a_header_that_the_hub_reads_and_the_runs_own_figures(small: Result) -> None:
    text = Path(small.path, "export/MODEL_CARD.md").read_text()
    _, header, body = text.split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["library_name"] == "onnx"
    metrics = {m["type"]: m["value"] for m in found["model-index"][0]["results"][0]["metrics"]}
    student = small.evaluation["metrics"]["student"]
    assert metrics == {name: value for name, value in student.items() if isinstance(value, int | float)}
    assert f"| student | {student['accuracy']:.4f} |" in body
    assert "## Intended use" in body
    assert "## Limits" in body


def test_latencies_are_measured_for_every_model(small: Result) -> None:
    found = json.loads(Path(small.path, "export/latency.json").read_text())
    assert set(found["models"]) == {
        "ensemble_loop",
        "ensemble_packed",
        "student_torch",
        "student",
        "int8",
        "pruned-50",
    }
    for model in found["models"].values():
        for by_rows in model["threads"].values():
            for seconds in by_rows.values():
                assert 0 < seconds["p50"] <= seconds["p95"] <= seconds["p99"]
                assert seconds["calls"] >= 5
