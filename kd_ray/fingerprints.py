"""What each stage is a function of: which finished ones may be kept, and which are made again."""

from kd_ray import data, groups
from kd_ray.config import Config
from kd_ray.rundir import fingerprint


def fingerprints(config: Config) -> dict[str, str]:
    """Return what each stage is a function of: its config, its inputs' fingerprints, the format of its files.

    Where and how fast something is computed (resources, packs, workers) does not count.
    """
    made = fingerprint("data", config.data.model_dump(), *data.depends_on(config))
    shared = fingerprint("teachers", config.seed, config.teachers.model_dump(exclude=groups.OWN), made)
    trained = [member.fingerprint(shared) for member in groups.members(config.teachers)]
    said_by = [trained, config.teachers.weights, config.teachers.clip]
    transfer = config.soft_targets.model_dump(exclude={"deadline_seconds"})
    labelled = fingerprint("soft_targets", config.seed, transfer, *said_by)
    distilled = fingerprint(
        "student", config.seed, config.student.model_dump(exclude={"workers", "checkpoint_seconds"}), labelled
    )
    measured = fingerprint("evaluation", distilled)
    exported = fingerprint("export", config.export.model_dump(), measured)
    return {
        "data": made,
        "teachers": shared,
        "soft_targets": labelled,
        "student": distilled,
        "evaluation": measured,
        "export": exported,
        "report": fingerprint("report", exported),
    }
