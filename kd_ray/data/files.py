"""The files of a source: a file, a folder, a glob or a URI that pyarrow.fs opens."""

import fnmatch
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from kd_ray import credentials
from kd_ray.errors import DataError

ENDINGS = {"csv": (".csv", ".csv.gz", ".csv.bz2", ".csv.zst"), "parquet": (".parquet", ".pq")}


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of one format in order of their paths, which are within `filesystem`."""

    filesystem: pafs.FileSystem
    paths: list[str]
    format: str
    sizes: list[int]
    changed: list[int]

    def state(self) -> list[Any]:
        """What changes where a file is written anew: paths, bytes, time of the last change."""
        return [self.paths, self.sizes, self.changed]


def find(where: str, key: str = "data.source") -> Files:
    """Return the files that `where` names. Raises DataError with a line for each that cannot be a table."""
    filesystem, path = _open(where, key)
    found = _listed(filesystem, path)
    if not found:
        raise DataError(f"{key}: must name a file, folder or glob that exists; there is nothing at {where!r}")
    strange = [info.path for info in found if info.type != pafs.FileType.File]
    if strange:
        raise DataError(f"{strange[0]}: must be a regular file; it is a pipe, a device or the like")
    formats = {info.path: format_of(info.path) for info in found}
    if len(found) > 1:
        found = [info for info in found if formats[info.path]]
    kinds = sorted({kind for info in found if (kind := formats[info.path])})
    if not kinds:
        raise DataError(
            f"{key}: must name files that end in {', '.join(e for es in ENDINGS.values() for e in es)}; got {where!r}"
        )
    if len(kinds) > 1:
        raise DataError(f"{key}: must name files of one format; {where!r} has both CSV and Parquet: use a glob")
    empty = [f"{info.path}: must hold a table; the file is empty (0 bytes)" for info in found if not info.size]
    if empty:
        raise DataError("\n".join(empty))
    return Files(
        filesystem=filesystem,
        paths=[info.path for info in found],
        format=kinds[0],
        sizes=[info.size for info in found],
        changed=[info.mtime_ns or 0 for info in found],
    )


def format_of(path: str) -> str | None:
    return next((kind for kind, endings in ENDINGS.items() if path.lower().endswith(endings)), None)


def _open(where: str, key: str) -> tuple[pafs.FileSystem, str]:
    credentials.check(where, key)
    if "://" not in where:
        return pafs.LocalFileSystem(), str(Path(where).expanduser().absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(where)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{key}: must be a path or a URI that pyarrow.fs opens; got {where!r}: {error}") from None
    return filesystem, path


def _listed(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    """All that is at `path`, in order of paths: folders are opened, hidden files left out."""
    try:
        if "*" in path or "[" in path:
            base = posixpath.dirname(path[: min(path.find(c) for c in "*[" if c in path)])
            listing = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
            infos = [info for info in listing if info.is_file and _matches(info.path, path)]
        else:
            info = filesystem.get_file_info(path)
            if info.type != pafs.FileType.Directory:
                return [] if info.type == pafs.FileType.NotFound else [info]
            listing = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
            infos = [info for info in listing if info.type != pafs.FileType.Directory]
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {error.strerror or str(error).splitlines()[0]}") from None
    return sorted((i for i in infos if not i.base_name.startswith((".", "_"))), key=lambda info: info.path)


def _matches(path: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatch.fnmatchcase(path, pattern.replace("**/", "*"))
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
