"""The training loop of a pack: every member with its own seed, shuffle and dropout, one step for all.

Member i is a function of its seed, its rows and the recipe alone: each draws from its own streams.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from kd_ray import knobs
from kd_ray.checkpoints import Checkpoint, State
from kd_ray.errors import DivergedError
from kd_ray.feeds import Feed, Share, Streams
from kd_ray.losses import Loss
from kd_ray.optimizers import Adam, MemberAdam, Rates
from kd_ray.packing import PackedMLP

DIVERGED_LOSS = 1e4  # nats a row: a network that says this of its training rows will not come back


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train. An epoch is `steps` steps; Adam's betas are (0.9, 0.999), eps 1e-8."""

    epochs: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: str = "constant"

    @classmethod
    def of(cls, config: knobs.Teachers | knobs.Student, n_rows: int, schedule: str = "constant") -> "Recipe":
        """An epoch is a pass over `n_rows`; a batch takes all of them where it is larger."""
        batch_size = min(config.batch_size, n_rows)
        return cls(
            epochs=config.epochs,
            steps=-(-n_rows // batch_size),
            batch_size=batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            schedule=schedule,
        )

    def share_at(self, step: int) -> float:
        """Share of the full learning rate at a step, counted over all epochs; a cosine falls from 1 to zero."""
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * step / (self.epochs * self.steps)))

    def rate_at(self, step: int) -> float:
        """Learning rate at a step, counted over all epochs."""
        return self.learning_rate * self.share_at(step)


class Objective(Protocol):
    def __call__(self, logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss: ...


def take(table_NX: torch.Tensor, rows_KB: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return table_NX[rows_KB], shape [K, B, X], in `out` where its shape fits.

    The flat selection is twice as fast as indexing by two axes, and memory that is used again spares page faults,
    which took most of the time of a large batch.
    """
    shape = (*rows_KB.shape, table_NX.shape[1])
    into = out.flatten(0, 1) if out is not None and out.shape == shape else None
    return torch.index_select(table_NX, 0, rows_KB.reshape(-1), out=into).view(shape)


def _stepper(pack: PackedMLP, recipe: Recipe, rates: Rates | None) -> tuple[Callable[[int], None], Adam]:
    """Return what updates the pack's weights at a step; members of one rate share the one fused update."""
    if rates is not None and not rates.are_equal:
        members = MemberAdam(pack, rates)
        return lambda step: members.step(recipe.share_at(step)), members.adam
    if rates is not None:
        recipe = replace(recipe, learning_rate=rates.learning_rate_K[0], weight_decay=rates.weight_decay_K[0])
    adam = Adam(pack.flat_P, pack.grad_P, weight_decay=recipe.weight_decay)
    return lambda step: adam.step(recipe.rate_at(step)), adam


def fit(
    pack: PackedMLP,
    features_ND: torch.Tensor,
    objective: Objective,
    *,
    rows: list[np.ndarray],
    streams: list[Streams],
    recipe: Recipe,
    names: list[str],
    share: Share | None = None,
    rates: Rates | None = None,
    may_diverge: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Iterator[np.ndarray]:
    """Train every member of `pack`, an epoch at each turn; yield the members' mean losses of it, shape [K].

    `rows[k]` are the rows of `features_ND` that member k learns from. `objective` is given logits, the rows
    they belong to and weights that sum to 1 over each member's whole batch. Under `share` each process takes
    its part of every batch and the gradients are summed, so that all processes hold the same weights and
    take the same steps. With `rates` each member has its own. Raises DivergedError, naming the member and the epoch,
    unless a member `may_diverge`: the others do not depend on it. What a `checkpoint` has kept is taken up: only the
    epochs after it are yielded, and the end has the same bits.
    """
    share = share or Share()
    device = pack.flat_P.device
    feeds = [Feed(r, recipe.batch_size, s.shuffle) for r, s in zip(rows, streams, strict=True)]
    dropout = [s.dropout for s in streams]
    update, adam = _stepper(pack, recipe, rates)
    state = State(pack, adam, feeds, dropout, share)
    first = state.resume(checkpoint, recipe.steps) if checkpoint else 0
    x_KBD = None
    for epoch in range(first, recipe.epochs):
        loss_K = torch.zeros(pack.members, device=device)
        with torch.no_grad():
            for step, (rows_KB, weight_KB) in enumerate(_plan(feeds, recipe, share, device)):
                x_KBD = take(features_ND, rows_KB, out=x_KBD)
                logits_KBC = pack.forward(x_KBD, dropout)
                step_loss_K, grad_CKB = objective(logits_KBC.permute(2, 0, 1).contiguous(), rows_KB, weight_KB)
                pack.backward(grad_CKB.permute(1, 2, 0).contiguous())
                share.sum_(pack.grad_P)
                update(epoch * recipe.steps + step)
                loss_K += step_loss_K
        share.sum_(loss_K)
        mean_K = loss_K.cpu().numpy() / recipe.steps
        if not may_diverge:
            _check_converges(mean_K, pack, names, epoch)
        yield mean_K
        if checkpoint and epoch + 1 < recipe.epochs and any(share.gather(checkpoint.is_due())):
            checkpoint.keep(epoch + 1, state.of_members())


def _plan(
    feeds: list[Feed], recipe: Recipe, share: Share, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield an epoch's batches: rows_KB and their weights; what pads a short batch weighs nothing."""
    chunk = 1024
    for start in range(0, recipe.steps, chunk):
        drawn = [feed.take(min(chunk, recipe.steps - start)) for feed in feeds]
        width = max(batch_SB.shape[1] for batch_SB in drawn)
        rows_SKB = np.full((len(drawn[0]), len(feeds), width), -1, np.int64)
        for k, batch_SB in enumerate(drawn):
            rows_SKB[:, k, : batch_SB.shape[1]] = batch_SB
        mine = share.of_batch(width)
        even_KB = torch.full(rows_SKB[0, :, mine].shape, 1 / width, device=device)
        full_S = np.asarray((rows_SKB[:, :, -1] >= 0).all(1))
        for rows_KB, full in zip(torch.from_numpy(rows_SKB).to(device), full_S, strict=True):
            weight_KB = even_KB if full else _weights(rows_KB)[:, mine]
            yield (rows_KB if full else rows_KB.clamp_min(0))[:, mine], weight_KB


def _weights(rows_KB: torch.Tensor) -> torch.Tensor:
    """Each member's rows weigh the same, and what pads its batch nothing."""
    there_KB = (rows_KB >= 0).float()
    return there_KB / there_KB.sum(-1, keepdim=True)


def _check_converges(loss_K: np.ndarray, pack: PackedMLP, names: list[str], epoch: int) -> None:
    for reason in diverged(loss_K, pack, names, epoch).values():
        raise DivergedError(reason)


def diverged(loss_K: np.ndarray, pack: PackedMLP, names: list[str], epoch: int) -> dict[int, str]:
    """Return which members of a pack are lost, by their place in it, and what is to be said of each."""
    sound_K = np.isfinite(loss_K) & (loss_K < DIVERGED_LOSS) & pack.finite()
    return {
        int(k): f"{names[k]}: diverged in epoch {epoch + 1}: the loss must stay below {DIVERGED_LOSS:g}; "
        f"it became {loss_K[k]:g}; lower the learning rate"
        for k in np.flatnonzero(~sound_K)
    }
