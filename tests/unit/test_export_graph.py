"""The exported graph: raw cells in, what the preprocessing and the torch network say out."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray import deployed, knobs, raw
from kd_ray.errors import DataError, ManifestError
from kd_ray.export import check, graph
from kd_ray.models import MLP
from kd_ray.preprocess import Preprocessor, Statistics
from kd_ray.schema import Column
from kd_ray.scoring import input_of, inputs_of, stand_ins

COLUMNS = [
    Column(name="city", kind="categorical"),
    Column(name="age", kind="numeric"),
    Column(name="since", kind="date"),
    Column(name="grade", kind="categorical"),
    Column(name="vip", kind="categorical"),
    Column(name="spent", kind="numeric"),
]
RNG = np.random.default_rng(3)
CLASSIFICATION = {"kind": "classification", "classes": ["no", "<yes>"], "class_values": ["no", "<yes>"]}
REGRESSION = {"kind": "regression", "mean": 250_000.0, "scale": 40_000.0}

CITY = st.none() | st.sampled_from([f"city {i}" for i in range(6)]) | st.text(max_size=4)
NUMBER = st.none() | st.floats(-1e7, 1e7)
MOMENT = st.none() | st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
ROW = st.tuples(CITY, NUMBER, MOMENT, st.none() | st.integers(-3, 9), st.none() | st.booleans(), NUMBER)
TYPES = [pa.string(), pa.float64(), pa.timestamp("us"), pa.int64(), pa.bool_(), pa.float64()]


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    cells = list(zip(*rows, strict=True)) if rows else [[]] * len(COLUMNS)
    return pa.table({c.name: pa.array(list(v), t) for c, v, t in zip(COLUMNS, cells, TYPES, strict=True)})


def drawn(count: int) -> list[tuple[Any, ...]]:
    """Rows of which every tenth cell is missing."""
    start = datetime.datetime(1990, 1, 1)
    rows = [
        (
            f"city {RNG.integers(6)}",
            float(RNG.normal(40, 12)),
            start + datetime.timedelta(seconds=int(RNG.integers(1e9))),
            int(RNG.integers(-2, 7)),
            bool(RNG.integers(2)),
            float(RNG.normal(1e6, 5)),
        )
        for _ in range(count)
    ]
    return [tuple(None if RNG.random() < 0.1 else cell for cell in row) for row in rows]


TRAINING = table(drawn(300))


class Exported:
    """A random network behind a preprocessing, in torch and as ONNX."""

    def __init__(self, task: dict[str, Any], **how: Any) -> None:
        self.task = task
        self.preprocessor = Preprocessor.fit(COLUMNS, Statistics.of(COLUMNS, TRAINING), knobs.Preprocess(**how))
        outputs = 1 if task["kind"] == "regression" else len(task["classes"])
        self.spec = MLP.of(
            n_features=len(self.preprocessor.names),
            hidden=[16, 8],
            n_classes=outputs,
            dropout=[0.2, 0.0],
            levels=self.preprocessor.levels,
            one_hot=4,
        )
        self.weights = self.spec.initial_weights(np.random.default_rng(5))
        network = graph.network(self.spec, self.weights)
        model = graph.join(self.preprocessor, network, task, {"kd_ray_version": "0"})
        self.content = model.SerializeToString()
        fitted = self.preprocessor.fitted
        self.bundle = {
            "format": deployed.FORMAT,
            "run": "trial",
            "task": task,
            "columns": [{"name": o.column.name, "holds": o.held, "input": input_of(o)} for o in fitted],
            **stand_ins(fitted),
        }
        self.student: Any = deployed.student_of(self.content, self.bundle, threads=1)

    def expected(self, rows: pa.Table) -> np.ndarray:
        """What the torch network says of the encoded rows."""
        module = self.spec.module().eval()
        module.load_state_dict(self.weights)
        with torch.no_grad():
            out_NC = module(torch.from_numpy(self.preprocessor.apply(rows)))
        if self.task["kind"] == "regression":
            return out_NC[:, 0].double().numpy() * self.task["scale"] + self.task["mean"]
        return out_NC.softmax(-1).numpy()


@pytest.fixture(scope="module", params=["standard", "quantile", "none"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return Exported(CLASSIFICATION, scale=request.param, missing="mean" if request.param == "quantile" else "median")


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
def test_the_graph_says_of_any_row_what_the_torch_student_says(exported: Exported, rows: list[tuple[Any, ...]]) -> None:
    some = table(rows)
    try:
        expected_NC = exported.expected(some)
    except DataError:
        return  # a number beyond float32
    np.testing.assert_allclose(exported.student.predict_proba(some), expected_NC, atol=1e-5)


@pytest.mark.parametrize("how", ["pyarrow", "pandas", "mapping", "array", "lists"])
def test_a_table_is_read_the_same_in_every_form(exported: Exported, how: str) -> None:
    some = table([*drawn(50), (None,) * 6, ("nowhere", -3e5, datetime.datetime(2024, 2, 29, 5), 77, True, 0.0)])
    frame = some.to_pandas()
    forms = {
        "pyarrow": some.select(["spent", *[c.name for c in COLUMNS[:5]]]).append_column("more", pa.nulls(52)),
        "pandas": frame[frame.columns[::-1]],
        "mapping": {name: frame[name].to_numpy() for name in frame},
        "array": frame.to_numpy(),
        "lists": frame.to_numpy().tolist(),
    }
    expected_NC = exported.expected(some)
    np.testing.assert_allclose(exported.student.predict_proba(forms[how]), expected_NC, atol=1e-5)


def test_arrow_cells_become_the_same_inputs_by_either_way(exported: Exported) -> None:
    some = table(drawn(100))
    by_arrow = inputs_of(exported.preprocessor, some, exported.bundle)
    by_student = exported.student.inputs(some)
    assert by_arrow.keys() == by_student.keys()
    for name, values in by_arrow.items():
        if name == "whole":  # a category never seen has one number of its own there
            values = np.where(values == raw.OTHER_WHOLE, 77, values)
        np.testing.assert_array_equal(values, by_student[name])


def test_a_regression_comes_out_in_the_targets_own_units() -> None:
    exported = Exported(REGRESSION)
    some = table(drawn(60))
    np.testing.assert_allclose(exported.student.predict(some), exported.expected(some), rtol=1e-6)
    assert exported.student.predict(some).dtype == np.float64
    true_N = exported.expected(some) + RNG.normal(0, 4e4, 60)
    from sklearn.metrics import r2_score

    assert exported.student.score(some, true_N) == pytest.approx(r2_score(true_N, exported.student.predict(some)))


def test_edge_rows_are_missing_far_and_never_seen(exported: Exported) -> None:
    rows = check.edges(exported.preprocessor.fitted)
    assert rows.num_rows == 4
    assert all(column[0].as_py() is None for column in rows.columns)
    np.testing.assert_allclose(exported.student.predict_proba(rows), exported.expected(rows), atol=1e-5)


def test_the_file_passes_onnx_own_check_and_names_what_it_takes(exported: Exported) -> None:
    model = onnx.load_from_string(exported.content)
    onnx.checker.check_model(model, full_check=True)
    shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert shapes == {"numeric": ["N", 2], "date": ["N", 1], "whole": ["N", 1], "text": ["N", 2]}
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "ai.onnx.ml": 3}


def test_an_empty_text_that_is_a_category_is_not_taken_for_a_missing_one() -> None:
    column = [Column(name="c", kind="categorical")]
    rows = pa.table({"c": ["", "", "a", "a", None]})
    fitted = Preprocessor.fit(column, Statistics.of(column, rows), knobs.Preprocess()).fitted
    assert stand_ins(fitted) == {"missing_text": "<none 0>", "unseen_text": "<none 1>"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"age": None}, r"must have the columns that the student learned from; it lacks age"),
        ({"age": ["old"]}, r"column 'age': must hold numbers, as in training; found .*'old'"),
        ({"age": [float("inf")]}, r"column 'age': must hold finite numbers"),
        ({"city": [3]}, r"column 'city': must hold texts, as in training; found 3"),
        ({"vip": ["yes"]}, r"column 'vip': must hold booleans, as in training; found 'yes'"),
        ({"since": [3.5]}, r"column 'since': must hold dates, as in training; found float64"),
        ({"grade": ["A"]}, r"column 'grade': must hold numbers, as in training; found .*'A'"),
    ],
)
def test_a_column_that_is_not_as_in_training_is_named(exported: Exported, change: dict[str, Any], says: str) -> None:
    rows = {name: np.array(cells, object) for name, cells in table(drawn(1)).to_pydict().items()}
    rows |= {name: np.array(cells) for name, cells in change.items() if cells}
    for name in [name for name, cells in change.items() if cells is None]:
        del rows[name]
    with pytest.raises(DataError, match=says):
        exported.student.predict(rows)


def test_a_file_that_is_none_of_ours_is_refused_with_the_reason(tmp_path: Path) -> None:
    bundle = {"task": CLASSIFICATION, "run": "x", "columns": []}
    with pytest.raises(ManifestError, match="onnxruntime cannot read it"):
        deployed.student_of(b"no onnx at all", bundle)
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    plain = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [info], [out])
    opset = [onnx.helper.make_opsetid("", 20)]
    content = onnx.helper.make_model(plain, opset_imports=opset, ir_version=9).SerializeToString()
    onnxruntime.InferenceSession(content)
    with pytest.raises(ManifestError, match=r"none that kd-ray wrote: its metadata has no kd_ray_version"):
        deployed.student_of(content, bundle)
