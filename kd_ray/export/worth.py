"""What an exported network keeps: its metrics on the test rows, and what it loses on those that may choose.

Axes: N rows, C classes (1 for a regression).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from kd_ray.judging import evaluation_of
from kd_ray.tables import Dataset, Rows
from kd_ray.tasks import Task, selection_score, task_of

ROWS_AT_ONCE = 16_384
LEARNED_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Judge:
    """`learned` are training rows, at most LEARNED_ROWS; `chosen_by` the validation rows, or without any `learned`."""

    task: Task
    evaluation: dict[str, Any]
    learned: Rows
    chosen_by: Rows
    judged_on: str
    test: Rows

    @classmethod
    def of(cls, data: Dataset) -> "Judge":
        train, valid = data.rows("train"), data.rows("valid")
        learned = train.at(slice(None, None, -(-len(train.label_N) // LEARNED_ROWS)))
        return cls(
            task=task_of(data.schema),
            evaluation=evaluation_of(data.run),
            learned=learned,
            chosen_by=valid if len(valid.label_N) else learned,
            judged_on="validation" if len(valid.label_N) else "training",
            test=data.rows("test"),
        )

    def selection(self, network: onnx.ModelProto) -> float:
        """Return the metric that chooses, lower is better."""
        return selection_score(self.task, values(network, self.chosen_by.features_ND), self._chosen_truth_N)

    @property
    def _chosen_truth_N(self) -> np.ndarray:
        return self.task.truth(self.chosen_by.label_N)

    def worth(self, network: onnx.ModelProto) -> dict[str, Any]:
        """Return test metrics, recovered shares of means over replicas, and the chosen rows' first measure."""
        test_NC, chosen_NC = (values(network, rows.features_ND) for rows in (self.test, self.chosen_by))
        metrics = self.task.scores(self.task.says(test_NC), self.task.truth(self.test.label_N))
        name = next(iter(self.task.measures))
        chosen_N = self.task.rows(self.task.says(chosen_NC), self._chosen_truth_N)[name]
        recovered = {measure: self._recovered(measure, metrics) for measure in self.task.measures}
        return {
            "metrics": metrics,
            "recovered": recovered,
            "judged": {name: float(self.task.measures[name].of_mean(chosen_N.mean()))},
        }

    def _recovered(self, measure: str, metrics: dict[str, Any]) -> float | None:
        """The share of the ensemble's edge over the mean baseline; None where there is none."""
        if self.evaluation["recovered"][measure]["value"] is None:
            return None
        base = self.evaluation["replica_means"]["baseline"][measure]
        edge = self.evaluation["metrics"]["ensemble"][measure] - base
        return float((metrics[measure] - base) / edge)

    def lost(self, entry: dict[str, Any], of: dict[str, Any]) -> float:
        """Return what a variant loses of another's first measure: accuracy, or a share of the RMSE."""
        name, measure = next(iter(self.task.measures.items()))
        now, before = entry["judged"][name], of["judged"][name]
        return float(before - now if measure.higher_is_better else (now - before) / before)


def values(network: onnx.ModelProto, features_ND: np.ndarray) -> np.ndarray:
    """Return what a network says of encoded rows: logits or standardized predictions, float32, shape [N, C]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = np.array_split(features_ND, max(1, -(-len(features_ND) // ROWS_AT_ONCE)))
    return np.concatenate([session.run(None, {"features": part})[0] for part in parts])
