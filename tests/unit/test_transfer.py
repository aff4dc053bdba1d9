"""Synthesized rows are functions of (seed, row id); shards cover the transfer set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.transfer import Synthesis, _splitmix, shards

RNG = np.random.default_rng(7)
POOL = RNG.normal(size=(50, 4)).astype(np.float32)


def synthesis(kind: str, seed: int = 42) -> Synthesis:
    return Synthesis(kind=kind, factor=3, noise=0.3, swap=0.3, seed=seed)


def test_the_hash_is_splitmix64() -> None:
    # The reference generator's first outputs for seed 1234567.
    gamma, state = 0x9E3779B97F4A7C15, 1234567
    outputs = [int(_splitmix(np.uint64((state + i * gamma) % 2**64))) for i in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("kind", ["noise", "mixup", "swap"])
def test_a_row_is_the_same_bits_in_any_order_and_company(kind: str) -> None:
    ids = np.arange(1000, 1050)
    every = synthesis(kind).rows(ids, POOL, POOL)
    order = RNG.permutation(50)
    assert np.array_equal(synthesis(kind).rows(ids[order], POOL[order], POOL), every[order])
    assert np.array_equal(synthesis(kind).rows(ids[7:8], POOL[7:8], POOL), every[7:8])
    assert not np.array_equal(synthesis(kind, seed=43).rows(ids, POOL, POOL), every)
    assert every.dtype == np.float32


def test_noise_is_normal_with_the_asked_deviation_and_no_correlation() -> None:
    zeros = np.zeros((40_000, 5), np.float32)
    noise = synthesis("noise").rows(np.arange(40_000), zeros) / 0.3
    assert np.abs(noise.mean(0)).max() < 0.02
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(5), atol=0.02)
    np.testing.assert_allclose((np.abs(noise) > 1.96).mean(), 0.05, atol=0.004)


def test_mixup_lies_between_its_parent_and_a_row_of_the_pool_nearer_to_the_parent() -> None:
    ids = np.arange(5000)
    parents = np.tile(POOL, (100, 1))
    mixed = synthesis("mixup").rows(ids, parents, POOL)
    for row, parent in zip(mixed[:200], parents[:200], strict=True):
        away = POOL - parent
        share = ((row - parent) * away).sum(1) / np.maximum((away**2).sum(1), 1e-12)
        gap = np.abs(parent + share[:, None] * away - row).max(1)
        best = gap.argmin()
        assert gap[best] < 1e-5
        assert -1e-5 <= share[best] <= 0.5 + 1e-5 or np.allclose(row, parent)


def test_swap_takes_the_asked_share_of_columns_from_another_row() -> None:
    ids, parents = np.arange(20_000), np.full((20_000, 4), -9.0, np.float32)
    swapped = synthesis("swap").rows(ids, parents, POOL)
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
