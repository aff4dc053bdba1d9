"""A run looked after: where it stands, whether its files are whole, and what killed attempts left in it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kd_ray import lock, teachers, verifying
from kd_ray.commits import Manifest, fingerprint
from kd_ray.config import Config
from kd_ray.errors import KdRayError, ManifestError, RunBusyError
from kd_ray.fingerprints import fingerprints
from kd_ray.finished import CONFIG_MANIFEST, read_config
from kd_ray.groups import members
from kd_ray.keeping.leavings import Leaving, leavings, sweep
from kd_ray.keeping.reasons import attributed, changes
from kd_ray.pipeline import RECORD, STAGES, Stage
from kd_ray.progress import Report
from kd_ray.rundir import RunDir
from kd_ray.verifying import Damage

__all__ = ["Leaving", "clean", "functions_of", "leavings", "status", "verify"]


@dataclass(frozen=True)
class State:
    """A stage: finished, missing, or there but to be run again; why it is not finished."""

    stage: str
    state: str
    why: list[str]


def status(run: RunDir, config: Config | None = None) -> dict[str, Any]:
    """Return as JSON what `kd-ray run` with `config`, the run's own unless given, would find there."""
    own = _or_none(lambda: read_config(run))
    wanted = config or own
    if wanted is None:
        read_config(run)
    assert wanted is not None
    owner = lock.owner_of(run)
    left = [] if owner else leavings(run)
    return {
        "run": str(run),
        "stages": [asdict(state) for state in _states(run, wanted, own)],
        "writer": None if owner is None else {"owner": str(owner), "silent_seconds": round(lock.silence(run), 1)},
        "leavings": [asdict(one) for one in left],
    }


def _states(run: RunDir, config: Config, own: Config | None) -> list[State]:
    wanted = fingerprints(config)
    reasons = attributed(changes(own, config), own, config, functions_of) if own else {}
    recorded = _or_none(lambda: run.read_json(RECORD)["stages"]) or {}
    found: list[State] = []
    for stage in STAGES:
        manifest, why = _look(run, stage)
        if manifest is not None:
            if not _is_of(stage, manifest, wanted[stage.name], config):
                why = reasons.get(stage.name) or [_unknown_change(stage, found)]
            elif stage.name not in recorded:
                why = ["run.json does not record it"]
        before = [state.stage for state in found if state.state != "finished"]
        if not why and before:
            why = [f"it is made from {before[-1].replace('_', ' ')}"]
        is_missing = manifest is None and not run.exists(stage.manifest)
        found.append(State(stage.name, "missing" if is_missing else "again" if why else "finished", why))
    return found


def _look(run: RunDir, stage: Stage) -> tuple[Manifest | None, list[str]]:
    """Return a stage's manifest and what is wrong with its files, as far as their sizes tell."""
    try:
        manifest = run.manifest(stage.manifest)
    except KdRayError as error:
        return None, [str(error)]
    wrong = []
    for record in manifest.files if manifest else []:
        try:
            run.check_size(record, stage.manifest)
        except ManifestError as error:
            wrong.append(str(error))
    return manifest, wrong


def _is_of(stage: Stage, manifest: Manifest, wanted: str, config: Config) -> bool:
    if manifest.fingerprint != wanted:
        return False
    return stage.name != "teachers" or teachers.are_those_of(config.teachers, manifest)


def _unknown_change(stage: Stage, before: list[State]) -> str:
    if any(state.state != "finished" for state in before):
        return f"it is made from {before[-1].stage.replace('_', ' ')}"
    what = "the files of data.source have changed since, or it" if stage.name == "data" else "it"
    return f"{what} was made with another config, or by another version of kd-ray"


def functions_of(config: Config) -> dict[str, str]:
    """What each stage is a function of; the teachers' stage of its very members, and how they are weighed, too."""
    prints, wanted = fingerprints(config), config.teachers
    made = [member.fingerprint(prints["teachers"]) for member in members(wanted)]
    return {**prints, "teachers": fingerprint(prints["teachers"], made, wanted.weights, wanted.clip)}


def verify(run: RunDir, report: Report = lambda done, total, note: None, *, forget: bool = False) -> dict[str, Any]:
    """Return as JSON how many manifests there are, and a line for each thing that is wrong with what they name.

    `forget` removes the manifests of what is damaged, so that the next run makes it anew. Raises RunBusyError then,
    where the run is written.
    """
    with run.writing() if forget else contextlib.nullcontext(run) as here:
        paths = verifying.manifests(here)
        found = [*verifying.damages(here, paths, report), *_sealed_damages(here, paths)]
        forgotten = sorted({damage.manifest for damage in found}) if forget else []
        for path in forgotten:
            here.remove(path)
    wrong = list(dict.fromkeys(damage.says for damage in found))
    return {"run": str(run), "manifests": len(paths), "wrong": wrong, "forgotten": forgotten}


def _sealed_damages(run: RunDir, manifests: list[str]) -> Iterator[Damage]:
    """Yield what is wrong with JSON that no manifest names, and manifests that should be there."""
    recorded: Any = {}
    for path in filter(run.exists, SEALED):
        try:
            value = run.read_json(path)
            recorded = value["stages"] if path == RECORD else recorded
        except KdRayError as error:
            yield Damage(path, path, str(error))
        except (KeyError, TypeError):
            yield Damage(path, path, f"{run}/{path}: is not what kd-ray writes; delete it and run again")
    wanted = [CONFIG_MANIFEST, *(stage.manifest for stage in STAGES if stage.name in recorded)]
    for path in wanted:
        if path not in manifests:
            yield Damage(path, path, f"{run}/{path}: is missing, though what it stands for was finished")


SEALED = (RECORD, "export/latency.json", "tune/search.json", "tune/leaderboard.json")
"""JSON that no manifest names; each holds a sha256 of itself."""


def clean(run: RunDir, *, dry_run: bool = False) -> list[Leaving]:
    """Remove what killed attempts left, or only look, and return it. Raises RunBusyError where the run is written."""
    if dry_run:
        if owner := lock.owner_of(run):
            raise RunBusyError(f"{run}: is being written by {owner}; wait for it")
        return leavings(run)
    with run.writing() as here:
        found = leavings(here)
        sweep(here, found)
    return found


def _or_none(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (KdRayError, KeyError, TypeError):
        return None
