"""Stage 4: a Ray Train job distills the student, with its baseline and its augmented control packed beside it.

All three have one architecture, one number of steps, one schedule and one way to be selected. The student learns
the ensemble's soft targets of the transfer set; the baseline hard labels of the training rows; the augmented
control the transfer set with each row's parent's hard label (there is none where nothing was synthesized).

Files: <role>/model.safetensors (the delivered replica), replicas.safetensors, metrics.json, history.parquet.
"""

from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from kd_ray import knobs
from kd_ray.checkpoints import STUDENT
from kd_ray.config import Config
from kd_ray.distillation import ROLES
from kd_ray.errors import RunError
from kd_ray.progress import Report
from kd_ray.rundir import RunDir
from kd_ray.scheduling import Ask
from kd_ray.session import Session
from kd_ray.student.job import Size, train_on_workers
from kd_ray.student.worker import Tell, Work, train_on_worker
from kd_ray.tables import STUDENT_MANIFEST


def distill(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train the pack and write its files. Raises DivergedError, ManifestError, ResourceError, RunError."""
    for role in ROLES:
        run.remove(role)
    work = Work(config=config.student, run=run, seed=config.seed, fingerprint=fingerprint)
    size = _size(config.student, session)

    def show(epoch: int, note: str) -> None:
        report(epoch, config.student.epochs, f"epoch {epoch} of {config.student.epochs}{note}")

    if size:
        train_on_workers(work, size, show)
    else:
        _train_here(work, show)
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise RunError(f"{run}: the training job ended without a student; its log says why")
    run.remove(STUDENT)
    return manifest.summary


def _size(config: knobs.Student, session: Session) -> Size | None:
    """Return how many Ray Train workers there are to be, None for this process. Raises ResourceError."""
    given = config.workers
    if given == "auto" and session.is_local:
        return None
    gpus = int(session.total("GPU"))
    if given == "auto":
        given = gpus or 1
    least, most = given if isinstance(given, list) else (given, given)
    size = Size(least=least, most=most, use_gpu=gpus >= least)
    session.slots(Ask(cpus=1.0, gpus=1.0 if size.use_gpu else 0.0), stage="student", at_least=least)
    return size


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
