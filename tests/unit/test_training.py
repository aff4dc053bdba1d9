"""The packed loop against separate networks trained step by step by torch, and against itself in other packs."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_ray.errors import DivergedError
from kd_ray.feeds import Feed, Share, Streams
from kd_ray.losses import Loss, cross_entropy
from kd_ray.models import MLP
from kd_ray.optimizers import Rates
from kd_ray.packing import PackedMLP
from kd_ray.training import Recipe, fit

SPEC = MLP.of(n_features=6, hidden=[9, 5], n_classes=3, dropout=[])
DROPPING = MLP.of(n_features=6, hidden=[9, 5], n_classes=3, dropout=[0.3, 0.0])
N_ROWS = 70
RECIPE = Recipe(epochs=3, steps=5, batch_size=16, learning_rate=1e-2, weight_decay=0.0)

_rng = torch.Generator().manual_seed(0)
FEATURES = torch.randn(N_ROWS, 6, generator=_rng)
LABELS = torch.randint(0, 3, (N_ROWS,), generator=_rng)


def objective(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
    return cross_entropy(logits_CKB, LABELS[rows_KB], weight_KB)


def trained(
    seeds: list[int],
    spec: MLP = SPEC,
    recipe: Recipe = RECIPE,
    share: Share | None = None,
    rows: list | None = None,
    features: torch.Tensor = FEATURES,
    rates: Rates | None = None,
    may_diverge: bool = False,
) -> tuple[PackedMLP, np.ndarray]:
    streams = [Streams.of(42, seed) for seed in seeds]
    pack = PackedMLP(spec, len(seeds))
    for k, stream in enumerate(streams):
        pack.load(k, spec.initial_weights(stream.weights))
    losses = fit(
        pack,
        features,
        objective,
        rows=rows or [np.arange(N_ROWS)] * len(seeds),
        streams=streams,
        recipe=recipe,
        names=[f"teacher {seed}" for seed in seeds],
        share=share,
        rates=rates,
        may_diverge=may_diverge,
    )
    return pack, np.stack(list(losses))


def plain(seed: int, recipe: Recipe, spec: MLP = SPEC, features: torch.Tensor = FEATURES) -> dict[str, torch.Tensor]:
    """The tutorial's loop over the same batches."""
    streams = Streams.of(42, seed)
    module = spec.module()
    module.load_state_dict(spec.initial_weights(streams.weights))
    adam = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    total = recipe.epochs * recipe.steps
    feed = Feed(np.arange(N_ROWS), recipe.batch_size, streams.shuffle)
    for step, rows in enumerate(feed.take(total)):
        if recipe.schedule == "cosine":
            adam.param_groups[0]["lr"] = recipe.learning_rate * (1 + np.cos(np.pi * step / total)) / 2
        rows = rows[rows >= 0]
        adam.zero_grad()
        torch.nn.functional.cross_entropy(module(features[rows]), LABELS[rows]).backward()
        adam.step()
    return module.state_dict()


def test_packed_members_with_codes_are_those_of_separate_loops() -> None:
    spec = MLP.of(n_features=3, hidden=[8], n_classes=3, dropout=[], levels=[0, 4, 50], one_hot=4)
    features_ND = torch.cat([FEATURES[:, :1], torch.randint(0, 4, (N_ROWS, 1)), torch.randint(0, 50, (N_ROWS, 1))], 1)
    pack, _ = trained([0, 1], spec=spec, features=features_ND)
    for k, seed in enumerate([0, 1]):
        for name, expected in plain(seed, RECIPE, spec, features_ND).items():
            torch.testing.assert_close(pack.weights(k)[name], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_packed_members_are_those_of_separate_loops(schedule: str, weight_decay: float) -> None:
    recipe = Recipe(epochs=3, steps=5, batch_size=16, learning_rate=1e-2, weight_decay=weight_decay, schedule=schedule)
    pack, _ = trained([0, 1, 2, 7], recipe=recipe)
    for k, seed in enumerate([0, 1, 2, 7]):
        expected = plain(seed, recipe)
        for name, value in pack.weights(k).items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_members_of_different_rates_and_decays_are_those_of_separate_loops(schedule: str) -> None:
    rates = Rates(learning_rate_K=[1e-2, 1e-3, 1e-2, 3e-3], weight_decay_K=[0.0, 1e-2, 1e-1, 0.0])
    pack, _ = trained([0, 1, 0, 7], recipe=replace(RECIPE, schedule=schedule), rates=rates)
    for k, (seed, rate, decay) in enumerate(
        zip([0, 1, 0, 7], rates.learning_rate_K, rates.weight_decay_K, strict=True)
    ):
        expected = plain(seed, replace(RECIPE, schedule=schedule, learning_rate=rate, weight_decay=decay))
        for name, value in pack.weights(k).items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)


def test_members_of_one_rate_are_the_bits_of_the_recipes() -> None:
    recipe = replace(RECIPE, schedule="cosine", weight_decay=1e-2)
    rates = Rates(learning_rate_K=[recipe.learning_rate] * 2, weight_decay_K=[recipe.weight_decay] * 2)
    given, _ = trained([0, 1], DROPPING, recipe=replace(recipe, learning_rate=7.0, weight_decay=7.0), rates=rates)
    assert torch.equal(given.flat_P, trained([0, 1], DROPPING, recipe=recipe)[0].flat_P)


def test_a_member_of_its_own_rate_is_the_same_bits_in_any_pack() -> None:
    rate_K, decay_K = [1e-2, 1e-3, 3e-3], [0.0, 1e-2, 1e-3]
    whole, _ = trained([0, 1, 2], DROPPING, rates=Rates(learning_rate_K=rate_K, weight_decay_K=decay_K))
    pair, _ = trained([2, 1], DROPPING, rates=Rates(learning_rate_K=rate_K[:0:-1], weight_decay_K=decay_K[:0:-1]))
    for at, k in ((0, 2), (1, 1)):
        for name, value in pair.weights(at).items():
            assert torch.equal(value, whole.weights(k)[name])


def test_a_member_that_may_diverge_leaves_the_others_as_they_are() -> None:
    rates = Rates(learning_rate_K=[1e-2, 1e18], weight_decay_K=[0.0, 0.0])
    recipe = replace(RECIPE, epochs=6)
    pack, losses = trained([0, 1], recipe=recipe, rates=rates, may_diverge=True)
    calm, _ = trained([0, 1], recipe=recipe, rates=Rates(learning_rate_K=[1e-2, 1e-3], weight_decay_K=[0.0, 0.0]))
    assert not losses[-1, 1] < 1e4
    for name, value in pack.weights(0).items():
        assert torch.equal(value, calm.weights(0)[name])


@pytest.mark.parametrize("company", [[3], [3, 4], [0, 3, 9], list(range(12))], ids=len)
def test_a_member_is_the_same_bits_in_any_pack(company: list[int]) -> None:
    alone, alone_losses = trained([3], DROPPING)
    pack, losses = trained(company, DROPPING)
    at = company.index(3)
    for name, value in pack.weights(at).items():
        assert torch.equal(value, alone.weights(0)[name])
    assert (losses[:, at] == alone_losses[:, 0]).all()


def test_training_lowers_the_loss() -> None:
    _, losses = trained([0, 1], recipe=Recipe(epochs=40, steps=5, batch_size=16, learning_rate=1e-2, weight_decay=0))
    assert (losses[-1] < 0.75 * losses[0]).all()


@pytest.mark.parametrize(("n_rows", "size"), [(10, 4), (8, 4), (3, 64), (1, 1)])
def test_every_pass_has_every_row_once_and_its_last_batch_is_what_remains(n_rows: int, size: int) -> None:
    rows = np.arange(n_rows) + 100
    feed = Feed(rows, size, np.random.default_rng(0))
    per_pass = -(-n_rows // min(size, n_rows))
    passes = [feed.take(per_pass).reshape(-1) for _ in range(3)]
    for drawn in passes:
        assert sorted(drawn[drawn >= 0]) == sorted(rows)
        assert (drawn[: (drawn >= 0).sum()] >= 0).all()
    if n_rows > 3:
        assert not np.array_equal(passes[0], passes[1])


def test_how_many_batches_are_taken_at_a_time_changes_none() -> None:
    at_once = Feed(np.arange(10), 4, np.random.default_rng(0)).take(14)
    feed = Feed(np.arange(10), 4, np.random.default_rng(0))
    assert np.array_equal(np.concatenate([feed.take(n) for n in (1, 2, 0, 7, 4)]), at_once)


def test_members_may_learn_from_different_rows_in_one_pack() -> None:
    few, many = np.arange(10), np.arange(N_ROWS)
    mixed, _ = trained([0, 1], rows=[few, many])
    for k, rows in enumerate((few, many)):
        alone, _ = trained([k], rows=[rows])
        for name, value in mixed.weights(k).items():
            torch.testing.assert_close(value, alone.weights(0)[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n_rows", [70, 65, 17, 3])
def test_two_ranks_take_the_steps_of_one(n_rows: int) -> None:
    recipe = Recipe(epochs=2, steps=-(-n_rows // min(16, n_rows)), batch_size=16, learning_rate=1e-2, weight_decay=0)
    rows = [np.arange(n_rows)]
    meeting, board = threading.Barrier(2, timeout=20), [torch.empty(0), torch.empty(0)]
    found: dict[int, tuple[PackedMLP, np.ndarray]] = {}

    def summed(rank: int):
        def sum_(tensor: torch.Tensor) -> None:
            board[rank] = tensor.clone()
            meeting.wait()
            total = board[0] + board[1]
            meeting.wait()
            tensor.copy_(total)

        return sum_

    def work(rank: int) -> None:
        share = Share(rank=rank, world=2, sum_=summed(rank))
        found[rank] = trained([0], recipe=recipe, share=share, rows=rows)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    alone, losses = trained([0], recipe=recipe, rows=rows)
    for rank in range(2):
        torch.testing.assert_close(found[rank][0].flat_P, alone.flat_P, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found[rank][1], losses, rtol=1e-5)


def test_a_member_that_diverges_is_named_with_its_epoch() -> None:
    recipe = Recipe(epochs=3, steps=5, batch_size=16, learning_rate=1e6, weight_decay=0)
    with pytest.raises(DivergedError, match=r"teacher 5: diverged in epoch 1: .*lower the learning rate"):
        trained([5, 6], recipe=recipe)


def test_a_loss_that_is_not_a_number_is_a_divergence() -> None:
    broken = FEATURES.clone()
    broken[3, 0] = float("inf")
    pack = PackedMLP(SPEC, 1)
    pack.load(0, SPEC.initial_weights(Streams.of(1).weights))
    rows = [np.arange(N_ROWS)]
    with pytest.raises(DivergedError, match="teacher 0: diverged in epoch 1"):
        list(fit(pack, broken, objective, rows=rows, streams=[Streams.of(1)], recipe=RECIPE, names=["teacher 0"]))
