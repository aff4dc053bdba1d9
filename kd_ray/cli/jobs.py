"""Jobs: what runs on a cluster, each a command of `kd-ray` that joins the cluster that the job runs on."""

import os
import sys
from pathlib import Path

from kd_ray import __version__
from kd_ray.config import Config
from kd_ray.errors import ConfigError, ResourceError

INSIDE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of what `ray job submit` runs
SUBMITTED_BY = "KD_RAY_SUBMITTED_BY"
JOBS = {
    "run_pipeline": ["run"],
    "train_teachers": ["run", "--until", "teachers"],
    "make_soft_targets": ["run", "--until", "soft_targets"],
    "distill_student": ["run", "--until", "student"],
    "tune_student": ["tune"],
    "evaluate_export": ["run"],  # the last stages do what they need first, and so all that is missing
}


def run(name: str) -> None:
    """Do job `name` with the command line's arguments; never returns."""
    from kd_ray.cli import main

    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.argv[1:1] = JOBS[name]
    main()


def check(config: Config) -> None:
    """Raise ConfigError or ResourceError where a job's results would be lost, or it is another kd_ray's."""
    wanted = os.environ.get(SUBMITTED_BY, __version__)
    if wanted != __version__:
        raise ResourceError(
            f"kd_ray: must be {wanted} on the cluster, as where the job was submitted; it is {__version__}: install "
            f"{wanted} there, or send it along: kd-ray submit --package"
        )
    if "://" not in config.storage and not Path(config.storage).expanduser().is_absolute():
        raise ConfigError(
            f"storage: must be a URI or an absolute path for a job, one that every node sees; got {config.storage!r}: "
            "--storage gives another"
        )
