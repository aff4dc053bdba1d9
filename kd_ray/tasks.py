"""What a task makes of a model's numbers: scores, what is resampled for intervals, how the best replica is found.

A model's `values` are logits or, of a regression, standardized predictions; what it `says` are log-probabilities of
shape [N, C], or predictions of shape [N] in the target's own units.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from kd_ray import metrics
from kd_ray.metrics import Scores
from kd_ray.recovery import Measure


class Task(Protocol):
    """`measures` are the metrics of which a recovered share is given; `selection` is the one, lower is better, that
    chooses a replica.
    """

    measures: ClassVar[dict[str, Measure]]
    selection: ClassVar[str]

    def truth(self, label_N: np.ndarray) -> np.ndarray:
        """Labels as scores need them, from those in the files."""

    def says(self, values_NC: np.ndarray) -> np.ndarray:
        """What a model says of rows, in float64."""

    def scores(self, says: np.ndarray, truth_N: np.ndarray) -> Scores: ...

    def rows(self, says: np.ndarray, truth_N: np.ndarray) -> dict[str, np.ndarray]:
        """Each row's part in every measure."""

    def fidelity(self, student: np.ndarray, ensemble: np.ndarray) -> Scores: ...

    def opinion(self, says: np.ndarray, ensemble: np.ndarray) -> np.ndarray:
        """The number of each row whose standard deviation over the members is their disagreement."""


class Classification:
    measures: ClassVar[dict[str, Measure]] = {"accuracy": Measure(higher_is_better=True), "nll": Measure()}
    selection: ClassVar[str] = "nll"

    def truth(self, label_N: np.ndarray) -> np.ndarray:
        return label_N

    def says(self, values_NC: np.ndarray) -> np.ndarray:
        return metrics.log_softmax(values_NC)

    def scores(self, says: np.ndarray, truth_N: np.ndarray) -> Scores:
        return metrics.classification(says, truth_N)

    def rows(self, says: np.ndarray, truth_N: np.ndarray) -> dict[str, np.ndarray]:
        return metrics.per_row(says, truth_N)

    def fidelity(self, student: np.ndarray, ensemble: np.ndarray) -> Scores:
        return metrics.fidelity(student, ensemble)

    def opinion(self, says: np.ndarray, ensemble: np.ndarray) -> np.ndarray:
        """The probability of the class that the ensemble names."""
        return np.exp(np.take_along_axis(says, ensemble.argmax(-1)[:, None], -1)[:, 0])


@dataclass(frozen=True, kw_only=True)
class Regression:
    """`mean` and `scale` are those that the labels in the files were standardized by."""

    mean: float
    scale: float
    measures: ClassVar[dict[str, Measure]] = {"rmse": Measure(of_mean=np.sqrt)}
    selection: ClassVar[str] = "rmse"

    def truth(self, label_N: np.ndarray) -> np.ndarray:
        return label_N.astype(np.float64) * self.scale + self.mean

    def says(self, values_NC: np.ndarray) -> np.ndarray:
        return self.truth(values_NC[:, 0])

    def scores(self, says: np.ndarray, truth_N: np.ndarray) -> Scores:
        return metrics.regression(says, truth_N)

    def rows(self, says: np.ndarray, truth_N: np.ndarray) -> dict[str, np.ndarray]:
        return {"rmse": (says - truth_N) ** 2}

    def fidelity(self, student: np.ndarray, ensemble: np.ndarray) -> Scores:
        return metrics.likeness(student, ensemble)

    def opinion(self, says: np.ndarray, ensemble: np.ndarray) -> np.ndarray:
        return says


def task_of(schema: dict[str, Any]) -> Task:
    """Return the task that a data stage's schema names."""
    task = schema["task"]
    if task["kind"] == "regression":
        return Regression(mean=task["mean"], scale=task["scale"])
    return Classification()


def selection_score(task: Task, values_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """Return the metric that chooses a replica, of a model's values of validation rows."""
    name = task.selection
    mean = task.rows(task.says(values_NC), truth_N)[name].mean()
    return float(task.measures[name].of_mean(mean))
