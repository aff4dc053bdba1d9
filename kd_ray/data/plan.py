"""All that is decided about a table before a row is written: its columns, its labels, who is held out.

Everything that is wrong is found first and said at once.
"""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kd_ray import schema
from kd_ray.config import Config
from kd_ray.data import passes, splits, task
from kd_ray.data.passes import Driver
from kd_ray.data.pieces import Piece, Source, is_number, n_rows
from kd_ray.data.roles import Roles, judge, roles_of
from kd_ray.data.sources import open_source, open_unlabelled
from kd_ray.data.splits import SPLITS, TEST, TRAIN
from kd_ray.data.survey import Interest, Survey
from kd_ray.data.task import Labels
from kd_ray.errors import DataError
from kd_ray.mistakes import Mistakes, short
from kd_ray.schema import Column


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`dropped` says why of each column that is left out; N rows of the source."""

    source: Source
    unlabelled: Source | None
    roles: Roles
    columns: list[Column]
    dropped: dict[str, str]
    labels: Labels
    weight_N: np.ndarray | None
    split_N: np.ndarray

    @property
    def rows(self) -> dict[str, int]:
        counts = np.bincount(self.split_N, minlength=len(SPLITS)).tolist()
        unlabelled = {"unlabelled": n_rows(self.unlabelled)} if self.unlabelled else {}
        return dict(zip(SPLITS, counts, strict=True)) | unlabelled


@dataclass(frozen=True)
class SurveyJob:
    source: Source
    unit: list[Piece]
    interest: Interest

    def __call__(self) -> Survey:
        columns = self.interest.columns
        looks = (Survey.of(table, at, self.interest) for at, table in passes.rows_of(self.source, self.unit, columns))
        return reduce(Survey.merge, looks)


def survey(source: Source, interest: Interest, driver: Driver) -> Survey:
    """Look at all rows once. Raises DataError where they cannot be read."""
    return reduce(Survey.merge, driver(SurveyJob(source, unit, interest) for unit in passes.units(source.pieces)))


def make(config: Config, aside: Path, driver: Driver) -> Plan:
    """Look at the whole source and decide. Raises one DataError with a line for each mistake there is.

    `aside` is an empty folder for rows that cannot be read twice; it must stay as long as the plan.
    """
    mistakes = Mistakes()
    with mistakes.gathering():
        source = open_source(config.data, mistakes, aside)
        roles = roles_of(config.data.columns, source.schema.names, config.teachers.words, mistakes)
        if roles.all and n_rows(source):
            return _Maker(config, driver, mistakes, source, roles).plan()
    mistakes.check()
    raise DataError(f"data.source: must hold rows; there are none in {config.data.source!r}")


class _Maker:
    def __init__(self, config: Config, driver: Driver, mistakes: Mistakes, source: Source, roles: Roles) -> None:
        self.config, self.data, self.driver, self.mistakes = config, config.data, driver, mistakes
        self.source, self.roles = source, roles
        groups = [group for group in config.teachers.groups if group.kind == "columns"]
        members = [(group.values, names) for group in groups for names in group.columns]
        self.members = [names for _, names in members if set(roles.beside).issuperset(names)]
        self.sums = [names for values, names in members if values == "probabilities" and self._are_numbers(names)]

    def plan(self) -> Plan:
        unlabelled = None
        with self.mistakes.gathering():
            unlabelled = open_unlabelled(self.data, self.source.schema, self.mistakes)
        self.found = survey(self.source, self.roles.interest(self.source.schema, self.sums), self.driver)
        columns, dropped = self._judged()
        labels, weight_N = self._labels(), self._weights()
        self._check_words(labels)
        split_N = self._splits(labels)
        if unlabelled is not None:
            self._check_unlabelled(unlabelled, columns)
        self.mistakes.check()
        assert labels is not None
        assert split_N is not None
        return Plan(
            source=self.source,
            unlabelled=unlabelled,
            roles=self.roles,
            columns=columns,
            dropped=dropped,
            labels=labels,
            weight_N=weight_N,
            split_N=split_N,
        )

    def _judged(self) -> tuple[list[Column], dict[str, str]]:
        columns: list[Column] = []
        dropped: dict[str, str] = {}
        for name in self.roles.features:
            kind, wanted = self.source.schema.field(name).type, self.data.columns.kinds.get(name)
            column, why = judge(name, kind, self.found.facts[name], wanted, self.source.where, self.mistakes)
            if column is None:
                dropped[name] = why
            else:
                columns.append(column)
        if not columns:
            self.mistakes.add(
                f"{self.data.source}: must have columns to learn from; all are left out: {dropped or 'none'}"
            )
        return columns, dropped

    def _is_whole(self, name: str, part: str) -> bool:
        """Whether a column has a finite value in every row; if not, that is a mistake."""
        facts, whole = self.found.facts[name], True
        if facts.missing:
            whole = False
            self.mistakes.add(
                f"{self.source.where(facts.first_missing)}: column {name!r}: {part} must be there in every row; "
                f"{facts.missing:,} are missing: "
                + ("move these rows to data.unlabelled" if part == "the target" else "fill them in")
            )
        if facts.infinite:
            whole = False
            self.mistakes.add(
                f"{self.source.where(facts.first_infinite)}: column {name!r}: {part} must be finite; "
                f"{facts.infinite:,} are infinite"
            )
        return whole

    def _labels(self) -> Labels | None:
        name = self.roles.target
        if not name or not self._is_whole(name, "the target"):
            return None
        labels = task.labels_of(name, self.found.column(name), self.data.task, self.mistakes)
        if labels is not None and labels.classes is None and self.config.student.class_weights != "none":
            self.mistakes.add(
                f"student.class_weights: must be none for a regression; {name!r} is taken for numbers to predict: "
                "say data.task: classification if it has classes"
            )
        return labels

    def _weights(self) -> np.ndarray | None:
        name = self.roles.weight
        if name is None or not self._is_whole(name, "data.columns.weight"):
            return None
        return task.weights_of(name, self.found.column(name), self.source.where, self.mistakes)

    def _groups(self) -> np.ndarray | None:
        name = self.roles.group
        if name is None or not self._is_whole(name, "data.columns.group"):
            return None
        coded = self.found.column(name).combine_chunks()
        return (coded if pa.types.is_dictionary(coded.type) else pc.dictionary_encode(coded)).indices.to_numpy()

    def _splits(self, labels: Labels | None) -> np.ndarray | None:
        group_N, name = self._groups(), self.roles.split
        split_N = None
        if name is not None:
            if self._is_whole(name, "data.columns.split"):
                split_N = task.said_splits(name, self.found.column(name), self.source.where, self.mistakes)
            if split_N is not None:
                self._check_overlap(split_N, group_N)
        elif labels is not None and min(labels.counts.values(), default=2) > 1:
            stratify = self.data.split.stratify and labels.classes is not None
            with self.mistakes.gathering():
                by = labels.values_N if stratify else None
                split_N = splits.drawn(len(labels.values_N), self.data.split, by, group_N)
        if split_N is not None and labels is not None and labels.classes is not None:
            self.mistakes.add(*unseen(labels, split_N))
        return split_N

    def _check_overlap(self, split_N: np.ndarray, group_N: np.ndarray | None) -> None:
        count, rows, test, train = splits.overlap(split_N, np.concatenate(self.found.twins))
        if count:
            self.mistakes.add(
                f"column {self.roles.split!r}: the splits that it says must not overlap; {count:,} of {rows:,} test "
                f"rows are training rows too, such as {self.source.where(test)} and {self.source.where(train)}"
            )
        if group_N is None:
            return
        both = np.intersect1d(group_N[split_N == TRAIN], group_N[split_N != TRAIN])
        if len(both):
            at = int(np.flatnonzero(group_N == both[0])[0])
            self.mistakes.add(
                f"column {self.roles.split!r}: rows of one group must stay in one split; {len(both):,} groups of "
                f"{self.roles.group!r} do not, such as that of {self.source.where(at)}"
            )

    def _are_numbers(self, names: list[str]) -> bool:
        return names in self.members and all(is_number(self.source.schema.field(name).type) for name in names)

    def _check_words(self, labels: Labels | None) -> None:
        """Refuse columns of members' words that are no such thing."""
        wanted = len(labels.classes or [""]) if labels else 0
        for names in self.members:
            if wanted and len(names) != wanted:
                self.mistakes.add(
                    f"teachers.groups: a member must have a column for each of the {wanted} classes (one for a "
                    f"regression); [{', '.join(names)}] has {len(names)}"
                )
            elif not self._are_numbers(names):
                self.mistakes.add(f"columns {', '.join(names)}: must be numbers for teachers.groups; one is not")
            else:
                holes = [name for name in names if not self._is_whole(name, "a member's word")]
                if not holes and names in self.sums and labels is not None and labels.classes is not None:
                    self._check_probabilities(names)

    def _check_probabilities(self, names: list[str]) -> None:
        count, at = self.found.unsound[self.sums.index(names)]
        if count:
            self.mistakes.add(
                f"{self.source.where(at)}: columns {', '.join(names)}: teachers.groups says that they are "
                f"probabilities, which lie in [0, 1] and add up to 1; in {count:,} rows they do not: mend them, "
                "or say values: logits"
            )

    def _check_unlabelled(self, source: Source, columns: list[Column]) -> None:
        names = [column.name for column in columns]
        with self.mistakes.gathering():
            schema.check({"columns": schema.to_json(columns)}, source.schema, "data.unlabelled")
            lacks = [name for name in self.roles.beside if name not in source.schema.names]
            if lacks:
                raise DataError(
                    f"data.unlabelled: must have the columns kept beside the rows; it lacks {', '.join(lacks)}"
                )
            found = survey(source, Interest(columns=[*names, *self.roles.beside]), self.driver)
            for name in names:
                facts = found.facts[name]
                if facts.infinite or facts.long:
                    judge(name, source.schema.field(name).type, facts, None, source.where, self.mistakes)


def unseen(labels: Labels, split_N: np.ndarray) -> list[str]:
    """Return a line for classes that a split lacks though it must have them: training and test rows need all."""
    assert labels.classes is not None
    lines = []
    for split, what in ((TRAIN, "training"), (TEST, "test")):
        count_C = np.bincount(labels.values_N[split_N == split], minlength=len(labels.classes))
        without = [short(labels.classes[c]) for c in np.flatnonzero(count_C == 0)]
        if without:
            lines.append(
                f"the {SPLITS[split]} split must have rows of every class; {', '.join(without[:5])} of "
                f"{len(labels.classes):,} classes has no {what} row: say data.split.stratify: true, use more rows, a "
                "larger split or another data.split.seed"
            )
    return lines
