"""Stage 2: actors train the members, in packs; each member lands as soon as it is done.

Files: teachers/<NNNN>/model.safetensors and, last, teacher.json: the member's own manifest. A member whose
fingerprint already lies there is not trained again, so that a larger ensemble only adds to a smaller one.
"""

import time
from typing import Any

import ray
import torch

from kd_ray import estimators, journal, knobs, modules, saved, search
from kd_ray.checkpoints import STUDENT, TEACHERS, epochs_kept
from kd_ray.config import Config
from kd_ray.ensemble import finished_members, load_ensemble, problem_of, spec_of
from kd_ray.errors import ConfigError, KdRayError
from kd_ray.estimators import Problem
from kd_ray.groups import Member, members
from kd_ray.mistakes import Mistakes
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.scheduling import DAY_SECONDS, Ask, PackQueue, packs, useful_actors, verdict
from kd_ray.session import Session
from kd_ray.tables import TEACHERS_MANIFEST, Dataset, Rows
from kd_ray.teachers.actor import Work
from kd_ray.teachers.autoscaler import asked_for
from kd_ray.teachers.driver import Driver
from kd_ray.weights import weigh

NEWS_A_SECOND = 200  # of epochs, from all actors together
LARGE_TABLE = 2**28  # bytes that the driver holds of the rows at most


def train(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Train the members that are missing.

    `fingerprint` stands for all that members share. Raises ConfigError, TeacherFailedError, DivergedError,
    ResourceError.
    """
    data, wanted, every = Dataset.open(run), config.teachers, members(config.teachers)
    check(config, problem_of(data, wanted), has_valid=bool(data.files("valid"))).check(ConfigError)
    files = {number: found.files for number, found in finished_members(run, every, fingerprint).items()}
    if replaced := [number for number, records in files.items() if not _is_as_given(every[number], records)]:
        # What these hold is of the ensemble as it was, and their fingerprints are of the config alone.
        for path in (journal.FILE, STUDENT, search.FOLDER):
            run.remove(path)
        files = {number: records for number, records in files.items() if number not in replaced}
    missing = [member for member in every if member.number not in files]
    for member in missing:
        if member.group.kind in ("saved", "columns"):
            files[member.number] = _adopt(member, data, fingerprint)
    failed: dict[int, KdRayError] = {}
    begun = time.perf_counter()
    if missing := [member for member in missing if member.number not in files]:
        trained, failed = _train(config, data, every, missing, session, report, fingerprint)
        files |= trained
        if error := verdict(failed, wanted.allow_failures, len(every)):
            raise error
    seconds = time.perf_counter() - begun if missing else 0.0
    summary = {
        "members": len(files),
        "fingerprints": [member.fingerprint(fingerprint) for member in every],
        "failed": [{"seed": number, "reason": str(failed[number])} for number in sorted(failed)],
        "trained": len(missing) - len(failed),
        "training_seconds": seconds,
        "weighed": [wanted.weights, wanted.clip],
        "weights": None,
    }
    if wanted.weights != "equal":
        summary["weights"] = _weights(config, data, [member for member in every if member.number in files])
    records = [record for number in sorted(files) for record in files[number]]
    manifest = Manifest(fingerprint=fingerprint, files=records, summary=summary)
    run.commit(TEACHERS_MANIFEST, manifest)
    run.remove(TEACHERS)
    return summary


def are_those_of(teachers: knobs.Teachers, finished: Manifest) -> bool:
    """Return whether a finished stage has the very members that are wanted, and weighs them alike.

    Members that failed are not tried again where as many may fail.
    """
    facts = finished.summary
    if len(facts.get("failed", [])) > teachers.allow_failures or facts["weighed"] != [teachers.weights, teachers.clip]:
        return False
    wanted = members(teachers)
    return facts["fingerprints"] == [member.fingerprint(finished.fingerprint) for member in wanted] and all(
        _is_as_given(member, finished.files) for member in wanted
    )


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


def _is_as_given(member: Member, files: list[FileRecord]) -> bool:
    """Return whether the file that a saved member is a copy of was not replaced since. Gone is not replaced."""
    if member.group.kind != "saved":
        return True
    copy = f"{member.folder}/{saved.file_of(member.group)}"
    return not any(saved.is_replaced(member.group, record) for record in files if record.path == copy)


def _adopt(member: Member, data: Dataset, fingerprint: str) -> list[FileRecord]:
    """Copy a member that is trained already into the run; one given by columns lies in the data."""
    files = []
    data.run.remove(member.manifest)
    if member.group.kind == "saved":
        content = saved.content_of(member.group, spec_of(member.group.model, data))
        files = [data.run.write_bytes(f"{member.folder}/{saved.file_of(member.group)}", content)]
    summary = {"seed": member.number, "kind": member.group.kind, "columns": None}
    manifest = Manifest(fingerprint=member.fingerprint(fingerprint), files=files, summary=summary)
    data.run.commit(member.manifest, manifest)
    return files


def _train(
    config: Config,
    data: Dataset,
    every: list[Member],
    missing: list[Member],
    session: Session,
    report: Report,
    fingerprint: str,
) -> tuple[dict[int, list[FileRecord]], dict[int, KdRayError]]:
    """Return the files of the members that were trained, and why the others failed."""
    wanted, ask = config.teachers, _ask(config.teachers, session)
    fixed = None if wanted.resources == "auto" or wanted.resources.actors == "auto" else wanted.resources.actors
    alike = _alike(missing, epochs_kept(data.run, TEACHERS), fingerprint)
    useful = min(fixed or len(missing), useful_actors([len(numbers) for numbers in alike]))
    with asked_for(ask, useful, session) as grows:
        slots = useful if grows else session.slots(ask, stage="teachers", at_least=fixed or 1)
        actors = min(fixed or slots, len(every))
        pack_size = None if wanted.pack_size == "auto" else wanted.pack_size
        waiting = [pack for numbers in alike for pack in packs(numbers, actors, pack_size)]
        n_rows = int(data.schema["rows"]["train"])
        work = Work(
            data=data,
            teachers=wanted,
            members=every,
            seed=config.seed,
            fingerprint=fingerprint,
            threads=max(1, int(ask.cpus)),
            gpus=ask.gpus,
            news_seconds=max(0.1, actors / NEWS_A_SECOND),
        )
        driver = Driver(
            queue=PackQueue.of(waiting, wanted.allow_failures),
            work=work,
            table=_table(data, n_rows, ask),
            rows=n_rows,
            ask=ask,
            most=fixed,
            session=session,
            report=report,
        )
        driver.run()
    return driver.landed, driver.queue.failed


def _table(data: Dataset, n_rows: int, ask: Ask) -> Any:
    """Put the training and validation rows into the object store once; a worker reads a table that is large."""

    def read() -> tuple[Rows, Rows]:
        return data.rows("train"), data.rows("valid")

    if 4 * n_rows * data.n_features < LARGE_TABLE:
        return ray.put(read())
    return ray.remote(num_cpus=ask.cpus)(read).remote()


def _alike(missing: list[Member], kept: dict[str, int], fingerprint: str) -> list[list[int]]:
    """Networks of one group that were kept after as many epochs can share a pack; every other member is alone."""
    alike: dict[tuple[str, int], list[int]] = {}
    for member in missing:
        model = member.group.model.model_dump_json() if member.group.kind == "mlp" else f"alone {member.number}"
        key = model, kept.get(member.fingerprint(fingerprint), 0)
        alike.setdefault(key, []).append(member.number)
    return list(alike.values())


def _ask(config: knobs.Teachers, session: Session) -> Ask:
    """Return what an actor asks for."""
    given = config.resources
    if given == "auto":
        return Ask(cpus=1.0, gpus=1.0 if session.total("GPU") >= 1 else 0.0)
    return Ask(cpus=given.cpus, gpus=given.gpus)


def _weights(config: Config, data: Dataset, every: list[Member]) -> list[float]:
    """Have a worker weigh the members by what they say of the validation rows: the driver holds none of them."""

    def weights() -> list[float]:
        valid = data.rows("valid", config.teachers.words)
        with torch.no_grad():
            ensemble = load_ensemble(data.run, config.teachers, config.seed, every=every)
            logits_MNC = ensemble.logits(torch.from_numpy(valid.features_ND), valid.word_NX)
        how, label_N = config.teachers.weights, valid.label_N
        return [float(w) for w in weigh(how, logits_MNC.numpy(), label_N, is_regression=data.is_regression)]

    try:
        return ray.get(ray.remote(num_cpus=1)(weights).remote(), timeout=DAY_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, KdRayError) else error) from error
