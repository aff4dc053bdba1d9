"""One worker's part of the student's job: in the process that runs it, or one of several that share every batch."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import ray.train.torch
import torch
from safetensors.torch import save

from kd_ray import knobs, tables
from kd_ray.checkpoints import STUDENT, Checkpoint
from kd_ray.distillation import STUDENT_STREAM, Member, members_of, objective
from kd_ray.ensemble import spec_of
from kd_ray.feeds import Share, Streams
from kd_ray.packing import PackedMLP
from kd_ray.rundir import FileRecord, Manifest, RunDir, fingerprint
from kd_ray.tables import STUDENT_MANIFEST, Dataset
from kd_ray.tasks import Task, selection_score, task_of
from kd_ray.training import Recipe, fit
from kd_ray.transfer_set import read_transfer_set

Tell = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every worker of the job needs to know."""

    config: knobs.Student
    run: RunDir
    seed: int
    fingerprint: str


def train_on_worker(arguments: dict[str, Any]) -> None:
    """One worker's part of the job; the first of them writes the files. It goes on from the last checkpoint."""
    work: Work = arguments["work"]
    tell: Tell = arguments["tell"]
    if work.run.finished(STUDENT_MANIFEST, work.fingerprint):
        return  # a worker was lost after all was done
    data = Dataset.open(work.run)
    transfer = read_transfer_set(data, work.config.averaging)
    members = members_of(work.config, transfer)
    device = str(ray.train.torch.get_device())
    with _share(arguments.get("step_seconds")) as share:
        # A replica begins alike and shuffles alike in every role, so that roles are compared in pairs.
        streams = [Streams.of(work.seed, STUDENT_STREAM, m.replica, rank=share.rank) for m in members]
        spec = spec_of(work.config.model, data)
        pack = PackedMLP(spec, len(members), device)
        for k, stream in enumerate(streams):
            pack.load(k, spec.initial_weights(stream.weights))
        task, valid = task_of(data.schema), data.rows("valid")
        valid_ND, truth_N = torch.from_numpy(valid.features_ND).to(device), task.truth(valid.label_N)
        keys = [fingerprint(work.fingerprint, member.role, member.replica) for member in members]
        kept = Checkpoint(work.run, STUDENT, keys, work.config.checkpoint_seconds, writes=share.rank == 0)
        for loss_K in fit(
            pack,
            torch.from_numpy(transfer.features_ND).to(device),
            objective(work.config, members, transfer, device, share.sum_),
            rows=[member.rows_N for member in members],
            streams=streams,
            # An epoch is a pass over the training rows, however many the transfer set has: all roles take as many
            # steps.
            recipe=Recipe.of(work.config, len(transfer.real_N), work.config.schedule),
            names=[f"{member.role} (replica {member.replica})" for member in members],
            share=share,
            checkpoint=kept,
        ):
            kept.history.append(np.stack([loss_K, _valid_scores(task, pack, valid_ND, truth_N)]))
            if share.rank == 0:
                tell(len(kept.history), f", loss {loss_K[: work.config.replicas].mean():.4f}")
    if share.rank == 0:
        _write(work, task, members, pack, kept)


@contextlib.contextmanager
def _share(step_seconds: float | None) -> Iterator[Share]:
    """Yield this worker's part of every batch; one of its own process ends where no step is taken for so long."""
    context = ray.train.get_context()
    world = context.get_world_size()
    if step_seconds is None:
        yield Share()
        return
    with pulse(step_seconds) as beat:

        def sum_(tensor: torch.Tensor) -> None:
            if world > 1:
                torch.distributed.all_reduce(tensor)
            beat()

        def gather(mine: Any) -> list[Any]:
            every: list[Any] = [mine] * world
            if world > 1:
                torch.distributed.all_gather_object(every, mine)
            beat()
            return every

        yield Share(rank=context.get_world_rank(), world=world, sum_=sum_, gather=gather)


@contextlib.contextmanager
def pulse(seconds: float) -> Iterator[Callable[[], None]]:
    """Yield what is to be called at least every `seconds` within the block: this process ends where it is not."""
    last = time.monotonic()
    over = threading.Event()

    def beat() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        while not over.wait(min(1.0, seconds / 4)):
            if time.monotonic() - last > seconds:
                print(f"student: no step in {seconds:g} s; this worker ends, to be replaced", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield beat
    finally:
        over.set()


def _valid_scores(task: Task, pack: PackedMLP, features_ND: torch.Tensor, truth_N: np.ndarray) -> np.ndarray:
    """Each model's NLL or RMSE on the validation rows, NaN where there are none."""
    if not len(truth_N):
        return np.full(pack.members, np.nan)
    with torch.no_grad():
        values_KNC = pack.logits(features_ND).cpu().numpy()
    return np.array([selection_score(task, values_NC, truth_N) for values_NC in values_KNC])


def _write(
    work: Work,
    task: Task,
    members: list[Member],
    pack: PackedMLP,
    kept: Checkpoint,
) -> None:
    files: list[FileRecord] = []
    summary: dict[str, Any] = {"training_seconds": {}, "replicas": work.config.replicas, "taken_up": kept.taken_up}
    seconds = kept.trained_seconds
    noted_EXK = np.stack(kept.history)
    loss_EK, valid_EK = noted_EXK[:, 0].astype(np.float32), noted_EXK[:, 1]
    for role in dict.fromkeys(member.role for member in members):
        slots = [k for k, member in enumerate(members) if member.role == role]
        final = valid_EK[-1, slots]
        chosen = not np.isnan(final).any()
        best = int(final.argmin()) if chosen else 0
        # Every model of the pack takes the same steps over the same shapes, so each has an equal part of its time.
        part = seconds * len(slots) / len(members)
        facts = {
            "replica": best,
            "selected_by": f"validation {task.selection.upper()}" if chosen else "none: the first",
            f"valid_{task.selection}": [None if np.isnan(score) else float(score) for score in final],
            "loss": [float(loss) for loss in loss_EK[-1, slots]],
            "seconds": part,
        }
        summary["training_seconds"][role] = part
        replicas = {f"{r}/{name}": value for r, k in enumerate(slots) for name, value in pack.weights(k).items()}
        past = _history(loss_EK[:, slots], valid_EK[:, slots], f"valid_{task.selection}")
        files += [
            work.run.write_bytes(f"{role}/model.safetensors", save(pack.weights(slots[best]))),
            work.run.write_bytes(f"{role}/replicas.safetensors", save(replicas)),
            tables.write(work.run, f"{role}/history.parquet", past),
            work.run.write_json(f"{role}/metrics.json", facts),
        ]
    manifest = Manifest(fingerprint=work.fingerprint, files=files, summary=summary)
    work.run.commit(STUDENT_MANIFEST, manifest)


def _history(loss_ER: np.ndarray, valid_ER: np.ndarray, valid_name: str) -> pa.Table:
    epochs, replicas = loss_ER.shape
    return pa.table(
        {
            "epoch": np.repeat(np.arange(1, epochs + 1), replicas),
            "replica": np.tile(np.arange(replicas), epochs),
            "loss": loss_ER.reshape(-1),
            valid_name: pa.array(valid_ER.reshape(-1), from_pandas=True),
        }
    )
