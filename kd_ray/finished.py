"""Finished runs, opened again: by their path, with the config that they were made with, and with nobody's code."""

import posixpath
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_ray import yaml_io
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError, ManifestError
from kd_ray.rundir import Manifest, RunDir, fingerprint

TRUST = "--trust"
CONFIG, CONFIG_MANIFEST = "config.yaml", "config.manifest.json"


def write_config(run: RunDir, config: Config) -> None:
    """Write a run's config.yaml, unless it is there already."""
    text = config.to_yaml()
    wanted = fingerprint("config", text)
    if run.finished(CONFIG_MANIFEST, wanted):
        return
    run.remove(CONFIG_MANIFEST)
    record = run.write_bytes(CONFIG, text.encode())
    run.commit(CONFIG_MANIFEST, Manifest(fingerprint=wanted, files=[record], summary={}))


def read_config(run: RunDir) -> Config:
    """Return what the run was last asked for. Raises ManifestError where config.yaml is not what was written."""
    manifest = run.manifest(CONFIG_MANIFEST)
    if manifest is None:
        raise ManifestError(f"{run}: its {CONFIG} was not finished, or is of an older version: run it again")
    text = run.read_checked(manifest.file(CONFIG)).decode()
    return Config.of(yaml_io.parse(text), source=f"{run}/{CONFIG}")


def open_run(path: str, *manifests: str) -> tuple[RunDir, Config]:
    """Return a run and its config. Raises ConfigError where there is none at `path`, ManifestError where it lacks one
    of `manifests`, one of them is damaged or of another format version, or a file is not there in full size.
    """
    run = find_run(path)
    config = read_config(run)
    for manifest in manifests:
        check_whole(run, manifest)
    return run, config.model_copy(update={"name": run.name, "storage": run.storage})


def find_run(path: str) -> RunDir:
    """Return a run, whatever state it is in. Raises ConfigError where there is none at `path`."""
    here = path.rstrip("/")
    if "://" not in here:
        here = str(Path(here).expanduser().absolute())
    try:
        run = RunDir.at(posixpath.dirname(here), posixpath.basename(here))
        is_run = run.exists(CONFIG)
    except KdRayError as error:
        raise ConfigError(f"{path}: is no run directory: {error}") from None
    if not is_run:
        raise ConfigError(f"{path}: is no run directory: there is no {CONFIG}; kd-ray run makes one")
    return run


def check_whole(run: RunDir, manifest: str) -> None:
    """Raise ManifestError where a stage is not finished, or a file of it is not there in full size."""
    found = run.manifest(manifest)
    stage = manifest.split("/")[0].split(".")[0].replace("_", " ")
    if found is None:
        raise ManifestError(f"{run}: its {stage} is not finished: kd-ray run takes it up where it stopped")
    for record in found.files:
        run.check_size(record, manifest)


def check_trusted(config: Config, *, trust: bool) -> None:
    """Raise ConfigError where the ensemble needs code that the run names by import path, unless it is trusted."""
    named = sorted({str(group.estimator) for group in config.teachers.groups if group.kind == "torch"})
    if named and not trust:
        raise ConfigError(
            f"the run's ensemble needs the code {', '.join(named)}, which would be imported from your Python path: say "
            f"{TRUST} if you trust it"
        )


@contextmanager
def reading(run: str) -> Iterator[None]:
    """Raise ManifestError for what strange values lead to inside, where a run that came from elsewhere is read.

    Sums and sizes only show that files are as somebody wrote them, not that it was kd-ray.
    """
    try:
        yield
    except KdRayError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        why = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise ManifestError(
            f"{run}: cannot be read: {type(error).__name__}: {why} ({posixpath.basename(at.filename)}:{at.lineno}); it "
            "holds what kd-ray does not write, or this is a fault of kd-ray's own; kd-ray verify says whether it was "
            "damaged"
        ) from error
