"""Finished runs, opened again: by their path, with the config that they were made with, and with nobody's code."""

import posixpath
from pathlib import Path

from kd_ray import yaml_io
from kd_ray.config import Config
from kd_ray.errors import ConfigError, KdRayError, ManifestError
from kd_ray.rundir import RunDir

TRUST = "--trust"


def open_run(path: str, *manifests: str) -> tuple[RunDir, Config]:
    """Return a run and its config. Raises ConfigError where there is none at `path`, ManifestError where it lacks one
    of `manifests`, one of them is damaged or of another format version, or a file is not there in full size.
    """
    here = path.rstrip("/")
    if "://" not in here:
        here = str(Path(here).expanduser().absolute())
    try:
        run = RunDir.at(posixpath.dirname(here), posixpath.basename(here))
        is_run = run.exists("config.yaml")
    except KdRayError as error:
        raise ConfigError(f"{path}: is no run directory: {error}") from None
    if not is_run:
        raise ConfigError(f"{path}: is no run directory: there is no config.yaml; kd-ray run makes one")
    config = Config.of(yaml_io.parse(run.read_bytes("config.yaml").decode()), source=f"{path}/config.yaml")
    for manifest in manifests:
        check_whole(run, manifest)
    return run, config.model_copy(update={"name": run.name, "storage": run.storage})


def check_whole(run: RunDir, manifest: str) -> None:
    """Raise ManifestError where a stage is not finished, or a file of it is not there in full size."""
    found = run.manifest(manifest)
    stage = manifest.split("/")[0].split(".")[0].replace("_", " ")
    if found is None:
        raise ManifestError(f"{run}: its {stage} is not finished: kd-ray run takes it up where it stopped")
    for record in found.files:
        if run.size(record.path) != record.bytes:
            raise ManifestError(
                f"{run}/{record.path}: must have {record.bytes:,} bytes as {manifest} says; it has "
                f"{run.size(record.path) or 0:,}: it was cut off or changed; kd-ray run makes it anew"
            )


def check_trusted(config: Config, *, trust: bool) -> None:
    """Raise ConfigError where the ensemble needs code that the run names by import path, unless it is trusted."""
    named = sorted({str(group.estimator) for group in config.teachers.groups if group.kind == "torch"})
    if named and not trust:
        raise ConfigError(
            f"the run's ensemble needs the code {', '.join(named)}, which would be imported from your Python path: say "
            f"{TRUST} if you trust it"
        )
