"""Stage 4: a Ray Train job distills the student, with its baseline and its augmented control packed beside it.

All three have one architecture, one number of steps, one schedule and one way to be selected. The student learns
the ensemble's soft targets of the transfer set; the baseline hard labels of the training rows; the augmented
control the transfer set with each row's parent's hard label (there is none where nothing was synthesized).

Files: <role>/model.safetensors (the delivered replica), replicas.safetensors, metrics.json, history.parquet.
"""

from typing import Any

from kd_ray.checkpoints import STUDENT
from kd_ray.config import Config
from kd_ray.distillation import ROLES
from kd_ray.errors import RunError
from kd_ray.progress import Report
from kd_ray.rundir import RunDir
from kd_ray.session import Session
from kd_ray.tables import STUDENT_MANIFEST


def distill(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train the pack and write its files. Raises DivergedError, ManifestError, ResourceError, RunError."""
    # Here, since Ray Train takes a second to import.
    from kd_ray.student.job import size_of, train_here, train_on_workers
    from kd_ray.student.worker import Work

    for role in ROLES:
        run.remove(role)
    work = Work(config=config.student, run=run, seed=config.seed, fingerprint=fingerprint)
    size = size_of(config.student, session)

    def show(epoch: int, note: str) -> None:
        report(epoch, config.student.epochs, f"epoch {epoch} of {config.student.epochs}{note}")

    if size:
        train_on_workers(work, size, show)
    else:
        train_here(work, show)
    manifest = run.manifest(STUDENT_MANIFEST)
    if manifest is None:
        raise RunError(f"{run}: the training job ended without a student; its log says why")
    run.remove(STUDENT)
    return manifest.summary
