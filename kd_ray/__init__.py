"""kd_ray: distill an ensemble into one small model, in parallel on Ray.

Importing this package imports neither torch nor ray; `run` does so when it is called, `load_student` never.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Config", "Result", "__version__", "load_student", "run"]

if TYPE_CHECKING:
    from kd_ray.config import Config
    from kd_ray.deployed import load_student
    from kd_ray.pipeline import Result, run

_HOMES = {
    "Config": "kd_ray.config",
    "Result": "kd_ray.pipeline",
    "load_student": "kd_ray.deployed",
    "run": "kd_ray.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kd_ray' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
