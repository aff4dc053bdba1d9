"""Knobs of the teachers, the soft targets and the student."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kd_ray.knobs.base import EPOCHS, POSITIVE, Arguments, Auto, Count, Number, Seconds, Section, Whole, knob, section

KEPT = (
    "a training under way is kept after an epoch, at most every so many seconds: one that is killed goes on from there"
)


class Model(Section):
    kind: Literal["mlp"] = knob("mlp", "architecture", "mlp")
    hidden: list[Count] = knob([64, 32], "units of each hidden layer", "a list of whole numbers >= 1")
    dropout: list[Annotated[Number, Field(ge=0, lt=1)]] = knob(
        [],
        "dropout after each hidden layer; [] for none",
        "[], or one number in [0, 1) for each hidden layer",
    )
    one_hot: Whole = knob(
        16, "a categorical column of more levels is embedded, of no more one-hot", "a whole number >= 0", ge=0
    )
    embedding: Count | Auto = knob(
        "auto", "numbers of an embedding; auto: 1.6 * levels ** 0.56, at most 64", "auto, or a whole number >= 1"
    )

    @field_validator("dropout")
    @classmethod
    def _one_a_layer(cls, dropout: list[float], info: ValidationInfo) -> list[float]:
        if dropout and len(dropout) != len(info.data.get("hidden", dropout)):
            raise PydanticCustomError("dropout", "another number of layers")
        return dropout


class TeacherModel(Model):
    hidden: list[Count] = knob([256, 128, 64], "units of each hidden layer", "a list of whole numbers >= 1")
    dropout: list[Annotated[Number, Field(ge=0, lt=1)]] = knob(
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
    cpus: Number = knob(1.0, "CPU cores of one actor", "a number >= 0", ge=0)
    gpus: Number = knob(0.0, "GPUs of one actor; a fraction shares one", "a number >= 0", ge=0)
    actors: Count | Auto = knob("auto", "actors at once; auto: all that fit", "auto, or a whole number >= 1")


class Group(Section):
    """Members of one kind. What a kind does not need is left out."""

    kind: Literal["mlp", "sklearn", "xgboost", "lightgbm", "torch", "saved", "columns"] = knob(
        "mlp",
        "built-in networks, estimators by import path, boosted trees, torch modules by import path, members "
        "already trained (folders of weights or ONNX files), or columns of the table that hold a member's word",
        "mlp, sklearn, xgboost, lightgbm, torch, saved or columns",
    )
    count: Whole = knob(1, "members; saved and columns count for themselves", "a whole number >= 1", ge=1, le=100_000)
    model: TeacherModel = section(TeacherModel, "mlp: the architecture")
    estimator: str | None = knob(None, "sklearn, torch: import path", "package.module.Name")
    parameters: Arguments = knob({}, "sklearn, xgboost, lightgbm, torch: keyword arguments", "a mapping")
    paths: list[str] = knob([], "saved: a file or folder for each member", "a list of paths")
    columns: list[list[str]] = knob(
        [], "columns: for each member the columns of its classes, in the order of the classes", "a list of lists"
    )
    values: Literal["probabilities", "logits"] = knob(
        "probabilities", "saved, columns: what the members say", "probabilities or logits"
    )

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> Self:
        needs = {"sklearn": "estimator", "torch": "estimator", "saved": "paths", "columns": "columns"}.get(self.kind)
        if needs and not getattr(self, needs):
            raise PydanticCustomError("whole_line", "{line}", {"line": f"teachers.groups: {self.kind} needs {needs}"})
        return self


class Teachers(Section):
    groups: list[Group] = knob([], "members of several kinds; [] for `count` networks of `model`", "a list of groups")
    folds: Whole = knob(
        0,
        "above 1: members see all folds but their own, and a training row is labelled by those that did not see it",
        "0, or a whole number in [2, 100]",
        ge=0,
        le=100,
    )
    bootstrap: bool = knob(False, "each member learns from rows drawn with replacement", "true or false")
    features: Number = knob(1.0, "share of the columns each member sees", "a number in (0, 1]", gt=0, le=1)
    weights: Literal["equal", "nll", "greedy"] = knob(
        "equal",
        "of the members: equal, by their NLL on the validation rows, or greedy selection on them",
        "equal, nll or greedy",
    )
    clip: Number = knob(
        1e-6, "probabilities below become this before their logarithm", "a number in (0, 0.1]", gt=0, le=0.1
    )
    count: Whole = knob(12, "members of the ensemble; member i has seed i", "a whole number >= 1", ge=1, le=100_000)
    model: TeacherModel = section(TeacherModel, "every member's architecture")
    epochs: Whole = knob(30, "passes over the training rows", EPOCHS, ge=1)
    batch_size: Whole = knob(
        64, "rows a step; with fewer rows than that, a step takes them all", "a whole number >= 1", ge=1
    )
    learning_rate: Number = knob(1e-3, "of Adam", POSITIVE, gt=0)
    weight_decay: Number = knob(0.0, "of Adam (added to the gradient)", "a number >= 0", ge=0)
    resources: Resources | Auto = knob(
        "auto", "of one actor; auto: a GPU where there is one, else a core", "auto, or {cpus, gpus, actors}"
    )
    pack_size: Count | Auto = knob(
        "auto",
        "members trained as one computation; auto: what fits, of few members an equal part for each actor",
        "auto, or a whole number >= 1",
    )
    allow_failures: Whole = knob(
        0,
        "members that may fail (diverge, or lose their actor three times) and be left out of the ensemble",
        "a whole number >= 0",
        ge=0,
    )
    deadline_seconds: Seconds | Auto = knob(
        "auto",
        "an actor without news for so long is replaced; auto: 20 times the slowest epoch, at least 300",
        "auto, or a number above 0",
    )
    checkpoint_seconds: Number = knob(30.0, KEPT, "a number >= 0", ge=0)

    @property
    def words(self) -> list[str]:
        """The table's columns that hold members' words, in order of members."""
        return [name for group in self.groups if group.kind == "columns" for names in group.columns for name in names]


Synthesized = Literal["noise", "mixup", "swap", "munge"]


class Transfer(Section):
    kind: Literal["none", Synthesized, "mix"] = knob(
        "mixup",
        "rows synthesized for the ensemble to label: Gaussian noise, mixup of two rows, columns swapped in from "
        "another row, MUNGE, a mix of these, or none",
        "none, noise, mixup, swap, munge or mix",
    )
    mix: dict[Synthesized, Annotated[Number, Field(ge=0)]] = knob(
        {"noise": 1.0, "mixup": 1.0},
        "mix: how many rows of each kind, relative to the others",
        "a mapping of kinds to numbers >= 0, one of them above 0",
    )
    factor: Whole = knob(40, "synthesized rows for each training row", "a whole number in [1, 1000]", ge=1, le=1000)
    noise: Number = knob(0.3, "standard deviation of the noise, in those of the feature", POSITIVE, gt=0)
    swap: Number = knob(
        0.3,
        "swap, munge, and noise on categories: chance of a column to come from another row",
        "a number in (0, 1]",
        gt=0,
        le=1,
    )

    @property
    def kinds(self) -> list[str]:
        """The kinds of rows that are synthesized."""
        if self.kind == "mix":
            return [kind for kind, part in self.mix.items() if part]
        return [] if self.kind == "none" else [self.kind]

    @field_validator("mix")
    @classmethod
    def _has_a_kind(cls, mix: dict[str, float]) -> dict[str, float]:
        if not any(mix.values()):
            raise PydanticCustomError("mix", "no kind has a part")
        return mix


class SoftTargets(Section):
    transfer: Transfer = section(Transfer, "what the ensemble labels beside the training rows")
    member_log_probs: bool = knob(
        True, "keep each member's log-probabilities (where members x classes <= 1024)", "true or false"
    )
    rows_per_file: Count | Auto = knob("auto", "rows of one Parquet file; auto: 131072", "auto, or a whole number >= 1")
    deadline_seconds: Seconds | Auto = knob(
        "auto",
        "where no file is finished for so long, the labelling is started anew; auto: by the rows, at least 600",
        "auto, or a number above 0",
    )


class Student(Section):
    model: Model = section(Model, "the student's architecture, and its baselines'")
    temperature: Number = knob(3.0, "T of alpha * T^2 * KL + (1 - alpha) * CE", POSITIVE, gt=0, le=1e6)
    alpha: Number = knob(1.0, "weight of the ensemble's word against the label's", "a number in [0, 1]", ge=0, le=1)
    averaging: Literal["logits", "probabilities"] = knob(
        "logits", "what of the members is averaged", "logits or probabilities"
    )
    mix: dict[Literal["unlabelled", Synthesized], Annotated[Number, Field(ge=0, le=1)]] = knob(
        {},
        "share of the transfer set's rows of a kind to learn from, of each kind that is named; of the others all",
        "a mapping of kinds of rows to numbers in [0, 1]",
    )
    epochs: Whole = knob(
        400,
        "as many steps as that many passes over the training rows; a larger transfer set adds none",
        EPOCHS,
        ge=1,
    )
    batch_size: Whole = knob(64, "rows a step", "a whole number >= 1", ge=1)
    learning_rate: Number = knob(2e-3, "of Adam", POSITIVE, gt=0)
    weight_decay: Number = knob(1e-5, "of Adam (added to the gradient)", "a number >= 0", ge=0)
    loss: Literal["mse", "huber"] = knob("mse", "regression: distance to the ensemble and to the label", "mse or huber")
    class_weights: Literal["none", "balanced"] = knob(
        "none", "weight of a row's class in the loss of its label", "none or balanced"
    )
    schedule: Literal["constant", "cosine"] = knob("cosine", "learning rate over the steps", "constant or cosine")
    replicas: Whole = knob(
        4,
        "seeds trained side by side; the best on the validation rows (without any: the first) is delivered",
        "a whole number in [1, 1024]",
        ge=1,
        le=1024,
    )
    workers: Count | Auto | Annotated[list[Count], Field(min_length=2, max_length=2)] = knob(
        "auto",
        "Ray Train workers; auto: in this process on a laptop, one a GPU on a cluster; [least, most]: as many as there "
        "are, which may change on the way",
        "auto, a whole number >= 1, or [least, most]",
    )
    checkpoint_seconds: Number = knob(30.0, KEPT, "a number >= 0", ge=0)

    @field_validator("workers")
    @classmethod
    def _least_comes_first(cls, workers: Any) -> Any:
        if isinstance(workers, list) and workers[0] > workers[1]:
            raise PydanticCustomError("workers", "least is above most")
        return workers
