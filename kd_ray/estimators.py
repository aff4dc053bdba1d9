"""Members that are no networks: scikit-learn's, XGBoost's and LightGBM's, fitted, stored without pickle, asked again.

They see the encoded features, codes as they are. A classifier says logits, log(max(p, clip)) renormalized; a
regressor the standardized target. Axes: N rows, D features, C classes (1 for a regression).
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd_ray.errors import ConfigError, ManifestError
from kd_ray.knobs import Group
from kd_ray.tables import Rows

KINDS = ("sklearn", "xgboost", "lightgbm")
FILES = {"sklearn": "model.skops", "xgboost": "model.json", "lightgbm": "model.txt"}
TRUSTED = ("sklearn.", "numpy.", "scipy.")
"""Packages whose types a stored scikit-learn model may name; it is ours, and never read from the model."""
Says = Callable[[np.ndarray], np.ndarray]
"""Features, shape [N, D], to probabilities, shape [N, C], or a regression's values, shape [N]."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What every estimator of a run needs to know."""

    n_outputs: int
    is_regression: bool
    levels_D: list[int]
    threads: int
    clip: float

    def words(self, said_NC: np.ndarray, values: str) -> np.ndarray:
        """Return what a model says, probabilities or logits, as float32 logits; a regression's values stay."""
        if self.is_regression or values == "logits":
            return said_NC.astype(np.float32)
        return to_logits(said_NC, self.clip)

    def logits(self, says: Says, features_ND: np.ndarray) -> np.ndarray:
        """Return float32 logits, shape [N, C], or a regression's values, shape [N, 1]."""
        said = np.asarray(says(features_ND), np.float64)
        if self.is_regression:
            return said.reshape(-1, 1).astype(np.float32)
        return to_logits(said, self.clip)


def to_logits(prob_NC: np.ndarray, clip: float) -> np.ndarray:
    """Return log-probabilities, float32: what is below `clip` becomes it, and rows sum to 1 again."""
    clipped_NC = np.maximum(prob_NC, clip)
    return np.log(clipped_NC / clipped_NC.sum(1, keepdims=True)).astype(np.float32)


def check(group: Group, problem: Problem) -> None:
    """Raise ConfigError where a group's members cannot be made, before anything is trained."""
    try:
        made = _make(group, 0, problem)
    except TypeError as error:
        raise ConfigError(f"teachers.groups: {group.kind}: parameters: {error}") from None
    if not problem.is_regression and not hasattr(made, "predict_proba"):
        raise ConfigError(
            f"teachers.groups: {group.estimator}: must have predict_proba; name a classifier, or calibrate it with "
            "sklearn.calibration.CalibratedClassifierCV"
        )
    if group.kind == "sklearn" and (strange := _strange(_named(save("sklearn", made)))):
        raise ConfigError(
            f"teachers.groups: {group.estimator}: could not be read back safely, it names {', '.join(strange[:3])}: "
            "use steps of scikit-learn, numpy and scipy"
        )


def fit(group: Group, seed: int, rows: Rows, problem: Problem) -> Any:
    """Return a fitted estimator. `rows` is what it learns from; weights are given where they differ."""
    model = _make(group, seed, problem)
    if group.kind != "sklearn":
        rows = _with_every_class(rows, problem)
    weights = {} if (rows.weight_N == 1).all() else {"sample_weight": rows.weight_N}
    return model.fit(rows.features_ND, rows.label_N, **weights)


def _with_every_class(rows: Rows, problem: Problem) -> Rows:
    """Add a row without weight for each class that the rows lack: a booster's outputs are the classes it was given."""
    if problem.is_regression:
        return rows
    absent_C = np.setdiff1d(np.arange(problem.n_outputs), rows.label_N)
    first = np.zeros(len(absent_C), np.int64)
    return Rows.concat([rows, replace(rows.at(first), label_N=absent_C, weight_N=np.zeros(len(first), np.float32))])


def says(model: Any, problem: Problem) -> Says:
    """Return what asks a fitted estimator; a class that it never saw has probability 0."""
    if problem.is_regression:
        return lambda features_ND: model.predict(features_ND)

    def probabilities(features_ND: np.ndarray) -> np.ndarray:
        prob_NC = np.zeros((len(features_ND), problem.n_outputs))
        prob_NC[:, np.asarray(model.classes_, np.int64)] = model.predict_proba(features_ND)
        return prob_NC

    return probabilities


def save(kind: str, model: Any) -> bytes:
    """Return the estimator in its own format: skops, XGBoost's JSON, LightGBM's text."""
    if kind == "sklearn":
        import skops.io

        return bytes(skops.io.dumps(model))
    if kind == "xgboost":
        return bytes(model.get_booster().save_raw("json"))
    return str(model.booster_.model_to_string()).encode()


def load(kind: str, content: bytes, problem: Problem, name: str) -> Says:
    """Return what asks a stored estimator.

    Raises ManifestError where it names types we do not trust, or is not in its library's format.
    """
    try:
        return _load(kind, content, problem, name)
    except ManifestError:
        raise
    except Exception as error:  # what three libraries raise at bytes that are not theirs
        why = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise ManifestError(f"{name}: its {FILES[kind]} cannot be read as {kind}'s: {why}") from None


def _load(kind: str, content: bytes, problem: Problem, name: str) -> Says:
    if kind == "sklearn":
        return says(_unpacked(content, name), problem)
    if kind == "xgboost":
        import xgboost

        booster = xgboost.Booster({"nthread": problem.threads})
        booster.load_model(bytearray(content))
        return lambda features_ND: _of_classes(booster.inplace_predict(features_ND), problem)
    import lightgbm

    trees = lightgbm.Booster(model_str=content.decode())
    return lambda features_ND: _of_classes(trees.predict(features_ND, num_threads=problem.threads), problem)


def _of_classes(said: Any, problem: Problem) -> np.ndarray:
    """Boosters say only the second class's probability where there are two."""
    said = np.asarray(said)
    return said if problem.is_regression or said.ndim == 2 else np.stack([1 - said, said], 1)


def _unpacked(content: bytes, name: str) -> Any:
    import skops.io

    named = _named(content)
    if strange := _strange(named):
        raise ManifestError(f"{name}: names types that are not trusted: {', '.join(strange[:3])}")
    return skops.io.loads(content, trusted=named)


def _named(content: bytes) -> list[str]:
    """Return the types that a stored model names and skops does not trust by itself."""
    import skops.io

    return list(skops.io.get_untrusted_types(data=content))


def _strange(named: list[str]) -> list[str]:
    return [kind for kind in named if not (kind.startswith(TRUSTED) and _is_class(kind))]


def _is_class(kind: str) -> bool:
    """Whether a trusted package's name is a type: a function that a model names would be called with its words."""
    module, _, name = kind.rpartition(".")
    try:
        return inspect.isclass(getattr(importlib.import_module(module), name, None))
    except ImportError:
        return False


def _make(group: Group, seed: int, problem: Problem) -> Any:
    if group.kind == "sklearn":
        return _sklearn(group, seed, problem)
    given = {"n_jobs": problem.threads, "random_state": seed}
    if group.kind == "xgboost":
        xgboost = _extra("xgboost")
        kind = xgboost.XGBRegressor if problem.is_regression else xgboost.XGBClassifier
        return kind(**{**given, "tree_method": "hist", **group.parameters})
    lightgbm = _extra("lightgbm")
    kind = lightgbm.LGBMRegressor if problem.is_regression else lightgbm.LGBMClassifier
    return kind(**{**given, "verbosity": -1, "deterministic": True, "force_row_wise": True, **group.parameters})


def _sklearn(group: Group, seed: int, problem: Problem) -> Any:
    kind = imported(str(group.estimator), "teachers.groups: sklearn: estimator")
    known = inspect.signature(kind).parameters
    given = {"random_state": seed, **({"n_jobs": problem.threads} if problem.threads > 1 else {})}
    return kind(**{**{key: value for key, value in given.items() if key in known}, **group.parameters})


def _extra(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(f'teachers.groups: {package} is not installed: pip install "kd-ray[{package}]"') from None


def imported(path: str, key: str) -> Any:
    """Return what an import path of the user's own config names. Raises ConfigError."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"{key}: must be an import path such as package.module.Name; got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"{key}: {path} cannot be imported: {error}") from None
    except AttributeError:
        raise ConfigError(f"{key}: {module} has no {name!r}") from None
