"""What a knob and a section are made of."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def knob(default: Any, about: str, allowed: str, **limits: Any) -> Any:
    return Field(
        default=default,
        description=about,
        json_schema_extra={"allowed": allowed},
        **limits,
    )


def section(model: type[BaseModel], about: str) -> Any:
    return Field(default_factory=model, description=about, json_schema_extra={"allowed": "a mapping"})


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("no_bool", "a boolean is not a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Auto = Literal["auto"]
Count = Annotated[Whole, Field(ge=1)]
Seconds = Annotated[Number, Field(gt=0)]


def _is_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("share", "neither a fraction nor a whole number of rows")
    return value


Share = Annotated[Number, AfterValidator(_is_share)]

Arguments = dict[str, Any]
"""Passed on as they are; the one who takes them checks them."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


EPOCHS = "a whole number >= 1"
POSITIVE = "a number above 0"
