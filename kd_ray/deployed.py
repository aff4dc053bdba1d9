"""The student as it is deployed: `load_student` needs numpy and onnxruntime, nothing else.

Axes: N rows, C classes.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_ray import raw
from kd_ray.commits import of_json
from kd_ray.errors import ConfigError, DataError, ManifestError

if TYPE_CHECKING:
    import onnxruntime

BUNDLE = "bundle.json"
FORMAT = 1


def load_student(run: str | Path, variant: str = "student", *, threads: int = 0) -> "Student":
    """Return a run's exported student, ready to predict.

    `run` is a run directory or its `export` folder; `variant` one of those in export/bundle.json, such as int8;
    `threads` those of one prediction, 0 for all cores. Raises ManifestError where the run has no finished export, is
    of a newer version, or a file is not what was written; ConfigError for a variant that is not there.
    """
    folder = Path(run)
    if (folder / "export").is_dir():
        folder = folder / "export"
    bundle = read_bundle(folder)
    entry = entry_of(bundle, variant)
    path = folder / entry["file"]
    if path.resolve().parent != folder.resolve():
        raise ManifestError(f"{path}: must lie in {folder} itself, and be no symbolic link out of it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}; export/bundle.json names it") from None
    if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ManifestError(
            f"{path}: is not what export/bundle.json says ({entry['bytes']} bytes, sha256 {entry['sha256'][:12]}); it "
            "was changed or damaged: run again, or copy it anew"
        )
    return student_of(content, bundle, threads=threads)


def entry_of(bundle: dict[str, Any], variant: str) -> dict[str, Any]:
    """Return what a bundle says of a variant. Raises ConfigError where there is no such one."""
    for entry in bundle["variants"]:
        if entry["name"] == variant:
            return dict(entry)
    known = ", ".join(entry["name"] for entry in bundle["variants"])
    raise ConfigError(f"variant: must be one of {known}; got {variant!r}")


def student_of(content: bytes, bundle: dict[str, Any], *, threads: int = 0) -> "Student":
    """Return the student of an ONNX file's content. Raises ManifestError where it is none of kd-ray's."""
    kind = Regressor if bundle["task"]["kind"] == "regression" else Classifier
    return kind(content, bundle, threads=threads)


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return export/bundle.json. Raises ManifestError where it is missing, damaged or of a newer version."""
    path = folder / BUNDLE
    try:
        content = path.read_bytes()
    except OSError:
        why = "has no finished export" if folder.is_dir() else "is no run directory"
        raise ManifestError(f"{folder}: {why}: there is no bundle.json; kd-ray run makes it") from None
    try:
        bundle = of_json(content, str(path))
        found = bundle["format"]
    except (KeyError, TypeError):
        raise ManifestError(f"{path}: is not what kd-ray writes; run again to make it anew") from None
    if found != FORMAT:
        raise ManifestError(f"{path}: has format {found!r}, this version of kd-ray reads {FORMAT}: install a newer one")
    return dict(bundle)


class Student:
    """A finished model: tables in, predictions out.

    A table is anything that gives a column by its name (a pandas or polars frame, a pyarrow table, a mapping), or a
    2-d array or nested list whose columns are those of `feature_names_in_` in order. Further columns do not matter.
    None, NaN and NaT are missing.
    """

    _estimator_type = ""

    def __init__(self, content: bytes, bundle: dict[str, Any], *, threads: int = 0) -> None:
        self.bundle, self.threads = bundle, threads
        self._content = content
        self._session = _session(content, threads)
        self.feature_names_in_ = np.array([column["name"] for column in bundle["columns"]], object)
        self.n_features_in_ = len(self.feature_names_in_)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._content)

    def inputs(self, table: Any) -> dict[str, np.ndarray]:
        """Return what the ONNX graph takes. Raises DataError at a column that is absent or of another type."""
        return raw.inputs(table, self.bundle)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return what the ONNX graph says of its own inputs, as `inputs` makes them."""
        return np.asarray(self._session.run(None, inputs)[0])

    def blank(self, rows: int) -> dict[str, np.ndarray]:
        """Return inputs of zeros and missing texts, to warm up with."""
        kinds = {"tensor(string)": object, "tensor(int64)": np.int64, "tensor(double)": np.float64}
        shapes = {given.name: (given.shape[1], kinds[given.type]) for given in self._session.get_inputs()}
        blank = {name: np.zeros((rows, columns), kind) for name, (columns, kind) in shapes.items()}
        return {
            name: np.full(v.shape, self.bundle["missing_text"], object) if v.dtype == object else v
            for name, v in blank.items()
        }

    def _say(self, table: Any) -> np.ndarray:
        given = self.inputs(table)
        if not len(next(iter(given.values()))):
            raise DataError("the table: must have at least one row; it has 0 samples")
        return self.run(given)

    def fit(self, X: Any, y: Any = None) -> "Student":
        """Do nothing: the student is trained already, as a scikit-learn FrozenEstimator is."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> "Student":
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        is_classifier = self._estimator_type == "classifier"
        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=False),
            transformer_tags=None,
            classifier_tags=ClassifierTags() if is_classifier else None,
            regressor_tags=None if is_classifier else RegressorTags(),
            input_tags=InputTags(allow_nan=True, string=True, categorical=True),
            requires_fit=False,
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"threads": self.threads}

    def set_params(self, **parameters: Any) -> "Student":
        if strange := set(parameters) - {"threads"}:
            raise ValueError(f"Invalid parameter {sorted(strange)[0]!r}: a loaded student has threads")
        self.threads = parameters.get("threads", self.threads)
        self._session = _session(self._content, self.threads)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._session = _session(self._content, self.threads)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(run={self.bundle['run']!r})"


class Classifier(Student):
    """A student that knows classes: `classes_` are texts, whole numbers or booleans as in the training table."""

    _estimator_type = "classifier"

    def __init__(self, content: bytes, bundle: dict[str, Any], *, threads: int = 0) -> None:
        super().__init__(content, bundle, threads=threads)
        self.classes_ = np.array(bundle["task"]["class_values"])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return each class's probability, float32, shape [N, C]."""
        return self._say(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each row, shape [N]."""
        return np.asarray(self.classes_[self._say(X).argmax(1)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy."""
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))


class Regressor(Student):
    """A student that knows a number."""

    _estimator_type = "regressor"

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions in the target's own units, float64, shape [N]."""
        return self._say(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R²."""
        true_N = np.asarray(y, np.float64)
        mean = np.average(true_N, weights=sample_weight)
        rest = np.average((true_N - self.predict(X)) ** 2, weights=sample_weight)
        return float(1 - rest / np.average((true_N - mean) ** 2, weights=sample_weight))


def _session(content: bytes, threads: int) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ManifestError(f"the student: onnxruntime cannot read it: {str(error).splitlines()[0]}") from None
    if "kd_ray_version" not in session.get_modelmeta().custom_metadata_map:
        raise ManifestError(
            "the student: is an ONNX file, but none that kd-ray wrote: its metadata has no kd_ray_version"
        )
    return session


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
