"""Stage 4: a Ray Train job distills the student, with its baseline and its augmented control packed beside it.

All three have one architecture, one number of steps, one schedule and one way to be selected. The student learns
the ensemble's soft targets of the transfer set; the baseline hard labels of the training rows; the augmented
control the transfer set with each row's parent's hard label (there is none where nothing was synthesized).

Files: <role>/model.safetensors (the delivered replica), replicas.safetensors, metrics.json, history.parquet.
"""

import functools
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from safetensors.torch import save

from kd_ray import knobs, tables
from kd_ray.config import Config
from kd_ray.distillation import ROLES, STUDENT_STREAM, Member, members_of, objective
from kd_ray.ensemble import spec_of
from kd_ray.errors import KdRayError, RunError
from kd_ray.packing import PackedMLP
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.scheduling import Ask
from kd_ray.session import Session
from kd_ray.tables import STUDENT_MANIFEST, Dataset
from kd_ray.tasks import Task, selection_score, task_of
from kd_ray.training import Recipe, Share, Streams, fit
from kd_ray.transfer_set import read_transfer_set

Tell = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every worker of the job needs to know."""

    config: knobs.Student
    run: RunDir
    seed: int
    fingerprint: str


def distill(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train the pack and write its files. Raises DivergedError, ManifestError, ResourceError, RunError."""
    for role in ROLES:
        run.remove(role)
    work = Work(config=config.student, run=run, seed=config.seed, fingerprint=fingerprint)
    workers, use_gpu = _workers(config.student, session)

    def show(epoch: int, note: str) -> None:
        report(epoch, config.student.epochs, f"epoch {epoch} of {config.student.epochs}{note}")

    if workers:
        _train_on_workers(work, workers, use_gpu, show)
    else:
        _train_here(work, show)
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise RunError(f"{run}: the training job ended without a student; its log says why")
    return manifest.summary


def _workers(config: knobs.Student, session: Session) -> tuple[int, bool]:
    """Return the number of Ray Train workers, 0 for this process, and whether each has a GPU."""
    if config.workers == "auto" and session.is_local:
        return 0, False
    gpus = int(session.total("GPU"))
    workers = (gpus or 1) if config.workers == "auto" else config.workers
    use_gpu = gpus >= workers
    session.slots(Ask(cpus=1.0, gpus=1.0 if use_gpu else 0.0), stage="student", at_least=workers)
    return workers, use_gpu


def _train_here(work: Work, show: Tell) -> None:
    """Run the job in this process: Ray Train's local mode, which starts in a tenth of a second."""
    trainer = ray.train.torch.TorchTrainer(
        train_on_worker,
        train_loop_config={"work": work, "tell": show},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    )
    threads = torch.get_num_threads()
    # Such small products gain little from a second thread, and lose all where another program wants the core.
    torch.set_num_threads(1)
    try:
        trainer.fit()
    finally:
        torch.set_num_threads(threads)


def _train_on_workers(work: Work, workers: int, use_gpu: bool, show: Tell) -> None:
    """Run the job on `workers` processes; what Ray Train keeps for itself is new each time, and removed."""
    scratch = f"ray_train/{uuid.uuid4().hex[:12]}"
    work.run.filesystem.create_dir(work.run.path(scratch), recursive=True)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = ray.train.torch.TorchTrainer(
        train_on_worker,
        train_loop_config={"work": work, "tell": functools.partial(_tell_board, board)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name="student",
            storage_path=work.run.path(scratch),
            storage_filesystem=work.run.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=2),
        ),
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, show, ended), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        causes = [getattr(failure, "cause", failure) for failure in failures.values()]
        ours = [cause for cause in causes if isinstance(cause, KdRayError)]
        raise (ours[0] if ours else error) from error
    finally:
        ended.set()
        watcher.join(timeout=5)
        ray.kill(board)
        work.run.remove("ray_train")


class Board:
    """Where a worker far away writes how far it is."""

    def __init__(self) -> None:
        self.last: tuple[int, str] | None = None

    def write(self, epoch: int, note: str) -> None:
        self.last = (epoch, note)

    def read(self) -> tuple[int, str] | None:
        return self.last


def _tell_board(board: Any, epoch: int, note: str) -> None:
    board.write.remote(epoch, note)


def _watch(board: Any, show: Tell, ended: threading.Event) -> None:
    while not ended.wait(0.5):
        if last := ray.get(board.read.remote()):
            show(*last)


def train_on_worker(arguments: dict[str, Any]) -> None:
    """One worker's part of the job; the first of them writes the files."""
    work: Work = arguments["work"]
    tell: Tell = arguments["tell"]
    data = Dataset.open(work.run)
    transfer = read_transfer_set(data, work.config.averaging)
    members = members_of(work.config, transfer)
    device = str(ray.train.torch.get_device())
    share = _share()
    # A replica begins alike and shuffles alike in every role, so that roles are compared in pairs.
    streams = [Streams.of(work.seed, STUDENT_STREAM, m.replica, rank=share.rank) for m in members]
    spec = spec_of(work.config.model, data)
    pack = PackedMLP(spec, len(members), device)
    for k, stream in enumerate(streams):
        pack.load(k, spec.initial_weights(stream.weights))
    task, valid = task_of(data.schema), data.rows("valid")
    valid_ND, truth_N = torch.from_numpy(valid.features_ND).to(device), task.truth(valid.label_N)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    begun = time.perf_counter()
    for loss_K in fit(
        pack,
        torch.from_numpy(transfer.features_ND).to(device),
        objective(work.config, members, transfer, device, share.sum_),
        rows=[member.rows_N for member in members],
        streams=streams,
        # An epoch is a pass over the training rows, however many the transfer set has: all roles take as many steps.
        recipe=Recipe.of(work.config, len(transfer.real_N), work.config.schedule),
        names=[f"{member.role} (replica {member.replica})" for member in members],
        share=share,
    ):
        history.append((loss_K, _valid_scores(task, pack, valid_ND, truth_N)))
        if share.rank == 0:
            tell(len(history), f", loss {loss_K[: work.config.replicas].mean():.4f}")
    if share.rank == 0:
        _write(work, task, members, pack, history, time.perf_counter() - begun)


def _share() -> Share:
    context = ray.train.get_context()
    world = context.get_world_size()
    if world == 1:
        return Share()
    return Share(rank=context.get_world_rank(), world=world, sum_=torch.distributed.all_reduce)


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
    history: list[tuple[np.ndarray, np.ndarray]],
    seconds: float,
) -> None:
    files: list[FileRecord] = []
    summary: dict[str, Any] = {"training_seconds": {}, "replicas": work.config.replicas}
    loss_EK, valid_EK = (np.stack(part) for part in zip(*history, strict=True))
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
