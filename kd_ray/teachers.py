"""Stage 2: actors train the members, in packs; each member lands as soon as it is done.

Files: teachers/<NNNN>/model.safetensors and, last, teacher.json: the member's own manifest. A member whose
fingerprint already lies there is not trained again, so that a larger ensemble only adds to a smaller one.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import save

from kd_ray import config as knobs
from kd_ray.ensemble import (
    TEACHER_STREAM,
    TEACHERS_MANIFEST,
    member_fingerprint,
    member_manifest,
    record_of,
    spec_of,
)
from kd_ray.errors import KdRayError, TeacherFailedError
from kd_ray.losses import Loss, cross_entropy
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.progress import Report
from kd_ray.rundir import Manifest, RunDir
from kd_ray.scheduling import Ask, PackQueue, packs
from kd_ray.session import Session, killed_after
from kd_ray.tables import Dataset, Rows
from kd_ray.training import Recipe, Streams, fit


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an actor needs to know to train any member."""

    run: RunDir
    spec: MLP
    recipe: Recipe
    seed: int
    fingerprint: str
    threads: int


def train(config: knobs.Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train what is missing of `teachers.count` members. Raises TeacherFailedError, DivergedError, ResourceError.

    `fingerprint` stands for all that makes a member but its number.
    """
    data, wanted = Dataset.open(run), config.teachers
    missing = [m for m in range(wanted.count) if not run.finished(record_of(m), member_fingerprint(fingerprint, m))]
    seconds = 0.0
    if missing:
        ask, actors = _placement(wanted, session)
        rows = data.rows("train")
        work = Work(
            run=run,
            spec=spec_of(wanted.model, data),
            recipe=recipe_of(wanted, len(rows.label_N)),
            seed=config.seed,
            fingerprint=fingerprint,
            threads=max(1, int(ask.cpus)),
        )
        queue = PackQueue.of(packs(missing, actors, None if wanted.pack_size == "auto" else wanted.pack_size))
        table = ray.put((rows, data.rows("valid")))
        begun = time.perf_counter()
        _train_all(queue, work, table, ask, actors, report, wanted.count)
        seconds = time.perf_counter() - begun
    return _commit(run, wanted.count, fingerprint, len(missing), seconds)


def recipe_of(config: knobs.Teachers, n_rows: int) -> Recipe:
    batch_size = min(config.batch_size, n_rows)
    return Recipe(
        epochs=config.epochs,
        steps=-(-n_rows // batch_size),
        batch_size=batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def _placement(config: knobs.Teachers, session: Session) -> tuple[Ask, int]:
    """Return what an actor asks for and how many there may be at once."""
    given = config.resources
    if given == "auto":
        given = knobs.Resources(cpus=1.0, gpus=1.0 if session.total("GPU") >= 1 else 0.0)
    ask = Ask(cpus=given.cpus, gpus=given.gpus)
    wanted = 1 if given.actors == "auto" else given.actors
    slots = session.slots(ask, stage="teachers", at_least=wanted)
    return ask, min(slots if given.actors == "auto" else wanted, config.count)


def _train_all(queue: PackQueue, work: Work, table: Any, ask: Ask, actors: int, report: Report, count: int) -> None:
    """Keep every actor busy until all packs are done, replacing the dead ones."""
    remote = ray.remote(num_cpus=ask.cpus, num_gpus=ask.gpus, max_restarts=0)(TeacherActor)
    before = count - sum(len(pack) for pack in queue.waiting)
    share: dict[Any, float] = {}
    scores: list[float] = []
    scored_on = ""
    with killed_after([]) as alive:
        busy: dict[Any, tuple[Any, list[int]]] = {}
        idle: list[Any] = []
        while True:
            while (idle or len(alive) < actors) and (pack := queue.take()):
                actor = idle.pop() if idle else remote.remote(work, table)
                if actor not in alive:
                    alive.append(actor)
                busy[actor.train.remote(pack)] = (actor, pack)
            if not busy:
                return
            stream = ray.wait(list(busy), num_returns=1)[0][0]
            actor, pack = busy[stream]
            try:
                news = ray.get(next(stream))
            except StopIteration:
                del busy[stream], share[stream]
                idle.append(actor)
                continue
            except ray.exceptions.RayActorError:
                del busy[stream]
                share.pop(stream, None)
                alive.remove(actor)
                _give_up_on(queue.lost(pack))
                continue
            except ray.exceptions.RayTaskError as error:
                raise _blame(error, pack) from error
            if "member" in news:
                queue.finished(news["member"])
                scores.append(news["accuracy"])
                scored_on = news["rows"]
            share[stream] = news["progress"] * len(pack)
            done = before + len(queue.done)
            mean = f", mean accuracy {np.mean(scores):.3f} on {scored_on} rows" if scores else ""
            under_way = sum(share.values()) + before
            report(max(done, under_way), count, f"{done} of {count} trained{mean}")


def _give_up_on(members: list[int]) -> None:
    if members:
        raise TeacherFailedError(
            f"teacher {members[0]}: its actor died three times while training it; "
            "it may need more memory than one actor has: lower teachers.pack_size"
        )


def _blame(error: Exception, pack: list[int]) -> Exception:
    cause = getattr(error, "cause", None)
    if isinstance(cause, KdRayError):
        return cause
    names = ", ".join(str(member) for member in pack)
    return TeacherFailedError(f"teachers {names}: training failed: {cause or error}")


class TeacherActor:
    """Trains packs of members on one device slot and writes each member where it belongs."""

    def __init__(self, work: Work, table: tuple[Rows, Rows]) -> None:
        torch.set_num_threads(work.threads)
        self.work = work
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.train_rows, self.valid_rows = table
        self.features_ND = _tensor(self.train_rows.features_ND, self.device)
        self.label_N = _tensor(self.train_rows.label_N, self.device)

    def train(self, members: list[int]) -> Iterator[dict[str, Any]]:
        """Yield {progress} each epoch, then {progress, member, accuracy, rows} for each member written."""
        work = self.work
        streams = [Streams.of(work.seed, TEACHER_STREAM, member) for member in members]
        pack = PackedMLP(work.spec, len(members), self.device)
        for k, stream in enumerate(streams):
            pack.load(k, work.spec.initial_weights(stream.weights))

        def objective(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
            return cross_entropy(logits_CKB, self.label_N[rows_KB], weight_KB)

        begun = time.perf_counter()
        losses = []
        for loss_K in fit(
            pack,
            self.features_ND,
            objective,
            rows=[np.arange(len(self.label_N))] * len(members),
            streams=streams,
            recipe=work.recipe,
            names=[f"teacher {member}" for member in members],
        ):
            losses.append(loss_K)
            yield {"progress": len(losses) / work.recipe.epochs}
        seconds = time.perf_counter() - begun
        accuracy, rows = self._accuracy(pack)
        for k, member in enumerate(members):
            metrics = {
                "loss": [float(loss_K[k]) for loss_K in losses],
                "accuracy": float(accuracy[k]),
                "accuracy_on": rows,
            }
            self._write(member, pack.weights(k), metrics, seconds / len(members), members)
            yield {"progress": 1.0, "member": member, "accuracy": float(accuracy[k]), "rows": rows}

    def _accuracy(self, pack: PackedMLP) -> tuple[np.ndarray, str]:
        """Each member's accuracy on the validation rows, or on the training rows where there are none."""
        if len(self.valid_rows.label_N):
            features_ND = _tensor(self.valid_rows.features_ND, self.device)
            label_N, rows = _tensor(self.valid_rows.label_N, self.device), "validation"
        else:
            features_ND, label_N, rows = self.features_ND, self.label_N, "training"
        with torch.no_grad():
            hit_KN = pack.logits(features_ND).argmax(-1) == label_N
        return hit_KN.double().mean(1).cpu().numpy(), rows

    def _write(
        self,
        member: int,
        weights: dict[str, torch.Tensor],
        metrics: dict[str, Any],
        seconds: float,
        pack: list[int],
    ) -> None:
        run = self.work.run
        record = run.write_bytes(f"teachers/{member:04d}/model.safetensors", save(weights))
        summary = {
            "seed": member,
            "metrics": metrics,
            "seconds": seconds,
            "pack": len(pack),
            "device": self.device,
        }
        manifest = Manifest(
            fingerprint=member_fingerprint(self.work.fingerprint, member), files=[record], summary=summary
        )
        run.write_bytes(record_of(member), manifest.to_json())


def _tensor(values: np.ndarray, device: str) -> torch.Tensor:
    """Copy an array out of the read-only object store onto `device`."""
    return torch.from_numpy(np.array(values)).to(device)


def _commit(run: RunDir, count: int, fingerprint: str, trained: int, seconds: float) -> dict[str, Any]:
    files = [record for member in range(count) for record in member_manifest(run, member).files]
    summary = {"members": count, "trained": trained, "training_seconds": seconds}
    run.write_bytes(TEACHERS_MANIFEST, Manifest(fingerprint=fingerprint, files=files, summary=summary).to_json())
    return summary
