"""Knobs of the search over the student's own."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kd_ray.knobs.base import Auto, Count, Number, Section, Whole, knob
from kd_ray.knobs.training import Student
from kd_ray.mistakes import lines, near, short

SEARCHED = (
    "student.temperature",
    "student.alpha",
    "student.learning_rate",
    "student.weight_decay",
    "student.batch_size",
    "student.mix",
    "student.model.hidden",
)
"""Knobs that a search may vary: the soft targets do not depend on them."""
LISTS_ONLY = ("student.mix", "student.model.hidden")
BOUNDS = {"low", "high", "log"}


class Tune(Section):
    space: dict[str, Any] = knob(
        {
            "student.temperature": [1.0, 2.0, 3.0, 5.0],
            "student.alpha": [0.5, 0.75, 0.9, 1.0],
            "student.learning_rate": [5e-4, 1e-3, 2e-3, 4e-3],
        },
        "values of each knob to try: student.temperature, alpha, learning_rate, weight_decay, batch_size, "
        "mix, model.hidden",
        "a mapping of knobs to a list of values, or to {low, high, log}",
    )
    search: Literal["grid", "random", "optuna"] = knob(
        "grid",
        "grid: every combination of the lists; random; optuna: Optuna's TPE (pip install 'kd-ray[optuna]')",
        "grid, random or optuna",
    )
    trials: Whole = knob(64, "random, optuna: combinations to try", "a whole number in [1, 10000]", ge=1, le=10_000)
    pack_size: Count | Auto = knob(
        "auto",
        "combinations trained as one computation; auto: an equal part for each core or GPU",
        "auto, or a whole number >= 1",
    )
    objective: Literal["nll", "accuracy"] = knob(
        "nll", "what is best on the validation rows; of a regression it is the RMSE", "nll or accuracy"
    )
    max_bytes: Count | None = knob(
        None, "students whose student.onnx is larger are not tried", "null, or a whole number >= 1"
    )
    max_milliseconds: Annotated[Number, Field(gt=0)] | None = knob(
        None,
        "nor those whose exported file takes longer for one row on one thread of this machine (the median)",
        "null, or a number above 0",
    )
    rungs: Whole = knob(
        2,
        "1: all combinations are trained to the end; more: the best of each rung alone go on to the next, eta times as "
        "long",
        "a whole number in [1, 8]",
        ge=1,
        le=8,
    )
    eta: Whole = knob(4, "one of so many goes on from a rung", "a whole number in [2, 100]", ge=2, le=100)

    @model_validator(mode="after")
    def _space_can_be_searched(self) -> Self:
        if not self.space:
            raise _mistake("tune.space: must name a knob to vary; got {}")
        for name, values in self.space.items():
            _check_name(name)
            if isinstance(values, dict):
                _check_range(name, values, self.search)
            elif not isinstance(values, list) or not values:
                raise _mistake(
                    f"tune.space: {name}: must be a list of values, or {{low, high, log}}; got {short(values)}"
                )
            else:
                _check_values(name, values)
        return self


def _mistake(line: str) -> PydanticCustomError:
    return PydanticCustomError("whole_line", "{line}", {"line": line})


def _check_name(name: str) -> None:
    if name not in SEARCHED:
        hint = near(name, list(SEARCHED)) or ";"
        raise _mistake(f"tune.space: {name}: cannot be searched{hint} allowed here: {', '.join(SEARCHED)}")


def _check_values(name: str, values: list[Any]) -> None:
    for value in values:
        nested: Any = value
        for key in reversed(name.split(".")[1:]):
            nested = {key: nested}
        try:
            Student.model_validate(nested)
        except ValidationError as error:
            raise _mistake(f"tune.space: student.{lines(error, Student)[0]}") from None
    if len({repr(value) for value in values}) < len(values):
        raise _mistake(f"tune.space: {name}: must be different values; got {short(values)}")


def _check_range(name: str, values: dict[str, Any], search: str) -> None:
    if name in LISTS_ONLY:
        raise _mistake(f"tune.space: {name}: must be a list of values; got {short(values)}")
    if search == "grid":
        raise _mistake(
            f"tune.space: {name}: a grid takes a list of values; got {short(values)}: list them, or set tune.search to "
            "random"
        )
    if not {"low", "high"} <= set(values) <= BOUNDS or not isinstance(values.get("log", False), bool):
        raise _mistake(f"tune.space: {name}: must be {{low, high}} or {{low, high, log: true}}; got {short(values)}")
    low, high = values["low"], values["high"]
    if not all(_is_number(bound) for bound in (low, high)):
        raise _mistake(f"tune.space: {name}: low and high must be numbers; got {short(values)}")
    if low >= high:
        raise _mistake(f"tune.space: {name}: low must be below high; got {low:g} and {high:g}")
    if values.get("log") and low <= 0:
        raise _mistake(f"tune.space: {name}: low must be above 0 where log is true; got {low:g}")
    _check_values(name, [low, high])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
