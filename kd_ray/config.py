"""Every knob, typed and explained. Read from YAML, checked whole, all mistakes reported at once.

The defaults are the recommended recipe; `examples/article.yaml` shows another.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kd_ray import mistakes, yaml_io
from kd_ray.errors import ConfigError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_name(name: str) -> str:
    """Return `name` if it can name a run, a single folder under the storage, else raise ConfigError."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name or name.endswith("."):
        raise ConfigError(
            f"name: must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit "
            f"and without '..'; got {name!r}"
        )
    return name


def _knob(default: Any, about: str, allowed: str, **limits: Any) -> Any:
    return Field(
        default=default,
        description=about,
        json_schema_extra={"allowed": allowed},
        **limits,
    )


def _section(model: type[BaseModel], about: str) -> Any:
    return Field(default_factory=model, description=about, json_schema_extra={"allowed": "a mapping"})


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("no_bool", "a boolean is not a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Auto = Literal["auto"]
Count = Annotated[Whole, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GeneratorOptions(Section):
    """Arguments of `sklearn.datasets.make_classification`, under its names."""

    n_samples: Whole = _knob(5000, "rows to generate", "a whole number >= 10", ge=10)
    n_features: Whole = _knob(20, "columns", "a whole number >= 1", ge=1)
    n_informative: Whole = _knob(10, "columns that carry the classes", "a whole number >= 1", ge=1)
    n_redundant: Whole = _knob(5, "linear combinations of those", "a whole number >= 0", ge=0)
    n_repeated: Whole = _knob(0, "copies of either", "a whole number >= 0", ge=0)
    n_classes: Whole = _knob(2, "classes", "a whole number >= 1", ge=1)
    n_clusters_per_class: Whole = _knob(2, "clusters a class", "a whole number >= 1", ge=1)
    flip_y: Number = _knob(0.01, "fraction of labels drawn at random", "a number in [0, 1]", ge=0, le=1)
    class_sep: Number = _knob(1.0, "distance between clusters", "a number above 0", gt=0)
    random_state: Whole = _knob(42, "seed of the generator", "a whole number >= 0", ge=0, lt=2**32)


def _is_share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("share", "neither a fraction nor a whole number of rows")
    return value


Share = Annotated[Number, AfterValidator(_is_share)]


class Split(Section):
    test: Share = _knob(0.2, "held-out rows", "a fraction in (0, 1), or a whole number of rows", gt=0)
    valid: Share = _knob(
        0.0,
        "rows taken from the training rows to choose replicas by",
        "a fraction in [0, 1), or a whole number of rows",
        ge=0,
    )
    seed: Whole = _knob(42, "seed of both splits", "a whole number in [0, 2^32)", ge=0, lt=2**32)


class Data(Section):
    source: Literal["make_classification"] = _knob(
        "make_classification", "where the rows come from", "make_classification"
    )
    options: GeneratorOptions = _section(GeneratorOptions, "the generator's arguments")
    split: Split = _section(Split, "held-out rows")


class Model(Section):
    kind: Literal["mlp"] = _knob("mlp", "architecture", "mlp")
    hidden: list[Count] = _knob([64, 32], "units of each hidden layer", "a list of whole numbers >= 1")
    dropout: list[Annotated[Number, Field(ge=0, lt=1)]] = _knob(
        [],
        "dropout after each hidden layer; [] for none",
        "[], or one number in [0, 1) for each hidden layer",
    )

    @field_validator("dropout")
    @classmethod
    def _one_a_layer(cls, dropout: list[float], info: ValidationInfo) -> list[float]:
        if dropout and len(dropout) != len(info.data.get("hidden", dropout)):
            raise PydanticCustomError("dropout", "another number of layers")
        return dropout


class TeacherModel(Model):
    hidden: list[Count] = _knob([256, 128, 64], "units of each hidden layer", "a list of whole numbers >= 1")
    dropout: list[Annotated[Number, Field(ge=0, lt=1)]] = _knob(
        [0.3, 0.3, 0.0],
        "dropout after each hidden layer; [] for none",
        "[], or one number in [0, 1) for each hidden layer",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_dropout_fits(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("hidden"), list) and "dropout" not in values:
            layers = len(values["hidden"])
            return {**values, "dropout": ([0.3, 0.3] + [0.0] * layers)[:layers]}
        return values


class Resources(Section):
    cpus: Number = _knob(1.0, "CPU cores of one actor", "a number >= 0", ge=0)
    gpus: Number = _knob(0.0, "GPUs of one actor; a fraction shares one", "a number >= 0", ge=0)
    actors: Count | Auto = _knob("auto", "actors at once; auto: all that fit", "auto, or a whole number >= 1")


_EPOCHS = "a whole number >= 1"
_POSITIVE = "a number above 0"


class Teachers(Section):
    count: Whole = _knob(12, "members of the ensemble; member i has seed i", "a whole number >= 1", ge=1, le=100_000)
    model: TeacherModel = _section(TeacherModel, "every member's architecture")
    epochs: Whole = _knob(30, "passes over the training rows", _EPOCHS, ge=1)
    batch_size: Whole = _knob(
        64, "rows a step; with fewer rows than that, a step takes them all", "a whole number >= 1", ge=1
    )
    learning_rate: Number = _knob(1e-3, "of Adam", _POSITIVE, gt=0)
    weight_decay: Number = _knob(0.0, "of Adam (added to the gradient)", "a number >= 0", ge=0)
    resources: Resources | Auto = _knob(
        "auto", "of one actor; auto: a GPU where there is one, else a core", "auto, or {cpus, gpus, actors}"
    )
    pack_size: Count | Auto = _knob(
        "auto", "members trained as one computation; auto: an equal part for each actor", "auto, or a whole number >= 1"
    )


class Transfer(Section):
    kind: Literal["none", "noise", "mixup", "swap"] = _knob(
        "mixup",
        "rows synthesized for the ensemble to label: Gaussian noise, mixup of two rows, columns swapped in from "
        "another row, or none",
        "none, noise, mixup or swap",
    )
    factor: Whole = _knob(40, "synthesized rows for each training row", "a whole number in [1, 1000]", ge=1, le=1000)
    noise: Number = _knob(0.3, "standard deviation of the noise, in those of the feature", _POSITIVE, gt=0)
    swap: Number = _knob(0.3, "chance of a column to come from another row", "a number in (0, 1]", gt=0, le=1)


class SoftTargets(Section):
    transfer: Transfer = _section(Transfer, "what the ensemble labels beside the training rows")
    member_log_probs: bool = _knob(
        True, "keep each member's log-probabilities (where members x classes <= 1024)", "true or false"
    )
    rows_per_file: Count | Auto = _knob(
        "auto", "rows of one Parquet file; auto: 131072", "auto, or a whole number >= 1"
    )


class Student(Section):
    model: Model = _section(Model, "the student's architecture, and its baselines'")
    temperature: Number = _knob(3.0, "T of alpha * T^2 * KL + (1 - alpha) * CE", _POSITIVE, gt=0, le=1e6)
    alpha: Number = _knob(1.0, "weight of the ensemble's word against the label's", "a number in [0, 1]", ge=0, le=1)
    averaging: Literal["logits", "probabilities"] = _knob(
        "logits", "what of the members is averaged", "logits or probabilities"
    )
    epochs: Whole = _knob(
        400,
        "as many steps as that many passes over the training rows; a larger transfer set adds none",
        _EPOCHS,
        ge=1,
    )
    batch_size: Whole = _knob(64, "rows a step", "a whole number >= 1", ge=1)
    learning_rate: Number = _knob(2e-3, "of Adam", _POSITIVE, gt=0)
    weight_decay: Number = _knob(1e-5, "of Adam (added to the gradient)", "a number >= 0", ge=0)
    schedule: Literal["constant", "cosine"] = _knob("cosine", "learning rate over the steps", "constant or cosine")
    replicas: Whole = _knob(
        4,
        "seeds trained side by side; the best on the validation rows (without any: the first) is delivered",
        "a whole number in [1, 1024]",
        ge=1,
        le=1024,
    )
    workers: Count | Auto = _knob(
        "auto",
        "Ray Train workers; auto: in this process on a laptop, one a GPU on a cluster",
        "auto, or a whole number >= 1",
    )


class Config(Section):
    """A whole run. `Config()` is the recommended recipe; see `kd-ray config` for every knob."""

    name: str = _knob("default", "the run's folder under storage", "a folder name")
    seed: Whole = _knob(42, "of all that training draws at random", "a whole number >= 0", ge=0, lt=2**32)
    data: Data = _section(Data, "rows, and which of them are held out")
    teachers: Teachers = _section(Teachers, "the ensemble")
    soft_targets: SoftTargets = _section(SoftTargets, "what the ensemble says of the transfer set")
    student: Student = _section(Student, "the distilled model")
    storage: str = _knob(
        "runs", "folder or URI that holds runs", "a folder, or a URI such as s3://bucket/runs", min_length=1
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            check_name(self.name)
        except ConfigError as error:
            raise PydanticCustomError("whole_line", "{line}", {"line": str(error)}) from None
        if self.student.averaging == "probabilities" and not self.soft_targets.member_log_probs:
            raise PydanticCustomError(
                "whole_line",
                "student.averaging: probabilities needs soft_targets.member_log_probs: true; got false",
            )
        return self

    @classmethod
    def of(cls, values: Any, *, source: str = "config") -> "Config":
        """Check `values` (a nested mapping). Raises ConfigError with a line for each mistake."""
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: must be a mapping of keys to values; got a {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("\n".join(f"{source}: {line}" for line in mistakes.lines(error, cls))) from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: list[str] | None = None) -> "Config":
        """Read `path`, then apply `KEY=VALUE` overrides with dotted keys. Raises ConfigError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: must be UTF-8 text") from None
        try:
            values = yaml_io.parse(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if overrides and isinstance(values, dict | None):
            values = yaml_io.override(values or {}, overrides)
        return cls.of(values, source=str(path))

    def to_yaml(self) -> str:
        return yaml_io.dump(self.model_dump())
