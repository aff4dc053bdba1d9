"""A pack of combinations trained at once, scored on the validation rows and committed.

A combination's model is the student's first replica: it begins and shuffles alike in all of them, so that they are
compared in pairs, and the winner is the replica that the student stage trains again. A rung begins anew, on the whole
run's schedule: nothing but the commits is kept between rungs.

Files: tune/packs/<pack>/students.safetensors and, last, manifest.json with the scores.
Axes: N rows, K combinations of a pack, C classes (1 for a regression).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.fs as pafs
import torch
from safetensors.torch import save

from kd_ray import knobs
from kd_ray.distillation import STUDENT_STREAM, members_of, objective
from kd_ray.ensemble import spec_of
from kd_ray.feeds import Streams
from kd_ray.optimizers import Rates
from kd_ray.packing import PackedMLP
from kd_ray.rundir import Manifest, RunDir, fingerprint
from kd_ray.search import Combination, Tried, student_of
from kd_ray.tables import Dataset, Rows
from kd_ray.tasks import Task, task_of
from kd_ray.tensors import read_weights
from kd_ray.training import Recipe, fit
from kd_ray.transfer_set import read_transfer_set

PACKS = "tune/packs"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every pack of a search needs to know; `metric` is what it chooses by."""

    run: RunDir
    seed: int
    student: knobs.Student
    metric: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Combinations of one architecture and batch size, by their numbers, and how long they are trained."""

    combinations: dict[int, Combination]
    rung: int
    epochs: int

    def name(self, work: Work) -> str:
        parts = [self.rung, self.epochs, list(self.combinations.items())]
        return f"{self.rung}-{fingerprint(work.fingerprint, *parts)[:12]}"


def metric_of(task: Task, wanted: str) -> str:
    """Return the metric that a search chooses by: the wanted one where the task has it, else the task's own."""
    return wanted if wanted in task.measures else task.selection


def train(work: Work, pack: Pack, device: str = "cpu", tell: Callable[[int], None] = lambda epoch: None) -> None:
    """Train a pack for its rung's epochs, score it and commit it."""
    begun = time.perf_counter()
    students = [student_of(work.student, one) for one in pack.combinations.values()]
    data = Dataset.open(work.run)
    trained, loss_K = _trained(work, pack, students, data, device, tell)
    task, valid = task_of(data.schema), data.rows("valid")
    score_K = [
        None if row_N is None else float(task.measures[work.metric].of_mean(row_N.mean()))
        for row_N in rows_of(trained, task, valid, work.metric)
    ]
    folder = f"{PACKS}/{pack.name(work)}"
    work.run.remove(f"{folder}/manifest.json")
    named = {f"{n}/{k}": v for at, n in enumerate(pack.combinations) for k, v in trained.weights(at).items()}
    record = work.run.write_bytes(f"{folder}/students.safetensors", save(named))
    seconds = (time.perf_counter() - begun) / len(students)
    summary = {
        "rung": pack.rung,
        "epochs": pack.epochs,
        "tried": [
            {
                "number": number,
                "combination": combination,
                "score": score,
                "loss": float(loss) if np.isfinite(loss) else None,
                "seconds": seconds,
            }
            for (number, combination), score, loss in zip(pack.combinations.items(), score_K, loss_K, strict=True)
        ],
    }
    manifest = Manifest(fingerprint=work.fingerprint, files=[record], summary=summary)
    work.run.commit(f"{folder}/manifest.json", manifest)


def _trained(
    work: Work, pack: Pack, students: list[knobs.Student], data: Dataset, device: str, tell: Callable[[int], None]
) -> tuple[PackedMLP, np.ndarray]:
    """Return the trained pack and its losses in the last epoch, shape [K]."""
    transfer = read_transfer_set(data, work.student.averaging)
    # The student is the first of its members; labels alone are no combination.
    members = [members_of(student.model_copy(update={"replicas": 1}), transfer)[0] for student in students]
    streams = [Streams.of(work.seed, STUDENT_STREAM, 0) for _ in members]
    spec = spec_of(students[0].model, data)
    packed = PackedMLP(spec, len(members), device)
    for k, stream in enumerate(streams):
        packed.load(k, spec.initial_weights(stream.weights))
    epochs = fit(
        packed,
        torch.from_numpy(transfer.features_ND).to(device),
        objective(work.student, members, transfer, device),
        rows=[member.rows_N for member in members],
        streams=streams,
        recipe=Recipe.of(students[0], len(transfer.real_N), students[0].schedule),
        names=[f"combination {number}" for number in pack.combinations],
        rates=Rates(
            learning_rate_K=[student.learning_rate for student in students],
            weight_decay_K=[student.weight_decay for student in students],
        ),
        may_diverge=True,
    )
    loss_K = np.full(len(members), np.nan)
    for epoch in range(1, pack.epochs + 1):
        loss_K = next(epochs)
        tell(epoch)
    return packed, loss_K


def rows_of(packed: PackedMLP, task: Task, rows: Rows, metric: str) -> list[np.ndarray | None]:
    """Return each model's part in the metric, row by row, shape [N]; None where it diverged."""
    with torch.no_grad():
        values_KNC = packed.logits(torch.from_numpy(rows.features_ND).to(packed.flat_P.device)).cpu().numpy()
    sound_K = packed.finite() & np.isfinite(values_KNC).all((1, 2))
    truth_N = task.truth(rows.label_N)
    return [
        task.rows(task.says(values_NC), truth_N)[metric] if sound else None
        for values_NC, sound in zip(values_KNC, sound_K, strict=True)
    ]


def finished(work: Work) -> list[tuple[Tried, Combination]]:
    """Return what every committed pack of this search found."""
    selector = pafs.FileSelector(work.run.path(PACKS), allow_not_found=True)
    found = []
    for info in sorted(work.run.filesystem.get_file_info(selector), key=lambda info: info.base_name):
        manifest = work.run.finished(f"{PACKS}/{info.base_name}/manifest.json", work.fingerprint)
        if manifest is None:
            continue
        facts = manifest.summary
        for one in facts["tried"]:
            combination = one["combination"]
            own = {name: one[name] for name in ("number", "score", "loss", "seconds")}
            tried = Tried(rung=facts["rung"], epochs=facts["epochs"], pack=info.base_name, **own)
            found.append((tried, combination))
    return found


def valid_rows(work: Work, every: Sequence[Combination], tried: Tried) -> np.ndarray:
    """Return a finished combination's part in the metric on each validation row, from its weights, shape [N]."""
    manifest = work.run.manifest(f"{PACKS}/{tried.pack}/manifest.json")
    assert manifest is not None
    data = Dataset.open(work.run)
    packed = PackedMLP(spec_of(student_of(work.student, every[tried.number]).model, data), 1)
    packed.load(0, read_weights(work.run, manifest.files[0], packed.spec, f"{tried.number}/"))
    row_N = rows_of(packed, task_of(data.schema), data.rows("valid"), work.metric)[0]
    assert row_N is not None
    return row_N
