"""The fitted preprocessing as ONNX nodes: raw cells in, encoded features out, as `Preprocessor.apply` encodes them.

Inputs, each there where a column needs it: numeric, float64 [N, P] (NaN is missing; booleans are 0 and 1); date,
int64 [N, S], microseconds since 1970-01-01 UTC (-2^63 is missing); whole, int64 [N, R], categories that are whole
numbers (likewise); text, string [N, T], other categories.

Axes: N rows, V measured columns (numeric, then date), D features, Q knots.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from kd_ray.preprocess import CYCLES, MISSING, OTHER, Fitted, Preprocessor, Scaling, circle
from kd_ray.raw import MISSING_WHOLE
from kd_ray.scoring import columns_of, stand_ins

_TYPES = {
    "numeric": TensorProto.DOUBLE,
    "date": TensorProto.INT64,
    "whole": TensorProto.INT64,
    "text": TensorProto.STRING,
}
_HOUR = 3_600_000_000  # microseconds
_DAY = 24 * _HOUR


@dataclass
class Graph:
    """Nodes under way; `blocks` are tensors [N, *] with the names of the features that their columns are."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    blocks: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        out = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], domain=domain, **attributes))
        return out

    def constant(self, values: Any, kind: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def to_float(self, tensor: str) -> str:
        return self.add("Cast", tensor, to=TensorProto.FLOAT)

    def divided(self, tensor: str, by: int) -> str:
        return self.add("Div", tensor, self.constant(by, np.int64))

    def columns(self, tensor: str, at: list[int], width: int) -> str:
        """Return some columns of [N, width]."""
        if at == list(range(width)):
            return tensor
        return self.add("Gather", tensor, self.constant(at, np.int64), axis=1)


def features_of(preprocessor: Preprocessor) -> tuple[Graph, list[ValueInfoProto], str]:
    """Return the nodes, their inputs, and the name of the features' tensor, float32 [N, D]."""
    graph, of_input = Graph(), columns_of(preprocessor)
    if of_input["numeric"] or of_input["date"]:
        _measured(graph, of_input["numeric"], of_input["date"])
    _categories(graph, "whole", of_input["whole"], np.int64, lambda level: int(level), MISSING_WHOLE)
    _categories(
        graph, "text", of_input["text"], np.str_, lambda level: level, stand_ins(preprocessor.fitted)["missing_text"]
    )
    tensors, names = [block[0] for block in graph.blocks], [name for block in graph.blocks for name in block[1]]
    features = tensors[0] if len(tensors) == 1 else graph.add("Concat", *tensors, axis=1)
    features = graph.columns(features, [names.index(name) for name in preprocessor.names], len(names))
    inputs = [
        helper.make_tensor_value_info(name, _TYPES[name], ["N", len(columns)])
        for name, columns in of_input.items()
        if columns
    ]
    return graph, inputs, features


def _measured(graph: Graph, numeric: list[Fitted], date: list[Fitted]) -> None:
    moments = _Moments.of(graph) if date else None
    given = ["numeric"] * bool(numeric) + ([moments.days_NS] if moments else [])
    raw_NV = given[0] if len(given) == 1 else graph.add("Concat", *given, axis=1)
    fitted = [*numeric, *date]
    scalings = [one.scaling for one in fitted if one.scaling is not None]
    if any(s.knots_Q2 is not None for s in scalings):
        missing_NV = graph.add("IsNaN", raw_NV)
        filled_NV = graph.add("Where", missing_NV, graph.constant([s.fill for s in scalings], np.float64), raw_NV)
        knots = [s.knots_Q2 for s in scalings if s.knots_Q2 is not None]
        scaled_NV = graph.to_float(_along_knots(graph, filled_NV, knots))
    else:
        missing_NV, scaled_NV = _standardized(graph, raw_NV, scalings)
    graph.blocks.append((scaled_NV, [one.features[0][1] for one in fitted]))
    marked = [v for v, one in enumerate(fitted) if one.indicates]
    if marked:
        marks = graph.columns(missing_NV, marked, len(fitted))
        graph.blocks.append((graph.to_float(marks), [f"{fitted[v].column.name}=missing" for v in marked]))
    if moments:
        _cycles(graph, date, moments)


@dataclass(frozen=True)
class _Moments:
    """The dates taken apart, exactly: whole days, microseconds of the day gone, and days with their fraction."""

    missing_NS: str
    day_NS: str
    rest_NS: str
    days_NS: str

    @classmethod
    def of(cls, graph: Graph) -> "_Moments":
        missing_NS = graph.add("Equal", "date", graph.constant(MISSING_WHOLE, np.int64))
        count_NS = graph.add("Where", missing_NS, graph.constant(0, np.int64), "date")
        rest_NS = graph.add("Mod", count_NS, graph.constant(_DAY, np.int64))
        day_NS = graph.divided(graph.add("Sub", count_NS, rest_NS), _DAY)
        whole_NS, gone_NS = (graph.add("Cast", part, to=TensorProto.DOUBLE) for part in (day_NS, rest_NS))
        share_NS = graph.add("Div", gone_NS, graph.constant(float(_DAY), np.float64))
        days_NS = graph.add("Add", whole_NS, share_NS)
        known_NS = graph.add("Where", missing_NS, graph.constant(np.nan, np.float64), days_NS)
        return cls(missing_NS, day_NS, rest_NS, known_NS)


def _standardized(graph: Graph, raw_NV: str, scalings: list[Scaling]) -> tuple[str, str]:
    """Return where cells are missing, and scaled numbers: only centring needs all of float64's digits."""
    fill_V, mean_V, scale_V = np.array([(s.fill, s.mean, s.scale) for s in scalings]).T
    if mean_V.any():
        raw_NV = graph.add("Sub", raw_NV, graph.constant(mean_V, np.float64))
    scaled_NV = graph.to_float(raw_NV)
    if (scale_V != 1).any():
        scaled_NV = graph.add("Div", scaled_NV, graph.constant(scale_V, np.float32))
    missing_NV = graph.add("IsNaN", scaled_NV)
    filled_V = (fill_V - mean_V) / scale_V
    # One number for all columns, as the mean gives, is put in faster than a row of them.
    filled = graph.constant(filled_V if filled_V.any() else 0.0, np.float32)
    return missing_NV, graph.add("Where", missing_NV, filled, scaled_NV)


def _along_knots(graph: Graph, filled_NV: str, knots: list[np.ndarray]) -> str:
    """Return scores on the lines through each column's knots: a tree of comparisons a column finds the interval."""
    low_V, high_V = [k[0, 0] for k in knots], [k[-1, 0] for k in knots]
    within_NV = graph.add("Max", filled_NV, graph.constant(low_V, np.float64))
    within_NV = graph.add("Min", within_NV, graph.constant(high_V, np.float64))
    interval_NV = graph.add("TreeEnsembleRegressor", within_NV, domain="ai.onnx.ml", **_search(knots))
    starts_V = np.cumsum([0, *(len(k) for k in knots)])[:-1]
    at_NV = graph.add("Add", graph.add("Cast", interval_NV, to=TensorProto.INT64), graph.constant(starts_V, np.int64))
    value_Q, score_Q = np.concatenate(knots).T
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_Q = np.append(np.diff(score_Q) / np.diff(value_Q), 0.0)
    slope_Q[~np.isfinite(slope_Q)] = 0.0
    value_NV, score_NV, slope_NV = (
        graph.add("Gather", graph.constant(part_Q, np.float64), at_NV) for part_Q in (value_Q, score_Q, slope_Q)
    )
    above_NV = graph.add("Mul", graph.add("Sub", within_NV, value_NV), slope_NV)
    return graph.add("Add", above_NV, score_NV)


def _search(knots: list[np.ndarray]) -> dict[str, Any]:
    """Return balanced trees, one a column, whose leaf says how many inner knots are at or below the column's value."""
    keys = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {key: [] for key in keys}
    leaves: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, inner: np.ndarray, first: int, past: int, node: int) -> int:
        """Search inner[first:past]; return the next free node id."""
        row = len(nodes["treeids"])
        middle = (first + past) // 2
        is_leaf = first == past
        value = 0.0 if is_leaf else float(inner[middle])
        entry = (tree, node, tree, "LEAF" if is_leaf else "BRANCH_LT", value, 0, 0)
        for key, part in zip(keys, entry, strict=True):
            nodes[key].append(part)
        if is_leaf:
            for key, part in zip(leaves, (tree, node, tree, float(first)), strict=True):
                leaves[key].append(part)
            return node + 1
        nodes["truenodeids"][row] = node + 1
        below = grow(tree, inner, first, middle, node + 1)
        nodes["falsenodeids"][row] = below
        return grow(tree, inner, middle + 1, past, below)

    for tree, knots_Q2 in enumerate(knots):
        inner = knots_Q2[1:-1, 0]
        grow(tree, inner, 0, len(inner), 0)
    values = helper.make_tensor("values", TensorProto.DOUBLE, [len(nodes["values"])], nodes.pop("values"))
    weights = helper.make_tensor("weights", TensorProto.DOUBLE, [len(leaves["weights"])], leaves.pop("weights"))
    return {
        "n_targets": len(knots),
        **{f"nodes_{key}": part for key, part in nodes.items()},
        **{f"target_{key}": part for key, part in leaves.items()},
        "nodes_values_as_tensor": values,
        "target_weights_as_tensor": weights,
    }


def _cycles(graph: Graph, date: list[Fitted], moments: "_Moments") -> None:
    """Add the sine and cosine of each date's month, weekday, day of the year and hour."""
    places = {**_calendar(graph, moments.day_NS), "hour": graph.divided(moments.rest_NS, _HOUR)}
    for cycle, place_NS in places.items():
        wanted = [s for s, one in enumerate(date) if cycle in one.cycles]
        if not wanted:
            continue
        for side, table_P in zip(("sin", "cos"), circle(CYCLES[cycle]), strict=True):
            said_NS = graph.add("Gather", graph.constant(table_P, np.float32), place_NS)
            kept_NS = graph.add("Where", moments.missing_NS, graph.constant(0.0, np.float32), said_NS)
            names = [f"{date[s].column.name}={cycle}_{side}" for s in wanted]
            graph.blocks.append((graph.columns(kept_NS, wanted, len(date)), names))


def _calendar(graph: Graph, day_NS: str) -> dict[str, str]:
    """Month 0-11, weekday 0-6 from Monday and day of the year 0-365 of days since 1970-01-01.

    H. Hinnant, chrono-Compatible Low-Level Date Algorithms: civil_from_days, for years from 0 on; months and days of
    a year are counted from March.
    """

    def do(op: str, left: str, right: str | int) -> str:
        return graph.add(op, left, graph.constant(right, np.int64) if isinstance(right, int) else right)

    shifted = do("Add", day_NS, 719_468)
    day = do("Mod", shifted, 146_097)  # of an era of 400 years
    leaps = do("Sub", do("Sub", do("Add", day, do("Div", day, 36_524)), do("Div", day, 1_460)), do("Div", day, 146_096))
    year = do("Div", leaps, 365)
    before = do("Sub", do("Add", do("Mul", year, 365), do("Div", year, 4)), do("Div", year, 100))
    of_year = do("Sub", day, before)
    month = do("Div", do("Add", do("Mul", of_year, 5), 2), 153)
    fourth, century, era = (graph.add("Equal", do("Mod", year, n), graph.constant(0, np.int64)) for n in (4, 100, 400))
    is_leap = graph.add("Or", graph.add("And", fourth, graph.add("Not", century)), era)
    from_march = do("Add", do("Add", of_year, 59), graph.add("Cast", is_leap, to=TensorProto.INT64))
    is_early = graph.add("GreaterOrEqual", of_year, graph.constant(306, np.int64))
    return {
        "month": do("Mod", do("Add", month, 2), 12),
        "weekday": do("Mod", do("Add", day_NS, 3), 7),
        "yearday": graph.add("Where", is_early, do("Sub", of_year, 306), from_march),
    }


def _categories(graph: Graph, name: str, fitted: list[Fitted], kind: Any, key: Any, missing: Any) -> None:
    """Add a code a column: 0 missing, 1 unseen or rare, then the levels."""
    for number, one in enumerate(fitted):
        keys = [missing, *(key(level) for level in one.levels)]
        codes = [float(MISSING), *(float(OTHER + 1 + place) for place in range(len(one.levels)))]
        attribute = {"keys_int64s": keys} if kind is np.int64 else {"keys_strings": keys}
        own = graph.columns(name, [number], len(fitted))
        code = graph.add(
            "LabelEncoder", own, domain="ai.onnx.ml", values_floats=codes, default_float=float(OTHER), **attribute
        )
        graph.blocks.append((code, [one.column.name]))
