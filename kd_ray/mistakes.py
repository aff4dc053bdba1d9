"""Mistakes as lines for a person: what must hold, what came; a config's with the key."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kd_ray.credentials import hidden
from kd_ray.errors import ConfigError, DataError, UserError


def lines(error: ValidationError, root: type[BaseModel]) -> list[str]:
    lines: dict[str, str] = {}
    for item in error.errors():
        if item["type"] == "whole_line":
            lines.setdefault(item["msg"], item["msg"])
            continue
        if item["type"] == "extra_forbidden":
            keys, node, _ = _resolve(item["loc"][:-1], root)
            name = str(item["loc"][-1])
            key = ".".join([*keys, name])
            lines.setdefault(key, _unknown_key(key, name, list(node.model_fields)))
            continue
        keys, node, field = _resolve(item["loc"], root)
        key = ".".join(keys)
        allowed = (field.json_schema_extra or {}).get("allowed") if field is not None else None
        lines.setdefault(key, f"{key or 'config'}: must be {allowed or item['msg']}; got {short(item['input'])}")
    return [line for key, line in lines.items() if not any(other.startswith(f"{key}.") for other in lines)]


def _resolve(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[str], Any, Any]:
    """Follow `loc` through the models: its dotted keys, the section it ends in, and the field."""
    node: Any = root
    field = None
    keys: list[str] = []
    for part in loc:
        if isinstance(part, int) or node is None:
            continue
        if part in node.model_fields:
            keys.append(part)
            field = node.model_fields[part]
            below = _section_of(field.annotation)
            if below is None and part != loc[-1]:
                return keys, node, field
            node = below or node
        elif part in ("Resources", "int", "float", "literal['auto']") or "[" in part:
            continue
        else:
            keys.append(part)
            field = None
    return keys, node, field


def _section_of(annotation: Any) -> Any:
    candidates = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _unknown_key(key: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{key}: unknown key; {hint}allowed here: {', '.join(known)}"


def short(value: Any) -> str:
    """Return how Python writes a value, without credentials, cut at 60 characters."""
    text = hidden(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


MAX_LINE = 1_000


class Mistakes:
    """Mistakes in config and data, gathered until all are known."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, *lines: str) -> None:
        """Take lines; one that is there already is not taken again, and what is longer than a screen is cut."""
        for line in "\n".join(lines).splitlines():
            cut = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."
            if cut not in self.lines:
                self.lines.append(cut)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Take the lines of a mistake of the user's that is raised inside, and go on."""
        try:
            yield
        except (ConfigError, DataError) as error:
            self.add(str(error))

    def check(self, kind: type[UserError] = DataError) -> None:
        """Raise one error with all lines, where there are any."""
        if self.lines:
            raise kind("\n".join(self.lines))


def near(name: str, known: list[str]) -> str:
    """Return words that name the nearest of `known`, to end a sentence with, or none."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
