"""The student as one ONNX graph, from raw cells to probabilities."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper

from kd_ray.export.folding import fold
from kd_ray.export.preprocessing import features_of
from kd_ray.models import MLP
from kd_ray.preprocess import Preprocessor

OPSET, ML_OPSET, IR_VERSION = 20, 3, 9
"""Opset 20 and its IR are read by onnxruntime from 1.17 (January 2024) on."""
VANISHED = 1e-12
_OUTPUT = {
    "classification": ("probabilities", TensorProto.FLOAT),
    "regression": ("prediction", TensorProto.DOUBLE),
}


def network(spec: MLP, weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """Return what torch's exporter makes of a network, without the notes that it leaves at every node.

    In: features, float32 [N, D]; out: values, float32 [N, C], logits or a standardized prediction. Weights that decay
    has driven below 1e-12 become 0: their products are denormal numbers, on which a core is slow.
    """
    module = spec.module().eval()
    module.load_state_dict({name: torch.where(w.abs() < VANISHED, 0.0, w) for name, w in weights.items()})
    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(2, spec.n_features),),
            dynamo=True,
            input_names=["features"],
            output_names=["values"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        for field in ("metadata_props", "doc_string", "name"):
            node.ClearField(field)
    for field in ("value_info", "metadata_props", "doc_string"):
        model.graph.ClearField(field)
    model.ClearField("metadata_props")
    model.ir_version = IR_VERSION
    return model


def join(
    preprocessor: Preprocessor, network: onnx.ModelProto, task: dict[str, Any], facts: dict[str, str]
) -> onnx.ModelProto:
    """Return the whole model: inputs as `preprocessing` names them; out, `probabilities` float32 [N, C], or
    `prediction` float64 [N] in the target's own units.

    `task` is the data stage's schema's; `facts` become the model's metadata. Raises onnx.checker.ValidationError.
    """
    graph, inputs, features = features_of(preprocessor)
    made = helper.make_tensor_value_info(features, TensorProto.FLOAT, ["N", len(preprocessor.names)])
    ours = helper.make_graph(graph.nodes, "preprocessing", inputs, [made], graph.constants)
    opsets = {"": OPSET, "ai.onnx.ml": ML_OPSET, **{o.domain: o.version for o in network.opset_import if o.domain}}
    opset_imports = [helper.make_opsetid(*opset) for opset in opsets.items()]
    before = helper.make_model(ours, opset_imports=opset_imports, ir_version=IR_VERSION)
    student = compose.add_prefix(network, "s.")
    student.ir_version = IR_VERSION
    del student.opset_import[:]
    student.opset_import.extend(opset_imports)
    model = compose.merge_models(before, student, io_map=[(features, "s.features")], name="student")
    _add_head(model.graph, task)
    fold(model.graph)
    model.producer_name, model.producer_version = "kd-ray", facts["kd_ray_version"]
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model


def _add_head(graph: onnx.GraphProto, task: dict[str, Any]) -> None:
    """Turn logits into probabilities, or a standardized prediction into the target's own units."""
    values, (name, kind) = graph.output[0].name, _OUTPUT[task["kind"]]
    if task["kind"] == "classification":
        graph.node.append(helper.make_node("Softmax", [values], [name], axis=-1))
        shape: list[str | int] = ["N", len(task["classes"])]
    else:
        constants = {"h.axis": np.array([1]), "h.scale": np.array(task["scale"]), "h.mean": np.array(task["mean"])}
        graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
        graph.node.extend(
            [
                helper.make_node("Squeeze", [values, "h.axis"], ["h.flat"]),
                helper.make_node("Cast", ["h.flat"], ["h.double"], to=TensorProto.DOUBLE),
                helper.make_node("Mul", ["h.double", "h.scale"], ["h.scaled"]),
                helper.make_node("Add", ["h.scaled", "h.mean"], [name]),
            ]
        )
        shape = ["N"]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, kind, shape))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter prints and logs of its own workings."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
