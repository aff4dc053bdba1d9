"""Who is in the ensemble, and which rows and columns each member learns from.

All of it is a function of the config, the run's seed and row ids: nothing needs to be kept.
Axes: N rows, D features.
"""

from dataclasses import dataclass

import numpy as np

from kd_ray import knobs
from kd_ray.feeds import Streams
from kd_ray.knobs import Group
from kd_ray.rundir import fingerprint
from kd_ray.transfer import FOLD, hashed

TEACHER_STREAM = 1  # first word of a teacher's seed; a student's role has another
_ROWS, _COLUMNS = range(2)  # what a random number of a member is for, beside its Streams
OWN = {
    *("count", "model", "groups", "weights", "clip"),
    *("resources", "pack_size", "allow_failures", "deadline_seconds", "checkpoint_seconds"),
}
"""Knobs of the teachers that are not shared by all members, or make none another: where, and how they are averaged."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member: its number, which is its seed, and the group it is of."""

    number: int
    group: Group

    @property
    def name(self) -> str:
        return f"teacher {self.number}" + ("" if self.group.kind == "mlp" else f" ({self.group.kind})")

    @property
    def is_network(self) -> bool:
        """Whether it is one of our networks, which are asked in packs."""
        return self.group.kind == "mlp" or (self.group.kind == "saved" and not self.group.paths[0].endswith(".onnx"))

    @property
    def folder(self) -> str:
        return f"teachers/{self.number:04d}"

    @property
    def manifest(self) -> str:
        """Path of the member's own manifest."""
        return f"{self.folder}/teacher.json"

    def streams(self, seed: int) -> Streams:
        return Streams.of(seed, TEACHER_STREAM, self.number)

    def fingerprint(self, teachers: str) -> str:
        """Return what the member is a function of: what all teachers share, its number, and its group."""
        return fingerprint("teacher", teachers, self.number, self.group.model_dump(exclude={"count"}))


def members(teachers: knobs.Teachers) -> list[Member]:
    """Number the members through the groups in order; without groups there are `count` networks of `model`."""
    groups = teachers.groups or [Group(count=teachers.count, model=teachers.model)]
    of_each = [one for group in groups for one in _each(group)]
    return [Member(number=number, group=group) for number, group in enumerate(of_each)]


def _each(group: Group) -> list[Group]:
    if group.kind == "saved":
        return [group.model_copy(update={"count": 1, "paths": [path]}) for path in group.paths]
    if group.kind == "columns":
        return [group.model_copy(update={"count": 1, "columns": [names]}) for names in group.columns]
    return [group.model_copy(update={"count": 1})] * group.count


def fold_of(row_id_N: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return each row's fold, a hash of its id."""
    return (hashed(row_id_N, seed, FOLD)[:, 0] * folds).astype(np.int64)


def saw(member: int, row_id_N: np.ndarray, teachers: knobs.Teachers, seed: int) -> np.ndarray:
    """Return whether the member learns from each training row: with folds, from those outside its own."""
    if teachers.folds < 2:
        return np.ones(len(row_id_N), bool)
    return fold_of(row_id_N, teachers.folds, seed) != member % teachers.folds


def rows_of(member: int, row_id_N: np.ndarray, teachers: knobs.Teachers, seed: int) -> np.ndarray:
    """Return the positions of the training rows a member learns from, with bootstrap drawn with replacement."""
    rows = np.flatnonzero(saw(member, row_id_N, teachers, seed))
    if teachers.bootstrap:
        rng = np.random.default_rng((seed, TEACHER_STREAM, member, _ROWS))
        rows = np.sort(rng.choice(rows, len(rows)))
    return rows


def columns_of(member: int, n_features: int, teachers: knobs.Teachers, seed: int) -> np.ndarray:
    """Return which features a member sees, shape [D]: `teachers.features` of them, at least one."""
    seen_D = np.ones(n_features, bool)
    if teachers.features < 1:
        rng = np.random.default_rng((seed, TEACHER_STREAM, member, _COLUMNS))
        seen_D[rng.permutation(n_features)[max(1, round(teachers.features * n_features)) :]] = False
    return seen_D
