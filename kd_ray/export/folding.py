"""What a network's own weights can do for what stands before and behind it, and what is done only where it is needed:
fewer passes over the rows.

The folded graph says the same but for rounding. What is not found as expected, or has no float weights, stays.
Axes: D features, U units of the first layer, C classes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

NEAR = 8.0
"""Scales from zero within which a column's mean may lie to be taken off in float32: it costs 3 bits of 24."""


def fold(graph: GraphProto) -> None:
    """Fold the measured columns' scaling into the first layer, in place, and a softmax of two into the last.

    Cells are then looked at one by one only in a batch that has a missing one.
    """
    parts = _Parts(graph)
    parts.fold_softmax()
    parts.fold_scaling()
    parts.fill_where_needed()


@dataclass
class _Parts:
    graph: GraphProto

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        return {constant.name: constant for constant in self.graph.initializer}

    def fold_softmax(self) -> None:
        """A softmax of two values is, of each, the sigmoid of its lead over the other."""
        softmax = self.graph.node[-1]
        last = self._layer(softmax.input[0])
        if softmax.op_type != "Softmax" or last is None or len(self._value(last.input[2])) != 2:
            return
        for name in last.input[1:]:
            self._set(name, self._value(name) - self._value(name)[::-1])
        softmax.op_type = "Sigmoid"
        softmax.ClearField("attribute")

    def fold_scaling(self) -> None:
        """Raw cells enter the first layer, whose weights are divided by the scales, with the means in its bias."""
        first = next((layer for node in self.graph.node if (layer := self._layer(node.output[0]))), None)
        filled = first and self._maker(first.input[0], "Where")
        if not first or not filled:
            return
        weight_UD, bias_U = (self._value(name) for name in first.input[1:])
        scaled, scale_D = filled.input[2], np.ones(weight_UD.shape[1], np.float32)
        if divided := self._maker(scaled, "Div"):
            scaled, scale_D = divided.input[0], self._value(divided.input[1])
            self._drop(divided)
        fill_D = self._value(filled.input[1]) * scale_D
        weight_UD = weight_UD / scale_D
        cast = self._maker(scaled, "Cast")
        if cast and (centred := self._maker(cast.input[0], "Sub")):
            mean_D = self._value(centred.input[1])
            if (np.abs(mean_D) <= NEAR * scale_D).all():
                bias_U, fill_D = bias_U - weight_UD @ mean_D, fill_D + mean_D
                self._drop(centred)
        self._set(first.input[1], weight_UD)
        self._set(first.input[2], bias_U)
        self._set(filled.input[1], fill_D if fill_D.any() else np.zeros(()))

    def fill_where_needed(self) -> None:
        """A sum over all cells, which is quick, is NaN if one of them is; opposite infinities only cost time."""
        for filled in [node for node in self.graph.node if node.op_type == "Where"]:
            missing, cells = self._maker(filled.input[0], "IsNaN"), filled.input[2]
            read = [name for node in self.graph.node for name in node.input]
            if missing is None or missing.input[0] != cells or read.count(filled.input[0]) > 1:
                continue
            at, (out,) = list(self.graph.node).index(filled), filled.output
            filled.output[:] = [f"{out}.filled"]
            same = helper.make_node("Identity", [cells], [f"{out}.same"])
            branches = {"then_branch": [missing, filled], "else_branch": [same]}
            kind = self.constants[filled.input[1]].data_type
            chosen = {name: _branch(name, nodes, kind) for name, nodes in branches.items()}
            self.graph.node.remove(missing)
            self.graph.node.remove(filled)
            for node in (
                helper.make_node("If", [f"{out}.any"], [out], **chosen),
                helper.make_node("IsNaN", [f"{out}.sum"], [f"{out}.any"]),
                helper.make_node("ReduceSum", [cells], [f"{out}.sum"], keepdims=0),
            ):
                self.graph.node.insert(at - 1, node)

    def _maker(self, tensor: str, kind: str) -> NodeProto | None:
        return next((node for node in self.graph.node if tensor in node.output and node.op_type == kind), None)

    def _layer(self, tensor: str) -> NodeProto | None:
        """Return the linear layer that makes a tensor, if its weights are constants of float32."""
        node = self._maker(tensor, "Gemm")
        if node is None or any(name not in self.constants for name in node.input[1:]):
            return None
        return node if self.constants[node.input[1]].data_type == TensorProto.FLOAT else None

    def _value(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.constants[name])

    def _set(self, name: str, value: np.ndarray) -> None:
        self.constants[name].CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))

    def _drop(self, node: NodeProto) -> None:
        """Take out a node: who had its output has its first input."""
        self.graph.node.remove(node)
        self.graph.initializer.remove(self.constants[node.input[1]])
        for user in self.graph.node:
            user.input[:] = [node.input[0] if name == node.output[0] else name for name in user.input]


def _branch(name: str, nodes: list[NodeProto], kind: int) -> GraphProto:
    made = helper.make_tensor_value_info(nodes[-1].output[0], kind, None)
    return helper.make_graph(nodes, name, [], [made])
