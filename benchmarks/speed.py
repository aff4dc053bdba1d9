"""The teachers' stage and the whole article run against `plain.py`, and 32 packed students against one."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, kd_ray, process, spread
from kd_ray.feeds import Streams
from kd_ray.losses import Loss, distillation, negentropy
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.training import Recipe, fit, take


def against_plain(storage: Path, runs: int) -> list[Row]:
    """Both sides do the article's work from cold, in turn; plain.py may use all cores by torch's threads."""
    stage: list[float] = []
    whole: list[float] = []
    plain_stage: list[float] = []
    plain_whole: list[float] = []
    for run in range(runs):
        _, record, seconds = kd_ray(storage, f"article-{run}", "examples/article.yaml")
        stage.append(record["stages"]["teachers"]["seconds"])
        whole.append(seconds)
        printed, seconds = process("benchmarks/plain.py")
        plain_stage.append(json.loads(printed)["teachers_seconds"])
        plain_whole.append(seconds)
    faster = [b / a for a, b in zip(stage, plain_stage, strict=True)]
    part = [a / b for a, b in zip(whole, plain_whole, strict=True)]
    return [
        Row(
            what="teachers stage without Ray's start, article.yaml",
            ours=spread(stage),
            against=f"plain.py {spread(plain_stage)}",
            found=f"{spread(faster, ' times faster')}",
            must="4 times",
            aim="8 times",
        ),
        Row(
            what="whole `kd-ray run examples/article.yaml`, cold, all included",
            ours=spread(whole),
            against=f"plain.py {spread(plain_whole)}",
            found=f"{spread(part, ' of its time', 2)}",
            must="<= 0.7",
            aim="<= 0.35",
        ),
    ]


def students(storage: Path, runs: int) -> list[Row]:
    """32 students that differ in T, alpha and seed in one pack against one alone: same function, same threads."""
    rng = np.random.default_rng(0)
    features_ND = torch.from_numpy(rng.normal(size=(4000, 20)).astype(np.float32))
    soft_NC = torch.from_numpy(rng.dirichlet((1, 1), 4000).astype(np.float32))
    negentropy_N = negentropy(soft_NC, -1)
    label_N = torch.from_numpy(rng.integers(0, 2, 4000))
    recipe = Recipe(epochs=10, steps=63, batch_size=64, learning_rate=1e-3, weight_decay=1e-4)
    spec = MLP.of(n_features=20, hidden=[64, 32], n_classes=2, dropout=[])

    def train(members: int) -> float:
        how: dict[str, Any] = {
            "temperature_K": torch.linspace(1, 8, members),
            "alpha_KB": torch.linspace(1, 0.5, members).unsqueeze(1),
        }

        def objective(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
            soft_CKB = take(soft_NC, rows_KB).permute(2, 0, 1).contiguous()
            return distillation(
                logits_CKB,
                soft_CKB,
                label_N.take(rows_KB),
                weight_KB=weight_KB,
                negentropy_KB=negentropy_N.take(rows_KB),
                **how,
            )

        streams = [Streams.of(0, k) for k in range(members)]
        pack = PackedMLP(spec, members)
        for k, stream in enumerate(streams):
            pack.load(k, spec.initial_weights(stream.weights))
        rows = [np.arange(4000)] * members
        begun = time.perf_counter()
        names = [f"student {k}" for k in range(members)]
        list(fit(pack, features_ND, objective, rows=rows, streams=streams, recipe=recipe, names=names))
        return time.perf_counter() - begun

    train(1)
    one, many = [], []
    for _ in range(max(runs, 15)):
        one.append(train(1))
        many.append(train(32))
    ratios = [b / a for a, b in zip(one, many, strict=True)]
    return [
        Row(
            what="32 students that differ in T, alpha and seed, packed, 10 epochs, all cores",
            ours=spread(many, digits=2),
            against=f"one student alone {spread(one, digits=2)}",
            found=spread(ratios, " times its time", 2),
            must="<= 4",
            aim="<= 2",
        )
    ]
