"""The config of a run: read from YAML, checked whole, all mistakes reported at once."""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kd_ray import credentials, mistakes, yaml_io
from kd_ray.errors import ConfigError
from kd_ray.knobs import Data, Export, Section, SoftTargets, Student, Teachers, Track, Tune, Whole, knob, section

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_name(name: str) -> str:
    """Return `name` if it can name a run, a single folder under the storage, else raise ConfigError."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name or name.endswith("."):
        raise ConfigError(
            f"name: must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit "
            f"and without '..'; got {name!r}"
        )
    return name


class Config(Section):
    """A whole run. `Config()` is the recommended recipe; see `kd-ray config` for every knob."""

    name: str = knob("default", "the run's folder under storage", "a folder name")
    seed: Whole = knob(42, "of all that training draws at random", "a whole number >= 0", ge=0, lt=2**32)
    data: Data = section(Data, "rows, and which of them are held out")
    teachers: Teachers = section(Teachers, "the ensemble")
    soft_targets: SoftTargets = section(SoftTargets, "what the ensemble says of the transfer set")
    student: Student = section(Student, "the distilled model")
    tune: Tune = section(Tune, "kd-ray tune: a search over knobs of the student")
    export: Export = section(Export, "the file to deploy, and smaller variants of it")
    track: Track = section(Track, "where a finished run is written down beside its own folder")
    storage: str = knob(
        "runs", "folder or URI that holds runs", "a folder, or a URI such as s3://bucket/runs", min_length=1
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            check_name(self.name)
            credentials.check(self.storage, "storage")
            credentials.check(self.data.source, "data.source")
            credentials.check(self.data.unlabelled or "", "data.unlabelled")
        except ConfigError as error:
            raise PydanticCustomError("whole_line", "{line}", {"line": str(error)}) from None
        if self.student.averaging == "probabilities" and not self.soft_targets.member_log_probs:
            raise PydanticCustomError(
                "whole_line",
                "student.averaging: probabilities needs soft_targets.member_log_probs: true; got false",
            )
        teachers = self.teachers
        is_plain_mean = teachers.folds < 2 and teachers.weights == "equal"
        is_plain_mean &= all(group.kind != "columns" for group in teachers.groups)
        if self.student.averaging == "probabilities" and not is_plain_mean:
            raise PydanticCustomError(
                "whole_line",
                "student.averaging: must be logits where teachers have folds, weights or groups of columns; "
                "got probabilities",
            )
        if self.data.task == "regression" and self.student.class_weights != "none":
            raise PydanticCustomError(
                "whole_line",
                "student.class_weights: must be none where data.task is regression; got balanced",
            )
        self._check_mixes()
        return self

    def _check_mixes(self) -> None:
        there = [*self.soft_targets.transfer.kinds, *(["unlabelled"] if self.data.unlabelled else [])]
        for key, mix in [
            ("student.mix", self.student.mix),
            *(("tune.space: student.mix", mix) for mix in self.tune.space.get("student.mix", [])),
        ]:
            if absent := [kind for kind in mix if kind not in there]:
                raise PydanticCustomError(
                    "whole_line",
                    "{key}: must name kinds that data and soft_targets.transfer bring, {there}; got {absent}",
                    {"key": key, "there": ", ".join(there) or "here none", "absent": ", ".join(absent)},
                )

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
