"""Which of a search's architectures are small and fast enough to deploy: exported untrained, weighed and timed.

Measured once: what a search may try must not change with the machine's mood when it is taken up.
File: tune/limits.json.
"""

from typing import Any

import numpy as np

from kd_ray import latency
from kd_ray.config import Config
from kd_ray.ensemble import spec_of
from kd_ray.errors import ConfigError
from kd_ray.export.description import untrained
from kd_ray.search import HIDDEN, student_of
from kd_ray.tables import Dataset

FILE = "tune/limits.json"
SECONDS = 0.5


def within(config: Config, data: Dataset, fingerprint: str) -> tuple[Config, list[dict[str, Any]]]:
    """Return the config with those layers alone in its space, and what each was measured at, the configured ones
    first; nothing is measured without a limit. `fingerprint` is that of the soft targets.

    Raises ConfigError where none of them keeps the limits.
    """
    tune = config.tune
    if tune.max_bytes is None and tune.max_milliseconds is None:
        return config, []
    space = tune.space.get(HIDDEN)
    known: dict[str, Any] = data.run.read_json(FILE) if data.run.exists(FILE) else {"soft_targets": None}
    layers = known["layers"] if known["soft_targets"] == fingerprint else {}
    every = {str(hidden): hidden for hidden in [config.student.model.hidden, *(space or [])]}
    layers |= {key: _measured(config, data, one, fingerprint) for key, one in every.items() if key not in layers}
    data.run.write_sealed(FILE, {"soft_targets": fingerprint, "layers": layers})
    measured = [layers[key] for key in every]
    for one in measured:
        one["is_within"] = _keeps(one["bytes"], tune.max_bytes) and _keeps(one["milliseconds"], tune.max_milliseconds)
    allowed = [one["hidden"] for one in measured if one["is_within"] and (space is None or one["hidden"] in space)]
    if not allowed:
        found = "; ".join(f"{o['hidden']}: {o['bytes']:,} bytes, {o['milliseconds']:.3g} ms" for o in measured)
        raise ConfigError(
            f"tune.max_bytes, tune.max_milliseconds: no student keeps the limits of {_said(config)}; as exported they "
            f"have {found}: name smaller layers in tune.space, {HIDDEN}, or raise the limit"
        )
    if space is None:
        return config, measured
    narrowed = tune.model_copy(update={"space": {**tune.space, HIDDEN: allowed}})
    return config.model_copy(update={"tune": narrowed}), measured


def _keeps(found: float, limit: float | None) -> bool:
    return limit is None or found <= limit


def _said(config: Config) -> str:
    limits = {"bytes": config.tune.max_bytes, "ms": config.tune.max_milliseconds}
    return " and ".join(f"{limit:,} {unit}" for unit, limit in limits.items() if limit is not None)


def _measured(config: Config, data: Dataset, hidden: list[int], fingerprint: str) -> dict[str, Any]:
    student = untrained(data, spec_of(student_of(config.student, {HIDDEN: hidden}).model, data), fingerprint)
    row = {name: np.ascontiguousarray(values[:1]) for name, values in student.inputs(data.sample()).items()}
    seconds = latency.timed({"student": lambda: student.run(row)}, SECONDS)["student"]["p50"]
    return {"hidden": hidden, "bytes": student.size, "milliseconds": 1000 * seconds}
