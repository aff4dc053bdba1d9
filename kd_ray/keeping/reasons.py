"""Why a stage would be run again: which knobs differ, and which stage each of them is the first to change."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from kd_ray.config import Config
from kd_ray.mistakes import short

BESIDE = ("name", "storage")
Functions = Callable[[Config], dict[str, str]]
"""What each stage is a function of, in the order of the stages."""


def changes(old: BaseModel, new: BaseModel, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the knobs that differ, by dotted key, with both values; not those that say where the run lies."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in type(old).model_fields:
        key, was, now = f"{prefix}{name}", getattr(old, name), getattr(new, name)
        if isinstance(was, BaseModel) and type(was) is type(now):
            found |= changes(was, now, f"{key}.")
        elif was != now and key not in BESIDE:
            found[key] = (was, now)
    return found


def attributed(
    changed: dict[str, tuple[Any, Any]], old: Config, new: Config, functions: Functions
) -> dict[str, list[str]]:
    """Return a line for each knob that a stage depends on, under the first stage in order that it changes.

    A knob is tried alone: the old config with its new value; so nothing here has to know which stage reads what.
    """
    before = functions(old)
    found: dict[str, list[str]] = {}
    for key, (was, now) in changed.items():
        after = functions(_with(old, new, key.split(".")))
        first = next((stage for stage in before if before[stage] != after[stage]), None)
        if first is not None:
            found.setdefault(first, []).append(f"{key} was {short(was)}, is {short(now)}")
    return found


def _with(old: Any, new: Any, keys: list[str]) -> Any:
    """Return `old`, a config or a section, with the value that `new` has at `keys`."""
    key, *rest = keys
    here, there = getattr(old, key), getattr(new, key)
    return old.model_copy(update={key: _with(here, there, rest) if rest else there})
