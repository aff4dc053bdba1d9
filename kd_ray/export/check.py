"""Whether the exported student says what the torch student does, on real rows and on rows at the edge.

Axes: N rows, C classes.
"""

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kd_ray.deployed import Classifier, Student
from kd_ray.errors import RunError
from kd_ray.models import MLP
from kd_ray.preprocess import Fitted
from kd_ray.tables import Dataset
from kd_ray.tasks import task_of

TOLERANCE = 1e-5
_FAR = 100.0  # scales from the mean
_UNSEEN_TEXT, _UNSEEN_WHOLE = "\u2603 never seen", 2**40 + 1


def differences(student: Student, data: Dataset, spec: MLP, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the largest difference on the sample of training rows, and on edge rows, and how many rows there were.

    Of a classification it is one of probabilities; of a regression one of standardized predictions, relative where
    these are above 1. Raises RunError where it is above 1e-5.
    """
    module = spec.module().eval()
    module.load_state_dict(weights)
    sample = data.sample()
    found: dict[str, Any] = {"tolerance": TOLERANCE}
    for what, table in (("real", sample), ("edge", edges(data.preprocessor.fitted))):
        with torch.no_grad():
            values_NC = module(torch.from_numpy(data.preprocessor.apply(table))).numpy()
        apart = _apart(student, table, values_NC, data)
        found[what] = {"rows": table.num_rows, "difference": apart}
        if not apart <= TOLERANCE:
            raise RunError(
                f"export/student.onnx: must say what the torch student does to within {TOLERANCE:g}; on {what} rows it "
                f"is off by {apart:g}: report it, with data/schema.json"
            )
    return found


def _apart(student: Student, table: pa.Table, values_NC: np.ndarray, data: Dataset) -> float:
    says = task_of(data.schema).says(values_NC)
    if isinstance(student, Classifier):
        return float(np.abs(student.predict_proba(table) - np.exp(says)).max())
    scale_N = data.schema["task"]["scale"] * np.maximum(1, np.abs(values_NC[:, 0]))
    return float((np.abs(student.predict(table) - says) / scale_N).max())  # type: ignore[attr-defined]


def edges(fitted: list[Fitted]) -> pa.Table:
    """Return four rows: all missing, all far above, all far below with categories never seen, all ordinary."""
    return pa.table({one.column.name: _edge(one) for one in fitted})


def _edge(one: Fitted) -> pa.Array:
    level = one.levels[0] if one.levels else None
    if one.held == "texts":
        return pa.array([None, level, _UNSEEN_TEXT, level], pa.string())
    if one.held == "booleans":
        return pa.array([None, True, False, True])
    if one.held == "numbers" and one.column.kind == "categorical":
        number = None if level is None else float(level)
        return pa.array([None, number, float(_UNSEEN_WHOLE), number], pa.float64())
    if one.column.kind == "date":
        moments = [
            None,
            datetime.datetime(2199, 12, 31, 23, 59, 59),
            datetime.datetime(1800, 3, 1),
            datetime.datetime(2024, 2, 29, 5),
        ]
        return pa.array(moments, pa.timestamp("us", tz="UTC" if "zone" in one.held else None))
    assert one.scaling is not None
    fill, scale = one.scaling.fill, one.scaling.scale
    far = _FAR * (scale if one.scaling.knots_Q2 is None else float(np.ptp(one.scaling.knots_Q2[:, 0])))
    return pa.array([None, fill + far, fill - far, fill], pa.float64())
