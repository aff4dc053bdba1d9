"""What travels with a job: its config, the user's code that the config names, kd_ray where it is wanted. Nothing else.

Tables and weights stay where they are, and results never travel: a job's working directory is deleted with it.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import kd_ray
from kd_ray.config import Config
from kd_ray.data.sources import is_file
from kd_ray.errors import ConfigError
from kd_ray.mistakes import Mistakes

CONFIG = "config.yaml"
LIMIT_BYTES = 64 * 2**20
LIMIT_FILES = 5000
_DAY = (1980, 1, 1, 0, 0, 0)  # of every file: the same content is the same archive, which the cluster has already


def is_checkout() -> bool:
    """Whether this kd_ray lies beside the project's own files."""
    return (_package().parent / "pyproject.toml").is_file()


def check_named_files(config: Config) -> None:
    """Refuse tables and weights by paths that mean something here alone. Raises ConfigError with a line for each."""
    named = {"data.unlabelled": config.data.unlabelled}
    if is_file(config.data.source) and not config.data.source.startswith("sklearn:"):
        named["data.source"] = config.data.source
    for number, group in enumerate(config.teachers.groups):
        named |= {f"teachers.groups.{number}.paths.{k}": path for k, path in enumerate(group.paths)}
    mistakes = Mistakes()
    for key, path in sorted((key, path) for key, path in named.items() if path):
        if "://" not in path and not Path(path).is_absolute():
            mistakes.add(
                f"{key}: must be a URI or an absolute path for a job, one that every node sees; got {path!r}: "
                "data does not travel with the job"
            )
    mistakes.check(ConfigError)


def pack(archive: Path, config: Config, folder: Path, *, include: list[Path], package: bool) -> list[str]:
    """Write the archive and return the names in it. Raises ConfigError where it would be too large.

    `folder` is where the config's import paths are looked for; where one leads there, every Python file below goes
    along. `include` are files and folders in it that go along as well.
    """
    files = {path.relative_to(folder).as_posix(): path for path in _code(config, folder)}
    for path in include:
        files |= {each.relative_to(folder).as_posix(): each for each in _included(path, folder)}
    if package:
        inside = (path for path in _walk(_package()) if path.suffix != ".pyc")
        files |= {path.relative_to(_package().parent).as_posix(): path for path in inside}
    files.pop(CONFIG, None)
    size = sum(path.stat().st_size for path in files.values())
    if size > LIMIT_BYTES or len(files) > LIMIT_FILES:
        raise ConfigError(
            f"{folder}: at most {LIMIT_FILES:,} files of {LIMIT_BYTES / 2**20:g} MiB in all travel with a job; these "
            f"are {len(files):,} of {size / 2**20:.1f} MiB: submit from a folder that holds the config's code alone"
        )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        _add(out, CONFIG, config.to_yaml().encode())
        for name in sorted(files):
            _add(out, name, files[name].read_bytes())
    return [CONFIG, *sorted(files)]


def _add(out: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DAY)
    entry.external_attr = 0o644 << 16
    out.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _package() -> Path:
    return Path(kd_ray.__file__).parent


def _code(config: Config, folder: Path) -> list[Path]:
    """The Python files below `folder`, where the config names one of them by import path."""
    named = [group.estimator for group in config.teachers.groups if group.estimator]
    if not is_file(config.data.source) and ":" in config.data.source:
        named.append(config.data.source)
    modules = {path.partition(":")[0].partition(".")[0] for path in named}
    if not any((folder / module).is_dir() or (folder / f"{module}.py").is_file() for module in modules):
        return []
    return [path for path in _walk(folder) if path.suffix == ".py"]


def _included(path: Path, folder: Path) -> list[Path]:
    whole = (folder / path).resolve()
    if not whole.exists() or not whole.is_relative_to(folder):
        raise ConfigError(f"--include: must be a file or folder in {folder}; got {str(path)!r}")
    return [whole] if whole.is_file() else list(_walk(whole))


def _walk(folder: Path) -> Iterator[Path]:
    """Files below `folder`: nothing hidden, no virtual environment, no cache, no link out. Ends soon where too many."""
    count = 0
    for at, folders, names in os.walk(folder):
        here = Path(at)
        folders[:] = sorted(name for name in folders if not _is_left_out(here / name))
        for name in sorted(names):
            path = here / name
            if name.startswith(".") or path.is_symlink():
                continue
            count += 1
            if count > 20 * LIMIT_FILES:
                raise ConfigError(
                    f"{folder}: has too many files to look for the config's code in; submit from a folder of its own"
                )
            yield path


def _is_left_out(folder: Path) -> bool:
    is_run = (folder / "run.json").exists() and (folder / CONFIG).exists()
    is_environment = (folder / "pyvenv.cfg").exists()
    return (
        folder.name.startswith(".") or folder.name == "__pycache__" or is_run or is_environment or folder.is_symlink()
    )
