"""Members that are torch modules of the user's own, by import path: trained one at a time, by the same recipe.

Axes: B rows of a batch, D features, C outputs.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kd_ray.errors import ConfigError, DivergedError
from kd_ray.estimators import imported
from kd_ray.feeds import Feed
from kd_ray.knobs import Group
from kd_ray.tables import Rows
from kd_ray.training import Recipe


def make(group: Group, n_features: int, n_outputs: int) -> torch.nn.Module:
    """Return the module that a group names, told `n_features` and `n_outputs` where it takes them.

    Raises ConfigError where it cannot be imported or made, or is no torch module.
    """
    kind = imported(str(group.estimator), "teachers.groups: torch: estimator")
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    try:
        known = inspect.signature(kind).parameters
        made = kind(**{name: size for name, size in sizes.items() if name in known}, **group.parameters)
    except TypeError as error:
        raise ConfigError(f"teachers.groups: torch: {group.estimator}: parameters: {error}") from None
    if not isinstance(made, torch.nn.Module):
        raise ConfigError(
            f"teachers.groups: torch: {group.estimator} must make a torch.nn.Module; it made {made!r:.60}"
        )
    return made


def check(group: Group, n_features: int, n_outputs: int) -> None:
    """Raise ConfigError where the module does not turn [B, D] into [B, C]."""
    module = make(group, n_features, n_outputs).eval()
    try:
        with torch.no_grad():
            out_BC = module(torch.zeros(3, n_features))
    except Exception as error:
        out_BC = f"{type(error).__name__}: {error}"
    if not isinstance(out_BC, torch.Tensor) or out_BC.shape != (3, n_outputs):
        raise ConfigError(
            f"teachers.groups: torch: {group.estimator} must turn 3 rows of {n_features} features into 3 x {n_outputs} "
            f"numbers; got {getattr(out_BC, 'shape', out_BC)!s:.200}"
        )


def train(
    module: torch.nn.Module,
    rows: Rows,
    learns_from: np.ndarray,
    shuffle: np.random.Generator,
    recipe: Recipe,
    name: str,
    device: str,
) -> Iterator[float]:
    """Train in place, an epoch at each turn; yield its mean loss. Raises DivergedError.

    The loss is the cross-entropy, or the squared error of one output; batches are drawn as for built-in networks.
    """
    features_ND = torch.from_numpy(np.array(rows.features_ND)).to(device)
    label_N = torch.from_numpy(np.array(rows.label_N)).to(device)
    weight_N = torch.from_numpy(np.array(rows.weight_N)).to(device)
    module.to(device).train()
    adam = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    feed = Feed(learns_from, recipe.batch_size, shuffle)
    for epoch in range(recipe.epochs):
        total = 0.0
        for at_B in feed.take(recipe.steps):
            rows_B = torch.from_numpy(at_B[at_B >= 0]).to(device)
            adam.zero_grad()
            loss_B = _loss(module(features_ND[rows_B]), label_N[rows_B])
            loss = (loss_B * weight_N[rows_B]).sum() / weight_N[rows_B].sum()
            loss.backward()
            adam.step()
            total += float(loss.detach())
        if not np.isfinite(total):
            raise DivergedError(f"{name}: diverged in epoch {epoch + 1}: the loss became {total:g}")
        yield total / recipe.steps


def _loss(out_BC: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    if label_B.is_floating_point():
        return (out_BC[:, 0] - label_B).square()
    return torch.nn.functional.cross_entropy(out_BC, label_B, reduction="none")


def says(module: torch.nn.Module, features_ND: np.ndarray, rows_at_once: int = 4096) -> np.ndarray:
    """Return the module's outputs of rows, shape [N, C], float32."""
    device: Any = next(module.parameters()).device
    module.eval()
    with torch.no_grad():
        parts = [
            module(torch.from_numpy(np.ascontiguousarray(features_ND[at : at + rows_at_once])).to(device)).cpu()
            for at in range(0, len(features_ND), rows_at_once)
        ]
    return np.asarray(torch.cat(parts).numpy())
