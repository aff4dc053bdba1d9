"""Tables that are named, not read from files: scikit-learn's data sets, and what the user's function returns."""

import importlib
from typing import Any

import numpy as np
import pyarrow as pa

from kd_ray.data.pieces import plain_schema
from kd_ray.errors import DataError
from kd_ray.knobs import Data
from kd_ray.mistakes import near

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
TARGET = "target"


def sklearn_table(name: str) -> pa.Table:
    """Return a data set that comes with scikit-learn: its columns and `target`, as text where classes have names."""
    import sklearn.datasets

    if name not in SKLEARN:
        raise DataError(
            f"data.source: must be sklearn: and one of {', '.join(SKLEARN)}; got {name!r}{near(name, list(SKLEARN))}"
        )
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    target_N = bunch.target
    if isinstance(bunch.get("target_names", [0])[0], str):
        target_N = np.asarray(bunch.target_names)[target_N]
    return _from_arrays(np.asarray(bunch.data), target_N, [str(n) for n in bunch.feature_names], TARGET)


def imported_table(data: Data) -> Any:
    """Call the user's function; return a table, or the ray.data.Dataset that it gave. Raises DataError."""
    module_name, _, function_name = data.source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(f"data.source: {module_name!r} must be importable; it says: {_says(error)}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        found = near(function_name, [name for name in dir(module) if not name.startswith("_")])
        raise DataError(f"data.source: {module_name!r} must have a function {function_name!r}; it has none{found}")
    try:
        value = function(**data.arguments)
    except Exception as error:
        raise DataError(f"data.source: {data.source} must return a table; it raises {_says(error)}") from None
    return value if is_ray_dataset(value) else _to_table(value, data)


def is_ray_dataset(value: Any) -> bool:
    return type(value).__module__.startswith("ray.data") and hasattr(value, "iter_batches")


def _to_table(value: Any, data: Data) -> pa.Table:
    target = data.columns.target or TARGET
    try:
        if isinstance(value, pa.Table):
            table = value
        elif type(value).__module__.startswith("pandas") and hasattr(value, "columns"):
            table = pa.Table.from_pandas(value, preserve_index=False)
        elif isinstance(value, tuple) and len(value) == 2:
            table = _from_pair(*value, target)
        else:
            raise DataError(
                f"data.source: {data.source} must return a pyarrow table, a pandas frame, a pair (X, y) of arrays or a "
                f"ray.data.Dataset; it returns a {type(value).__name__}"
            )
        check_names(table.schema.names, f"what {data.source} returns")
        table.validate(full=True)
        return table.cast(plain_schema(table.schema))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"data.source: what {data.source} returns cannot be a table: {_says(error)}") from None


def check_names(names: list[str], what: str) -> None:
    """Raise DataError where a column has no name, or several have one."""
    if any(not str(name).strip() for name in names):
        raise DataError(
            f"{what}: every column must have a name; column {[*map(str.strip, names)].index('') + 1} has none"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{what}: column names must differ; {twice[0]!r} is there {names.count(twice[0])} times")


def _from_pair(features: Any, target: Any, name: str) -> pa.Table:
    if hasattr(features, "columns"):
        table = pa.Table.from_pandas(features, preserve_index=False)
        return table.append_column(name, pa.array(np.asarray(target)))
    features_ND, target_N = np.asarray(features), np.asarray(target)
    if features_ND.ndim != 2 or target_N.ndim != 1 or len(features_ND) != len(target_N):
        raise ValueError(
            f"X must be [rows, columns] and y [rows] of as many rows; they are {features_ND.shape} and {target_N.shape}"
        )
    return _from_arrays(features_ND, target_N, [f"x{d}" for d in range(features_ND.shape[1])], name)


def _from_arrays(features_ND: np.ndarray, target_N: np.ndarray, names: list[str], target: str) -> pa.Table:
    columns = {name: pa.array(features_ND[:, d]) for d, name in enumerate(names)}
    return pa.table({**columns, target: pa.array(target_N)})


def _says(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or repr(error)).splitlines()[0]}"
