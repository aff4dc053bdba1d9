"""Scaling in the first layer's weights, a softmax of two as sigmoids: the same answers from fewer nodes."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
import torch

from kd_ray import knobs
from kd_ray.export import compression, graph
from kd_ray.models import MLP
from kd_ray.preprocess import Preprocessor, Statistics
from kd_ray.schema import Column

RNG = np.random.default_rng(11)
FILLING = {"ReduceSum", "IsNaN", "If"}
TWO = {"kind": "classification", "classes": ["no", "yes"]}


class Trial:
    """A random network on numbers of the given means and scales, as one graph and as what it must say."""

    def __init__(
        self, mean_D: list[float], scale_D: list[float], task: dict[str, Any], *, int8: bool = False, **how: Any
    ) -> None:
        self.cells_ND = RNG.normal(mean_D, scale_D, (500, len(mean_D)))
        columns = [Column(name=f"x{d}", kind="numeric") for d in range(len(mean_D))]
        self.preprocessor = Preprocessor.fit(columns, Statistics.of(columns, self.table()), knobs.Preprocess(**how))
        self.cells_ND[RNG.random(self.cells_ND.shape) < 0.1] = np.nan
        n_classes = len(task["classes"]) if "classes" in task else 1
        spec = MLP.of(n_features=len(self.preprocessor.names), hidden=[16, 8], n_classes=n_classes, dropout=[])
        weights = spec.initial_weights(np.random.default_rng(5))
        network = graph.network(spec, weights)
        if int8:
            network = compression.dynamic(network)
        self.model = graph.join(self.preprocessor, network, task, {"kd_ray_version": "0"})
        module = spec.module().eval()
        module.load_state_dict(weights)
        with torch.no_grad():
            self.values_NC = module(torch.from_numpy(self.preprocessor.apply(self.table())))

    def table(self) -> pa.Table:
        return pa.table({f"x{d}": pa.array(x_N, from_pandas=True) for d, x_N in enumerate(self.cells_ND.T)})

    @property
    def kinds(self) -> set[str]:
        return {node.op_type for node in self.model.graph.node}

    def says(self, rows: slice = slice(None)) -> np.ndarray:
        session = onnxruntime.InferenceSession(self.model.SerializeToString())
        return np.asarray(session.run(None, {"numeric": self.cells_ND[rows]})[0])


def test_two_classes_of_plain_numbers_need_no_scaling_and_no_softmax() -> None:
    trial = Trial([0.1, -30.0, 3.0], [1.0, 10.0, 0.5], TWO)
    assert trial.kinds == {*FILLING, "Cast", "Gemm", "Relu", "Sigmoid"}
    np.testing.assert_allclose(trial.says(), trial.values_NC.softmax(-1), atol=2e-6)
    np.testing.assert_allclose(trial.says().sum(1), 1, atol=1e-6)


def test_a_column_far_from_zero_is_centred_in_float64() -> None:
    trial = Trial([1e9, 0.0], [1.0, 1.0], TWO)
    assert {"Sub", "Div"} & trial.kinds == {"Sub"}
    np.testing.assert_allclose(trial.says(), trial.values_NC.softmax(-1), atol=2e-6)


@pytest.mark.parametrize("scale", ["standard", "quantile"])
def test_a_batch_is_looked_through_for_missing_cells_only_if_it_has_one(scale: str) -> None:
    trial = Trial([5.0, 1.0], [2.0, 3.0], TWO, scale=scale)
    full, empty = np.array([[4.0, 2.0]]), np.array([[np.nan, 2.0]])
    wild = np.array([[np.inf, -np.inf]])
    alone = []
    for trial.cells_ND in (full, empty):
        alone.append(trial.says())
    trial.cells_ND = np.concatenate([full, empty, full])
    np.testing.assert_allclose(trial.says(), np.concatenate([*alone, alone[0]]), atol=1e-6)
    assert not np.isnan(alone[1]).any()
    assert "If" in trial.kinds
    trial.cells_ND = np.concatenate([wild, full])
    np.testing.assert_allclose(trial.says()[1:], alone[0], atol=1e-6)
    assert trial.says(slice(0, 0)).shape == (0, 2)


def test_three_classes_keep_their_softmax() -> None:
    trial = Trial([5.0], [2.0], {"kind": "classification", "classes": ["a", "b", "c"]})
    assert trial.kinds == {*FILLING, "Cast", "Gemm", "Relu", "Softmax"}
    np.testing.assert_allclose(trial.says(), trial.values_NC.softmax(-1), atol=2e-6)


def test_a_regression_loses_its_scaling_only() -> None:
    trial = Trial([5.0, 1.0], [2.0, 3.0], {"kind": "regression", "mean": 3.0, "scale": 2.0})
    assert not {"Sub", "Div"} & trial.kinds
    np.testing.assert_allclose(trial.says(), trial.values_NC[:, 0].double() * 2 + 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{"int8": True}, {"scale": "quantile"}])
def test_weights_of_8_bits_and_quantiles_are_left_as_they_are(how: dict[str, Any]) -> None:
    trial = Trial([5.0, 1.0], [2.0, 3.0], TWO, **how)
    assert "Softmax" in trial.kinds or "int8" not in how
    np.testing.assert_allclose(trial.says(), trial.values_NC.softmax(-1), atol=0.05 if "int8" in how else 2e-6)


def test_the_folded_graph_is_valid_and_has_no_constant_that_nobody_reads() -> None:
    model = Trial([5.0, 1.0], [2.0, 3.0], TWO).model
    onnx.checker.check_model(model, full_check=True)
    inner = [a.g.node for node in model.graph.node for a in node.attribute if a.HasField("g")]
    read = {name for nodes in [model.graph.node, *inner] for node in nodes for name in node.input}
    assert {constant.name for constant in model.graph.initializer} <= read
