"""Which rows are held out: drawn by scikit-learn, or said by a column of the table."""

import math

import numpy as np

from kd_ray.errors import DataError
from kd_ray.knobs import Split

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
MANY = 2_000_000
"""Rows beyond which scikit-learn's 23 bytes a row are too many."""


def draw(
    n_rows: int, config: Split, label_N: np.ndarray | None = None, group_N: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Cut off the test rows, then the validation rows from what is left; returns ids, ascending within a split.

    `label_N` keeps the classes' shares alike in every split. Rows of one group of `group_N` stay together: then a
    share is one of the groups. Raises DataError where nothing would be left to train on.
    """

    def cut(ids: np.ndarray, size: float, key: str) -> tuple[np.ndarray, np.ndarray]:
        held = _held(len(ids), size, key)
        if not held:
            return ids, ids[:0]
        label = None if label_N is None else label_N[ids]
        if group_N is not None:
            kept, cut_off = _cut_groups(ids, held, config.seed, label, group_N[ids], key)
        else:
            kept, cut_off = _cut_rows(ids, held, config.seed, label, key)
        kept.sort()
        cut_off.sort()
        return kept, cut_off

    rest, test = cut(np.arange(n_rows, dtype=np.int32 if n_rows < 2**31 else np.int64), config.test, "test")
    train, valid = cut(rest, config.valid, "valid")
    return {"train": train, "valid": valid, "test": test}


def _held(n_rows: int, size: float, key: str) -> int:
    """Return how many rows a size takes: a share, or a number of rows. Raises DataError where none are left."""
    held = int(size) if size >= 1 else math.ceil(size * n_rows)
    if held and held >= n_rows:
        raise DataError(f"data.split.{key}: must leave rows to train on; it takes {held} of {n_rows} rows")
    return held


def _cut_rows(
    ids: np.ndarray, held: int, seed: int, label: np.ndarray | None, key: str
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    try:
        kept, cut_off = train_test_split(ids, test_size=held, random_state=seed, stratify=label)
    except ValueError as error:
        raise DataError(f"data.split.{key}: cannot be stratified: {error}") from None
    return kept, cut_off


def _cut_groups(
    ids: np.ndarray, held: int, seed: int, label: np.ndarray | None, group: np.ndarray, key: str
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    share, n_groups = held / len(ids), len(np.unique(group))
    if math.ceil(share * n_groups) >= n_groups:
        raise DataError(
            f"data.split.{key}: must leave groups to train on; a share of {share:.2g} takes all {n_groups} groups"
        )
    if label is None:
        ways = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed).split(ids, groups=group)
    else:
        folds = max(2, round(1 / share))
        ways = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed).split(ids, label, group)
    try:
        kept, cut_off = next(iter(ways))
    except ValueError as error:
        raise DataError(f"data.split.{key}: cannot be drawn by groups: {error}") from None
    return ids[kept], ids[cut_off]


def drawn(n_rows: int, config: Split, label_N: np.ndarray | None, group_N: np.ndarray | None) -> np.ndarray:
    """Return each row's split as its place in SPLITS, int8: as `draw` draws it, or in little memory for many rows."""
    if n_rows > MANY and group_N is None:
        return _drawn_of_many(n_rows, config, label_N)
    split_N = np.empty(n_rows, np.int8)
    for name, ids in draw(n_rows, config, label_N, group_N).items():
        split_N[ids] = SPLITS.index(name)
    return split_N


def _drawn_of_many(n_rows: int, config: Split, label_N: np.ndarray | None) -> np.ndarray:
    """Shuffle each class's rows and cut it; the classes' parts of a split differ from their shares by less than 1."""
    test = _held(n_rows, config.test, "test")
    valid = _held(n_rows - test, config.valid, "valid")
    count_C = np.array([n_rows]) if label_N is None else np.bincount(label_N)
    test_C = _shared(test, count_C)
    valid_C = _shared(valid, count_C - test_C)
    split_N, kind = np.full(n_rows, TRAIN, np.int8), np.int32 if n_rows < 2**31 else np.int64
    rng = np.random.default_rng(config.seed)
    for c, (in_test, in_valid) in enumerate(zip(test_C, valid_C, strict=True)):
        own = np.arange(n_rows, dtype=kind) if label_N is None else np.flatnonzero(label_N == c)
        rng.shuffle(own)
        split_N[own[:in_test]] = TEST
        split_N[own[in_test : in_test + in_valid]] = VALID
    return split_N


def _shared(held: int, count_C: np.ndarray) -> np.ndarray:
    """Share out `held` rows by the classes' counts; the largest remainders get what is left."""
    exact_C = held * count_C / count_C.sum()
    share_C = np.floor(exact_C).astype(np.int64)
    share_C[np.argsort(share_C - exact_C, kind="stable")[: held - share_C.sum()]] += 1
    return share_C


def overlap(split_N: np.ndarray, value_N: np.ndarray) -> tuple[int, int, int, int]:
    """Rows of the test split whose value is in the training split too, where that is no chance of the table.

    In a table of few different rows, training rows have twins among themselves as often as test rows have among
    them. Returns (such rows, test rows, a test row, its training twin); no rows where they are as many as chance
    gives, that is at most n * p + 4 * sqrt(n * p) for a share p of training rows that have twins.
    """
    train, test = np.flatnonzero(split_N == TRAIN), np.flatnonzero(split_N == TEST)
    different, place, count = np.unique(value_N[train], return_index=True, return_counts=True)
    expected = len(test) * (count[count > 1].sum() / max(1, len(train)))
    if not len(train) or not len(test):
        return 0, len(test), -1, -1
    at = np.minimum(np.searchsorted(different, value_N[test]), len(different) - 1)
    found = np.flatnonzero(different[at] == value_N[test])
    if len(found) <= expected + 4 * math.sqrt(expected):
        return 0, len(test), -1, -1
    return len(found), len(test), int(test[found[0]]), int(train[place[at[found[0]]]])
