"""Synthesized rows are functions of (seed, row id); shards cover the transfer set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.tables import Rows
from kd_ray.transfer import Pool, Synthesis, _splitmix, shards

RNG = np.random.default_rng(7)
POOL = RNG.normal(size=(50, 4)).astype(np.float32)
MIXED = np.hstack([POOL[:, :2], RNG.integers(0, 2, (50, 1)), RNG.integers(0, 9, (50, 2))]).astype(np.float32)
EVERY = ["noise", "mixup", "swap", "munge", "mix"]


def synthesis(kind: str, seed: int = 42) -> Synthesis:
    mix = {"noise": 1.0, "mixup": 2.0, "swap": 0.0, "munge": 1.0}
    return Synthesis(kind=kind, factor=3, noise=0.3, swap=0.3, seed=seed, mix=mix)


def rows_of(features_ND: np.ndarray, first_id: int = 0) -> Rows:
    count = len(features_ND)
    return Rows(
        row_id_N=np.arange(first_id, first_id + count),
        features_ND=features_ND,
        label_N=np.zeros(count, np.int64),
        weight_N=np.ones(count, np.float32),
    )


def pool_of(features_ND: np.ndarray) -> Pool:
    """Numbers alone, or as MIXED: two numbers, an indicator, two codes."""
    if features_ND is not MIXED:
        return Pool.of(rows_of(features_ND), ["x"] * features_ND.shape[1], [0] * features_ND.shape[1])
    return Pool.of(rows_of(features_ND), ["a", "b", "a=missing", "c", "d"], [0, 0, 0, 9, 9])


def made(kind: str, ids: np.ndarray, parents_ND: np.ndarray, pool_ND: np.ndarray, seed: int = 42) -> np.ndarray:
    """Synthesize rows of parents that stand in the pool, again and again."""
    parents = rows_of(parents_ND)
    parents.row_id_N[:] = (ids - ids.min()) % len(pool_ND)
    return synthesis(kind, seed).rows(ids, parents, pool_of(pool_ND))


def test_the_hash_is_splitmix64() -> None:
    # The reference generator's first outputs for seed 1234567.
    gamma, state = 0x9E3779B97F4A7C15, 1234567
    outputs = [int(_splitmix(np.uint64((state + i * gamma) % 2**64))) for i in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("table", [POOL, MIXED], ids=["numbers", "mixed"])
@pytest.mark.parametrize("kind", EVERY)
def test_a_row_is_the_same_bits_in_any_order_and_company(kind: str, table: np.ndarray) -> None:
    ids = np.arange(1000, 1050)
    every = made(kind, ids, table, table)
    order = RNG.permutation(50)
    parents = rows_of(table)
    in_order = synthesis(kind).rows(ids[order], parents.at(order), pool_of(table))
    assert np.array_equal(in_order, every[order])
    assert np.array_equal(synthesis(kind).rows(ids[7:8], parents.at(slice(7, 8)), pool_of(table)), every[7:8])
    assert not np.array_equal(made(kind, ids, table, table, seed=43), every)
    assert every.dtype == np.float32


@pytest.mark.parametrize("kind", EVERY)
def test_codes_and_indicators_stay_what_they_are(kind: str) -> None:
    ids, parents = np.arange(5000), np.tile(MIXED, (100, 1))
    rows = made(kind, ids, parents, MIXED)
    for d in (2, 3, 4):
        assert set(rows[:, d]) <= set(MIXED[:, d])
    assert not np.array_equal(rows[:, 3], parents[:, 3])


def test_noise_resamples_a_code_from_its_column_with_the_asked_chance() -> None:
    parents = np.tile(np.array([[0, 0, 0, 99, 99]], np.float32), (50_000, 1))
    rows = made("noise", np.arange(50_000), parents, MIXED)
    drawn = rows[rows[:, 3] != 99, 3]
    assert len(drawn) / 50_000 == pytest.approx(0.3, abs=0.01)
    share = np.bincount(MIXED[:, 3].astype(int), minlength=9) / 50
    np.testing.assert_allclose(np.bincount(drawn.astype(int), minlength=9) / len(drawn), share, atol=0.015)


def test_munge_takes_columns_of_the_nearest_other_row_and_spreads_numbers_by_their_distance() -> None:
    pool_ND = np.array([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1], [50, 50, 1, 2, 2]], np.float32)
    ids = np.arange(3, 30_003)
    parents = rows_of(np.tile(pool_ND[:1], (30_000, 1)))
    parents.row_id_N[:] = 0
    pool = Pool.of(rows_of(pool_ND), ["a", "b", "a=missing", "c", "d"], [0, 0, 0, 9, 9])
    rows = synthesis("munge").rows(ids, parents, pool)
    moved = rows[rows[:, 0] != 0, 0]
    assert len(moved) / 30_000 == pytest.approx(0.3, abs=0.01)
    assert (moved.mean(), moved.std()) == pytest.approx((1, 1), abs=0.03)
    assert (rows[:, 1:] == pool_ND[0, 1:]).all()


def test_a_mix_has_its_kinds_in_the_asked_shares_and_makes_each_as_alone() -> None:
    ids, parents = np.arange(20_000), np.tile(MIXED, (400, 1))
    kinds = synthesis("mix").kinds(ids)
    names, counts = np.unique(kinds, return_counts=True)
    assert list(names) == ["mixup", "munge", "noise"]
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.25, 0.25], atol=0.015)
    rows = made("mix", ids, parents, MIXED)
    for kind in names:
        alone = made(kind, ids, parents, MIXED)
        assert np.array_equal(rows[kinds == kind], alone[kinds == kind])


def test_noise_is_normal_with_the_asked_deviation_and_no_correlation() -> None:
    zeros = np.zeros((40_000, 5), np.float32)
    noise = made("noise", np.arange(40_000), zeros, zeros[:9]) / 0.3
    assert np.abs(noise.mean(0)).max() < 0.02
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(5), atol=0.02)
    np.testing.assert_allclose((np.abs(noise) > 1.96).mean(), 0.05, atol=0.004)


def test_mixup_lies_between_its_parent_and_a_row_of_the_pool_nearer_to_the_parent() -> None:
    ids = np.arange(5000)
    parents = np.tile(POOL, (100, 1))
    mixed = made("mixup", ids, parents, POOL)
    for row, parent in zip(mixed[:200], parents[:200], strict=True):
        away = POOL - parent
        share = ((row - parent) * away).sum(1) / np.maximum((away**2).sum(1), 1e-12)
        gap = np.abs(parent + share[:, None] * away - row).max(1)
        best = gap.argmin()
        assert gap[best] < 1e-5
        assert -1e-5 <= share[best] <= 0.5 + 1e-5 or np.allclose(row, parent)


def test_swap_takes_the_asked_share_of_columns_from_another_row() -> None:
    ids, parents = np.arange(20_000), np.full((20_000, 4), -9.0, np.float32)
    swapped = made("swap", ids, parents, POOL)
    assert (swapped != -9.0).mean() == pytest.approx(0.3, abs=0.01)
    taken = swapped[swapped[:, 0] != -9.0, 0]
    assert set(taken) <= set(POOL[:, 0])


@given(parents=st.integers(1, 40), copies=st.integers(1, 6), size=st.integers(1, 90))
def test_shards_hold_every_copy_of_every_parent_once(parents: int, copies: int, size: int) -> None:
    seen = [
        (copy, position)
        for shard in shards(parents * copies, size)
        for copy, first, past in shard.spans(parents)
        for position in range(first, past)
    ]
    assert seen == [(copy, position) for copy in range(copies) for position in range(parents)]
    assert all(shard.stop - shard.start <= size for shard in shards(parents * copies, size))
