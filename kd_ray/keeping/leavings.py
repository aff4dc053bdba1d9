"""What killed attempts left in a run: files written aside, Ray's own scratch, and files that no manifest names.

Only folders that are kd-ray's are looked through; what else a user puts into a run stays, and so does what a stage
under way goes on from. Where a manifest cannot be read, nobody knows what it names, and only what is written aside and
Ray's scratch is a leaving.
"""

from dataclasses import dataclass

from kd_ray import commits
from kd_ray.commits import ASIDE, FileRecord, is_manifest
from kd_ray.errors import ManifestError
from kd_ray.rundir import RunDir
from kd_ray.tables import SOFT_TARGETS_MANIFEST, STUDENT_MANIFEST, TEACHERS_MANIFEST

STAGES = (
    "data",
    "teachers",
    "soft_targets",
    "student",
    "baseline",
    "augmented_control",
    "export",
    "tune/packs",
    "tensorboard",
    "checkpoints",
)
SCRATCH = ("ray_train", "ray_tune")
UNDER_WAY = {
    "checkpoints/teachers": TEACHERS_MANIFEST,
    "checkpoints/student": STUDENT_MANIFEST,
    "soft_targets": SOFT_TARGETS_MANIFEST,
}
"""Folders whose files a stage goes on from until its manifest is there."""
BESIDE = ("export/latency.json",)
"""In a stage's folder, and written whenever someone asks for it."""


@dataclass(frozen=True)
class Leaving:
    path: str
    bytes: int


def leavings(run: RunDir) -> list[Leaving]:
    """Return the files that `kd-ray run` will never read, in order of their paths. Raises StorageError."""
    sizes = run.sizes("")
    manifests = [path for path in sizes if is_manifest(path)]
    try:
        named = {*BESIDE, *manifests, *(record.path for path in manifests for record in _files(run, path))}
    except ManifestError:
        named = set(sizes)

    def is_left(path: str) -> bool:
        if ASIDE.search(path) or path.startswith(_under(SCRATCH)):
            return True
        if any(path.startswith(f"{folder}/") and manifest not in sizes for folder, manifest in UNDER_WAY.items()):
            return False
        return path.startswith(_under(STAGES)) and path not in named

    return [Leaving(path, size) for path, size in sizes.items() if is_left(path)]


def sweep(run: RunDir, found: list[Leaving]) -> None:
    """Remove leavings, and folders of ours that are empty then. Raises StorageError."""
    for path in (*SCRATCH, *(one.path for one in found)):
        run.remove(path)
    if run.is_local:
        for folder in STAGES:
            commits.remove_empty(run.path(folder))


def _files(run: RunDir, path: str) -> list[FileRecord]:
    manifest = run.manifest(path)
    return manifest.files if manifest else []


def _under(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/" for folder in folders)
