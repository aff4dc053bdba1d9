"""What each column of the table is for, as `data.columns` says, and what speaks against a column."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from kd_ray.data.survey import Facts, Interest
from kd_ray.data.texts import MAX_CELL
from kd_ray.knobs import Columns
from kd_ray.mistakes import Mistakes, near
from kd_ray.schema import Column, Kind, can_be, kind_of

OURS = {"row_id", "parent_row_id", "features", "origin", "logits", "member_log_probs"}
ALSO_OURS = {"label", "weight"}  # beside the rows; a table may well call its target so
_ID_NAME = re.compile(r"(?i)(.*[_\s.-])?(id|uuid|guid|index)|.*Id|.*ID|unnamed: 0")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Column names: `beside` are kept with the rows and not learned from, `features` are all that are left."""

    target: str
    weight: str | None
    split: str | None
    group: str | None
    beside: list[str]
    features: list[str]

    @property
    def named(self) -> list[str]:
        return [name for name in (self.target, self.weight, self.split, self.group) if name]

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys([*self.features, *self.named, *self.beside]))

    def interest(self, schema: pa.Schema, sums: list[list[str]]) -> Interest:
        """What a survey of the labelled rows is to look at."""
        may_be_ids = [
            name
            for name in self.features
            if pa.types.is_string(schema.field(name).type) or _is_named_id(name, schema.field(name).type)
        ]
        return Interest(
            columns=self.all,
            ids=may_be_ids,
            held=self.named,
            twins=[*self.features, self.target] if self.split else [],
            sums=sums,
        )


def roles_of(columns: Columns, names: list[str], words: list[str], mistakes: Mistakes) -> Roles:
    """Return each column's part; `words` are columns that members' words are read from, kept beside the rows."""

    def known(key: str, name: str) -> bool:
        if name in names:
            return True
        mistakes.add(f"data.columns.{key}: must name columns of the table; there is no {name!r}{near(name, names)}")
        return False

    target = columns.target or ("target" if "target" in names else "")
    if not target:
        mistakes.add(f"data.columns.target: must name the column to predict; the table has {_listing(names)}")
    single = {"target": target or None, "weight": columns.weight, "split": columns.split, "group": columns.group}
    found = {key: name if name and known(key, name) else None for key, name in single.items()}
    beside = [name for name in columns.ids if known("ids", name)]
    for name in words:
        if name not in names:
            mistakes.add(f"teachers.groups: columns must be of the table; there is no {name!r}{near(name, names)}")
    taken = [*(name for name in found.values() if name), *beside]
    for name in sorted({name for name in taken if taken.count(name) > 1}):
        mistakes.add(f"data.columns: a column must have one part; {name!r} has several of target, weight, split, ...")
    beside += [name for name in dict.fromkeys(words) if name in names and name not in beside]
    include = [name for name in columns.include if known("include", name)]
    exclude = {name for name in columns.exclude if known("exclude", name)}
    for name in include:
        if name in exclude or name in taken:
            mistakes.add(f"data.columns.include: must be columns without another part; {name!r} has one")
    for name in columns.kinds:
        known("kinds", name)
    features = [n for n in include or names if n not in {*taken, *beside, *exclude}]
    _check_names(features, beside, mistakes)
    return Roles(
        target=found["target"] or "",
        weight=found["weight"],
        split=found["split"],
        group=found["group"],
        beside=beside,
        features=features,
    )


def _check_names(features: list[str], beside: list[str], mistakes: Mistakes) -> None:
    for name in [*features, *beside]:
        if name in OURS or (name in ALSO_OURS and name in beside):
            mistakes.add(
                f"column {name!r}: must not be called as a column of kd_ray's own files is; rename it or leave it out "
                "by data.columns.exclude"
            )


def _listing(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _is_named_id(name: str, kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) and _ID_NAME.fullmatch(name))


def judge(
    name: str,
    kind: pa.DataType,
    facts: Facts,
    wanted: Kind | None,
    where: Callable[[int], str],
    mistakes: Mistakes,
) -> tuple[Column | None, str]:
    """Return the column to learn from, or None and why it is left out. What must be mended becomes a mistake.

    `wanted` is what data.columns.kinds says of it: such a column is not left out for looking like an id.
    """
    natural = wanted or kind_of(kind)
    if not facts.present:
        mistakes.add(f"column {name!r}: must have values; every one is missing: leave it out by data.columns.exclude")
    elif natural is None:
        mistakes.add(
            f"column {name!r}: must hold numbers, texts, booleans or dates; it holds {kind}: leave it out by "
            "data.columns.exclude"
        )
    elif not can_be(natural, kind):
        mistakes.add(f"column {name!r}: must be {natural}, as data.columns.kinds says; it holds {kind}")
    if facts.infinite:
        mistakes.add(
            f"{where(facts.first_infinite)}: column {name!r} must hold finite numbers; {facts.infinite:,} are "
            "infinite: make them missing, or leave the column out"
        )
    if facts.long:
        mistakes.add(
            f"{where(facts.first_long)}: a cell must have at most {MAX_CELL:,} bytes; column {name!r} has "
            f"{facts.long:,} longer ones: shorten them"
        )
    if facts.beyond_calendar:
        mistakes.add(f"column {name!r}: must hold dates of the years 1 to 9999; it has others: mend them")
    elif facts.present and not facts.varies and not facts.missing:
        return None, f"constant: every value is {str(facts.first)[:40]!r}"
    if wanted is None and facts.never_repeats:
        return None, "looks like an id: no value comes twice"
    note = f"{facts.missing:,} missing" if facts.missing else ""
    return Column(name=name, kind=natural or "numeric", note=note), ""
