"""A pruned student trains on, as the student did, for a short while."""

import torch

from kd_ray.config import Config
from kd_ray.distillation import members_of, objective
from kd_ray.feeds import Streams
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP, torch_threads
from kd_ray.tables import Dataset
from kd_ray.training import Recipe, fit
from kd_ray.transfer_set import read_transfer_set

PRUNED_STREAM = 3  # first word of its seed; teachers and students have others


def trained_on(
    config: Config, data: Dataset, spec: MLP, weights: dict[str, torch.Tensor], name: str
) -> dict[str, torch.Tensor]:
    """Return the weights after `export.fine_tuning` of the student's own recipe. Raises DivergedError."""
    given = config.export.fine_tuning
    epochs = max(1, round(given * config.student.epochs if given < 1 else given))
    tuned = config.student.model_copy(update={"epochs": epochs, "replicas": 1})
    transfer = read_transfer_set(data, tuned.averaging)
    student = members_of(tuned, transfer)[0]
    pack = PackedMLP(spec, 1)
    pack.load(0, weights)
    with torch_threads(1):
        for _ in fit(
            pack,
            torch.from_numpy(transfer.features_ND),
            objective(tuned, [student], transfer, "cpu"),
            rows=[student.rows_N],
            streams=[Streams.of(config.seed, PRUNED_STREAM, round(float(name)))],
            recipe=Recipe.of(tuned, len(transfer.real_N), tuned.schedule),
            names=[f"student pruned by {name} %"],
        ):
            pass
    return pack.weights(0)
