"""A training that was killed and taken up ends in the bits of one that was not."""

import itertools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_ray.checkpoints import Checkpoint, epochs_kept
from kd_ray.feeds import Share, Streams
from kd_ray.losses import Loss, cross_entropy
from kd_ray.models import MLP
from kd_ray.optimizers import Rates
from kd_ray.packing import PackedMLP
from kd_ray.rundir import RunDir
from kd_ray.training import Recipe, fit

N_ROWS, FOLDER = 70, "checkpoints/trial"
FEATURES = torch.randn(N_ROWS, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N_ROWS) % 3


SPEC = MLP.of(n_features=6, hidden=[9, 5], n_classes=3, dropout=[0.3, 0.0])
RECIPE = Recipe(epochs=5, steps=7, batch_size=16, learning_rate=1e-2, weight_decay=1e-3)


@dataclass(frozen=True)
class Case:
    """What is trained; `steps` is not a divisor of a pass, so that batches are left over between epochs."""

    spec: MLP = SPEC
    recipe: Recipe = RECIPE
    rates: bool = False
    rows: tuple[int, ...] = (N_ROWS, N_ROWS, N_ROWS, N_ROWS)

    def train(
        self, run: RunDir, members: list[int], *, epochs: int | None = None, seconds: float = 0.0, **how: Any
    ) -> tuple[dict[int, dict[str, torch.Tensor]], Checkpoint]:
        """Train members, or only `epochs` turns of it, as a process does that is killed then."""
        streams = [Streams.of(42, member, rank=how.get("share", Share()).rank) for member in members]
        pack = PackedMLP(self.spec, len(members))
        for k, stream in enumerate(streams):
            pack.load(k, self.spec.initial_weights(stream.weights))
        rates = Rates(learning_rate_K=[1e-2 / (m + 1) for m in members], weight_decay_K=[1e-3] * len(members))
        keys = [f"member {member}" for member in members]
        kept = Checkpoint(run, FOLDER, keys, seconds, writes=how.pop("writes", True))
        turns = fit(
            pack,
            FEATURES,
            lambda logits_CKB, rows_KB, weight_KB: _loss(logits_CKB, rows_KB, weight_KB),
            rows=[np.arange(self.rows[member]) for member in members],
            streams=streams,
            recipe=self.recipe,
            names=keys,
            rates=rates if self.rates else None,
            checkpoint=kept,
            **how,
        )
        for loss_K in itertools.islice(turns, epochs):
            kept.history.append(loss_K[None])
        return {member: pack.weights(k) for k, member in enumerate(members)}, kept


def _loss(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
    return cross_entropy(logits_CKB, LABELS[rows_KB], weight_KB)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path), "trial")


CASES = {
    "dropout": Case(),
    "a pass of one batch": Case(recipe=Recipe(epochs=4, steps=3, batch_size=N_ROWS, learning_rate=0.1, weight_decay=0)),
    "cosine": Case(
        recipe=Recipe(epochs=4, steps=5, batch_size=16, learning_rate=0.1, weight_decay=0, schedule="cosine")
    ),
    "rates": Case(rates=True),
    "rows of their own": Case(rows=(70, 41, 16, 55)),
    "codes": Case(
        spec=MLP.of(n_features=6, hidden=[8], n_classes=3, dropout=[0.5], levels=[0, 0, 0, 4, 50, 9], one_hot=4)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("killed_after", [2, 4])
def test_a_training_taken_up_ends_in_the_same_bits(
    case: Case, killed_after: int, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case is CASES["codes"]:
        monkeypatch.setattr(f"{__name__}.FEATURES", FEATURES.abs().round().clamp_max(3))
    undisturbed, whole = case.train(RunDir.at(str(tmp_path), "other"), [0, 1, 2], seconds=1e9)
    case.train(run, [0, 1, 2], epochs=killed_after)
    resumed, kept = case.train(run, [0, 1, 2])
    assert all(same(resumed[member], undisturbed[member]) for member in (0, 1, 2))
    np.testing.assert_array_equal(np.stack(kept.history), np.stack(whole.history))
    assert kept.trained_seconds > kept.spent > 0


def test_only_what_is_left_is_trained(run: RunDir) -> None:
    CASES["dropout"].train(run, [0, 1], epochs=4)
    assert epochs_kept(run, FOLDER) == {"member 0": 3, "member 1": 3}  # kept when the next epoch was asked for
    _, kept = CASES["dropout"].train(run, [0, 1], epochs=1)
    assert len(kept.history) == 4


def test_members_go_on_in_another_pack(run: RunDir, tmp_path: Path) -> None:
    case = CASES["dropout"]
    undisturbed, _ = case.train(RunDir.at(str(tmp_path), "other"), [0, 1, 2, 3], seconds=1e9)
    case.train(run, [0, 1], epochs=3)
    case.train(run, [2, 3], epochs=3)
    resumed, kept = case.train(run, [3, 0], epochs=1)
    assert len(kept.history) == 3
    resumed, _ = case.train(run, [3, 0])
    assert same(resumed[3], undisturbed[3])
    assert same(resumed[0], undisturbed[0])


def test_members_kept_after_other_epochs_begin_anew_together(run: RunDir, tmp_path: Path) -> None:
    case = CASES["dropout"]
    undisturbed, _ = case.train(RunDir.at(str(tmp_path), "other"), [0, 1], seconds=1e9)
    case.train(run, [0], epochs=3)
    case.train(run, [1], epochs=4)
    resumed, kept = case.train(run, [0, 1])
    assert len(kept.history) == case.recipe.epochs
    assert kept.spent == 0
    assert same(resumed[0], undisturbed[0])


@pytest.mark.parametrize("damage", ["flipped", "cut off", "garbage"])
def test_a_damaged_checkpoint_is_not_believed(damage: str, run: RunDir, tmp_path: Path) -> None:
    case = CASES["dropout"]
    undisturbed, _ = case.train(RunDir.at(str(tmp_path), "other"), [0], seconds=1e9)
    case.train(run, [0], epochs=4)
    (path,) = run.sizes(FOLDER)
    content = bytearray(run.read_bytes(path))
    content[-5] ^= 1
    damaged = {"flipped": content, "cut off": content[:100], "garbage": b"\xff" * 50}[damage]
    Path(run.path(path)).write_bytes(damaged)
    resumed, kept = case.train(run, [0])
    assert kept.spent == 0
    assert same(resumed[0], undisturbed[0])


def test_one_file_is_kept_and_none_when_all_is_done(run: RunDir) -> None:
    _, kept = CASES["dropout"].train(run, [0, 1])
    assert len(run.sizes(FOLDER)) == 1
    kept.remove()
    assert not run.sizes(FOLDER)


def test_nothing_is_kept_of_a_short_training(run: RunDir) -> None:
    CASES["dropout"].train(run, [0, 1], seconds=30.0)
    assert not run.sizes(FOLDER)


def test_workers_that_share_batches_are_taken_up_each_with_its_own_dropout(run: RunDir, tmp_path: Path) -> None:
    case = CASES["dropout"]

    def together(where: RunDir, epochs: int | None, seconds: float) -> dict[int, dict[str, torch.Tensor]]:
        """Two threads in the places of two workers: each waits for the other's word."""
        barrier, words, found = threading.Barrier(2, timeout=20), {}, {}

        def exchange(rank: int, word: Any) -> list[Any]:
            words[rank] = word
            barrier.wait()
            both = [words[0], words[1]]
            barrier.wait()
            return both

        def add(rank: int, value: torch.Tensor) -> None:
            first, second = exchange(rank, value.clone())
            value.copy_(first + second)

        def work(rank: int) -> None:
            share = Share(rank=rank, world=2, sum_=lambda v: add(rank, v), gather=lambda word: exchange(rank, word))
            found[rank], _ = case.train(where, [0, 1], epochs=epochs, seconds=seconds, share=share, writes=rank == 0)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert same(found[0][1], found[1][1])
        return found[0]

    undisturbed = together(RunDir.at(str(tmp_path), "other"), None, 1e9)
    together(run, 3, 0.0)
    assert set(epochs_kept(run, FOLDER).values()) == {2}
    resumed = together(run, None, 0.0)
    assert all(same(resumed[member], undisturbed[member]) for member in (0, 1))
