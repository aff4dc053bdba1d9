"""YAML as a config needs it: safe, without PyYAML's surprises."""

import re
from typing import Any

import yaml
from pydantic import BaseModel

from kd_ray.errors import ConfigError

MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses aliases and duplicate keys and reads `1e-3` as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ConfigError(
                f"line {event.start_mark.line + 1}: YAML aliases (*{event.anchor}) are not allowed; write the value out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: keys must be text, got {key!r}")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {key!r} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 as PyYAML reads it wants a dot in a float, so that 1e-3 would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse(text: str) -> Any:
    """Return what `text` says. Raises ConfigError where it is not YAML, or YAML we refuse."""
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(f"the file must be at most {MAX_BYTES:,} bytes; this one is larger")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError("the file is nested too deeply to be a config") from None
    except ValueError as error:
        raise ConfigError(f"not valid YAML: {error}") from None


def dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Return a nested mapping as dotted keys and their values as YAML."""
    if not isinstance(values, dict) or not values:
        return {prefix: yaml.safe_dump(values, default_flow_style=True, width=1000).removesuffix("...\n").strip()}
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return `values` with `a.b=VALUE` applied; VALUE is YAML. Raises ConfigError."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: must be KEY=VALUE, such as teachers.count=24; got {assignment!r}")
        *parents, leaf = key.strip().split(".")
        node = values = dict(values)
        for parent in parents:
            child = node.get(parent)
            node[parent] = dict(child) if isinstance(child, dict) else {}
            node = node[parent]
        try:
            node[leaf] = parse(text)
        except ConfigError as error:
            raise ConfigError(f"--set {key}: {error}") from None
    return values


def annotated(section: BaseModel) -> str:
    """Return a config as YAML, each knob under a comment that says what it does and what it takes."""
    return "\n".join(_annotated(section, "")) + "\n"


def _annotated(section: BaseModel, pad: str) -> list[str]:
    lines = []
    plain = section.model_dump()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += [f"{pad}# {field.description}", f"{pad}{name}:", *_annotated(value, pad + "  ")]
            continue
        extra = field.json_schema_extra
        allowed = extra.get("allowed") if isinstance(extra, dict) else None
        inline = yaml.safe_dump(plain[name], default_flow_style=True, allow_unicode=True, width=1000)
        lines.append(f"{pad}# {field.description} ({allowed})")
        lines.append(f"{pad}{name}: {inline.removesuffix('...' + chr(10)).strip()}")
    return lines
