"""Stage 2: actors train the members, in packs; each member lands as soon as it is done.

Files: teachers/<NNNN>/model.safetensors and, last, teacher.json: the member's own manifest. A member whose
fingerprint already lies there is not trained again, so that a larger ensemble only adds to a smaller one.
"""

import time
from typing import Any

import numpy as np
import ray
import torch

from kd_ray import estimators, knobs, modules, saved
from kd_ray.config import Config
from kd_ray.ensemble import load_ensemble, member_manifest, problem_of, spec_of
from kd_ray.errors import ConfigError, KdRayError, TeacherFailedError
from kd_ray.estimators import Problem
from kd_ray.groups import Member, members
from kd_ray.mistakes import Mistakes
from kd_ray.progress import Report
from kd_ray.rundir import Manifest, RunDir
from kd_ray.scheduling import Ask, PackQueue, packs
from kd_ray.session import Session, killed_after
from kd_ray.tables import TEACHERS_MANIFEST, Dataset
from kd_ray.teachers.actor import TeacherActor, Work
from kd_ray.weights import weigh


def train(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train the members that are missing.

    `fingerprint` stands for all that members share. Raises ConfigError, TeacherFailedError, DivergedError,
    ResourceError.
    """
    data, wanted, every = Dataset.open(run), config.teachers, members(config.teachers)
    check(config, problem_of(data, wanted), has_valid=bool(data.files("valid"))).check(ConfigError)
    missing = [m for m in every if not run.finished(m.manifest, m.fingerprint(fingerprint))]
    there = [m for m in missing if m.group.kind in ("saved", "columns")]
    for member in there:
        _adopt(member, data, fingerprint)
    missing = [m for m in missing if m not in there]
    seconds = 0.0
    if missing:
        ask, actors = _placement(wanted, session, len(every))
        threads = max(1, int(ask.cpus))
        work = Work(
            data=data, teachers=wanted, members=every, seed=config.seed, fingerprint=fingerprint, threads=threads
        )
        queue = PackQueue.of(_cut(missing, actors, None if wanted.pack_size == "auto" else wanted.pack_size))
        table = ray.put((data.rows("train"), data.rows("valid")))
        begun = time.perf_counter()
        _train_all(queue, work, table, ask, actors, report)
        seconds = time.perf_counter() - begun
    return _commit(config, data, fingerprint, len(missing), seconds)


def are_those_of(teachers: knobs.Teachers, finished: Manifest) -> bool:
    """Return whether a finished stage has the very members that are wanted, and weighs them alike."""
    wanted = [member.fingerprint(finished.fingerprint) for member in members(teachers)]
    facts = finished.summary
    return bool(facts["fingerprints"] == wanted and facts["weighed"] == [teachers.weights, teachers.clip])


def check(config: Config, problem: Problem | None, *, has_valid: bool) -> Mistakes:
    """Return the mistakes for which members could not be made or weighed, or would have no word.

    Without a `problem`, of a table that is not understood, only what does not depend on it is looked at.
    """
    teachers, mistakes = config.teachers, Mistakes()
    known = problem or Problem(
        n_outputs=1,
        is_regression=config.data.task != "classification",
        levels_D=[],
        threads=1,
        clip=teachers.clip,
    )
    for group in teachers.groups:
        with mistakes.gathering():
            if group.kind in estimators.KINDS:
                estimators.check(group, known)
            elif group.kind == "torch" and problem:
                modules.check(group, len(problem.levels_D), problem.n_outputs)
    for member in members(teachers):
        if member.group.kind == "saved" and problem:
            with mistakes.gathering():
                saved.content_of(member.group, spec_of(member.group.model, problem))
    if teachers.weights != "equal" and not has_valid:
        mistakes.add(f"teachers.weights: {teachers.weights} needs validation rows; set data.split.valid")
    if all(member.group.kind == "columns" for member in members(teachers)) and (
        config.soft_targets.transfer.kind != "none"
    ):
        mistakes.add(
            "teachers.groups: members given as columns say nothing of synthesized rows: set soft_targets.transfer.kind "
            "to none, or add members of another kind"
        )
    return mistakes


def _adopt(member: Member, data: Dataset, fingerprint: str) -> None:
    """Copy a member that is trained already into the run; one given by columns lies in the data."""
    files = []
    data.run.remove(member.manifest)
    if member.group.kind == "saved":
        content = saved.content_of(member.group, spec_of(member.group.model, data))
        files = [data.run.write_bytes(f"{member.folder}/{saved.file_of(member.group)}", content)]
    summary = {"seed": member.number, "kind": member.group.kind, "columns": None}
    manifest = Manifest(fingerprint=member.fingerprint(fingerprint), files=files, summary=summary)
    data.run.commit(member.manifest, manifest)


def _cut(missing: list[Member], actors: int, pack_size: int | None) -> list[list[int]]:
    """Networks of one group in packs, every other member alone."""
    networks: dict[str, list[int]] = {}
    for member in missing:
        key = member.group.model.model_dump_json() if member.group.kind == "mlp" else f"alone {member.number}"
        networks.setdefault(key, []).append(member.number)
    return [pack for numbers in networks.values() for pack in packs(numbers, actors, pack_size)]


def _placement(config: knobs.Teachers, session: Session, count: int) -> tuple[Ask, int]:
    """Return what an actor asks for and how many there may be at once."""
    given = config.resources
    if given == "auto":
        given = knobs.Resources(cpus=1.0, gpus=1.0 if session.total("GPU") >= 1 else 0.0)
    ask = Ask(cpus=given.cpus, gpus=given.gpus)
    wanted = 1 if given.actors == "auto" else given.actors
    slots = session.slots(ask, stage="teachers", at_least=wanted)
    return ask, min(slots if given.actors == "auto" else wanted, count)


def _train_all(queue: PackQueue, work: Work, table: Any, ask: Ask, actors: int, report: Report) -> None:
    """Keep every actor busy until all packs are done, replacing the dead ones."""
    remote = ray.remote(num_cpus=ask.cpus, num_gpus=ask.gpus, max_restarts=0)(TeacherActor)
    count = len(work.members)
    before = count - sum(len(pack) for pack in queue.waiting)
    share: dict[Any, float] = {}
    scores: list[float] = []
    scored = ("", "")
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
                raise _blame(error, [work.members[number] for number in pack]) from error
            if "member" in news:
                queue.finished(news["member"])
                scores.append(news["score"])
                scored = (news["metric"], news["rows"])
            share[stream] = news["progress"] * len(pack)
            done = before + len(queue.done)
            mean = f", mean {scored[0]} {np.mean(scores):.3f} on {scored[1]} rows" if scores else ""
            under_way = sum(share.values()) + before
            report(max(done, under_way), count, f"{done} of {count} trained{mean}")


def _give_up_on(members: list[int]) -> None:
    if members:
        raise TeacherFailedError(
            f"teacher {members[0]}: its actor died three times while training it; "
            "it may need more memory than one actor has: lower teachers.pack_size"
        )


def _blame(error: Exception, pack: list[Member]) -> Exception:
    cause = getattr(error, "cause", None)
    if isinstance(cause, KdRayError):
        return cause
    names = ", ".join(member.name for member in pack)
    return TeacherFailedError(f"{names}: training failed: {cause or error}")


def _commit(config: Config, data: Dataset, fingerprint: str, trained: int, seconds: float) -> dict[str, Any]:
    every = members(config.teachers)
    summary: dict[str, Any] = {
        "members": len(every),
        "fingerprints": [member.fingerprint(fingerprint) for member in every],
        "trained": trained,
        "training_seconds": seconds,
        "weighed": [config.teachers.weights, config.teachers.clip],
        "weights": None,
    }
    if config.teachers.weights != "equal":
        valid = data.rows("valid", config.teachers.words)
        with torch.no_grad():
            ensemble = load_ensemble(data.run, config.teachers, config.seed)
            logits_MNC = ensemble.logits(torch.from_numpy(valid.features_ND), valid.word_NX)
        weight_M = weigh(config.teachers.weights, logits_MNC.numpy(), valid.label_N, is_regression=data.is_regression)
        summary["weights"] = weight_M.tolist()
    files = [record for member in every for record in member_manifest(data.run, member).files]
    manifest = Manifest(fingerprint=fingerprint, files=files, summary=summary)
    data.run.commit(TEACHERS_MANIFEST, manifest)
    return summary
