"""The run directory: one folder of results under a storage that pyarrow.fs understands.

How a file appears and a stage becomes finished is written down in commits.py, who may write in lock.py.
"""

import hashlib
import os
import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pyarrow.fs as pafs

from kd_ray import commits, credentials, lock
from kd_ray.commits import FORMAT, MAX_JSON_BYTES, FileRecord, Manifest, fingerprint, to_json
from kd_ray.config import check_name
from kd_ray.errors import ManifestError, RunBusyError, StorageError
from kd_ray.objects import Objects

__all__ = ["FORMAT", "FileRecord", "Manifest", "RunDir", "fingerprint", "to_json"]
LARGE_BYTES = 1 << 30


@dataclass(frozen=True)
class RunDir:
    """`<storage>/<name>`; small enough to travel to every worker. `storage` is absolute or a URI."""

    storage: str
    name: str
    epoch: int | None = field(default=None, compare=False)
    """Of the lock that this process, or the one that sent it here, holds; see `writing`."""

    @classmethod
    def at(cls, storage: str, name: str) -> "RunDir":
        """Return the directory of run `name`.

        Raises ConfigError where the name could leave the storage, or the storage's URI holds a secret.
        """
        check_name(name)
        credentials.check(storage, "storage")
        if "://" not in storage:
            storage = str(Path(storage).expanduser().absolute())
        return cls(storage.rstrip("/") or "/", name)

    @property
    def is_local(self) -> bool:
        return "://" not in self.storage or self.storage.startswith("file://")

    @cached_property
    def _filesystem(self) -> tuple[pafs.FileSystem, str]:
        try:
            filesystem, root = pafs.FileSystem.from_uri(self.storage)
        except (ValueError, OSError) as error:
            raise StorageError(
                f"storage: must be a folder or a URI that pyarrow.fs opens; got {self.storage!r}: {error}"
            ) from None
        return filesystem, posixpath.join(root, self.name)

    @cached_property
    def _objects(self) -> Objects:
        return Objects(self.storage, self.filesystem)

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._filesystem[0]

    @property
    def root(self) -> str:
        """The directory's path within `filesystem`."""
        return self._filesystem[1]

    def __str__(self) -> str:
        return f"{self.storage}/{self.name}" if not self.is_local else self.root

    def path(self, relative: str) -> str:
        """Return the path of `relative` within `filesystem`. Raises ManifestError where it would leave."""
        clean = posixpath.normpath(relative)
        if clean.startswith(("/", "../")) or clean in ("..", ".") or "\0" in clean:
            raise ManifestError(f"{self}: {relative!r} is not a path inside the run")
        path = posixpath.join(self.root, clean)
        if self.is_local and not os.path.realpath(path).startswith(f"{os.path.realpath(self.root)}/"):
            raise ManifestError(f"{path}: must lie inside the run; a symbolic link leads to {os.path.realpath(path)}")
        return path

    def exists(self, relative: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(relative)).type == pafs.FileType.File)

    def size(self, relative: str) -> int | None:
        """Return a file's bytes, None where there is none."""
        found = self.filesystem.get_file_info(self.path(relative)).size
        return None if found is None else int(found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file under `folder`, "" for all, by its path in the run, in order.

        Symbolic links are not followed, nor counted. Raises StorageError.
        """
        where = self.path(folder) if folder else self.root
        try:
            if self.is_local:
                found = dict(commits.files_under(where))
            else:
                selector = pafs.FileSelector(where, allow_not_found=True, recursive=True)
                infos = self.filesystem.get_file_info(selector)
                found = {info.path: info.size for info in infos if info.type == pafs.FileType.File}
        except OSError as error:
            raise StorageError(f"{self}/{folder}: cannot be listed: {_reason(error)}") from None
        prefix = f"{self.root}/"
        return {path.removeprefix(prefix): found[path] for path in sorted(found)}

    def read_bytes(self, relative: str) -> bytes:
        """Return a file's content. Raises StorageError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(self.path(relative)) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be read: {_reason(error)}") from None

    def read_json(self, relative: str) -> Any:
        """Return what a file of JSON says. Raises StorageError, ManifestError where it is damaged."""
        return commits.of_json(self._read_small(relative), f"{self}/{relative}")

    def read_named(self, manifest: Manifest, relative: str) -> Any:
        """Return what a file of JSON says that a manifest names. Raises ManifestError."""
        return commits.of_json(self.read_checked(manifest.file(relative)), f"{self}/{relative}")

    def _read_small(self, relative: str) -> bytes:
        if (self.size(relative) or 0) > MAX_JSON_BYTES:
            raise ManifestError(
                f"{self}/{relative}: must have at most {MAX_JSON_BYTES >> 20} MiB; it has {self.size(relative):,} bytes"
            )
        return self.read_bytes(relative)

    def write_bytes(self, relative: str, content: bytes, *, rows: int | None = None) -> FileRecord:
        """Write a file whole or not at all. Raises StorageError."""
        path = self.path(relative)
        try:
            if self.is_local:
                commits.write_local(path, content)
            else:
                self._objects.put(path, content)
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be written: {_reason(error)}") from None
        return FileRecord(path=relative, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=rows)

    def write_json(self, relative: str, value: Any) -> FileRecord:
        return self.write_bytes(relative, to_json(value))

    def write_sealed(self, relative: str, value: dict[str, Any]) -> None:
        """Write JSON that holds a sha256 of itself: for files that no manifest names. Raises StorageError."""
        self.write_bytes(relative, commits.sealed(value))

    def create(self, relative: str, content: bytes) -> bool:
        """Write a file that is not there yet; return False where it is. Raises StorageError."""
        path = self.path(relative)
        try:
            return commits.create_local(path, content) if self.is_local else self._objects.create(path, content)
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be written: {_reason(error)}") from None

    def commit(self, relative: str, manifest: Manifest) -> None:
        """Publish the manifest of files that are all there; to redo them, an earlier one must have been removed.

        Raises StorageError, and RunBusyError where another process has committed other files or taken the run over.
        """
        if self.epoch is not None:
            lock.check(self, self.epoch)
        if self.create(relative, manifest.to_json()):
            return
        there = self.manifest(relative)
        if there is None or (there.fingerprint, there.files) != (manifest.fingerprint, manifest.files):
            raise RunBusyError(
                f"{self}/{relative}: another process has committed it, with other files; this one stops. Run it again "
                "when no other process writes the run"
            )

    def read_checked(self, record: FileRecord) -> bytes:
        """Return a file's content. Raises ManifestError where it is not what `record` says."""
        self.check_size(record)
        if record.bytes > LARGE_BYTES and record.bytes > psutil.virtual_memory().available:
            raise ManifestError(f"{self}/{record.path}: its {record.bytes:,} bytes do not fit in the free memory")
        content = self.read_bytes(record.path)
        if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
            raise ManifestError(
                f"{self}/{record.path}: is not what its manifest says (sha256 {record.sha256[:12]}): it was changed or "
                "damaged; kd-ray verify --forget and then kd-ray run make it anew"
            )
        return content

    def check_size(self, record: FileRecord, manifest: str = "its manifest") -> None:
        """Raise ManifestError where a file is not there, or has not the bytes that `record` says."""
        found = self.size(record.path)
        if found is None:
            raise ManifestError(f"{self}/{record.path}: is missing, {manifest} names it; kd-ray run makes it anew")
        if found != record.bytes:
            raise ManifestError(
                f"{self}/{record.path}: must have {record.bytes:,} bytes as {manifest} says; it has {found:,}: it was "
                "cut off or changed; kd-ray run makes it anew"
            )

    def remove(self, relative: str) -> None:
        """Delete a file or folder, to last; nothing happens where there is none."""
        path = self.path(relative)
        try:
            kind = self.filesystem.get_file_info(path).type
            if kind == pafs.FileType.NotFound:
                return
            if kind == pafs.FileType.Directory:
                shutil.rmtree(path) if self.is_local else self.filesystem.delete_dir(path)
            else:
                self.filesystem.delete_file(path)
            if self.is_local:
                commits.flush_folder(os.path.dirname(path))
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be removed: {_reason(error)}") from None

    def manifest(self, relative: str) -> Manifest | None:
        """Return a manifest, or None where there is none. Raises ManifestError where it is damaged."""
        if not self.exists(relative):
            return None
        return Manifest.of(self._read_small(relative), f"{self}/{relative}")

    def finished(self, relative: str, wanted: str) -> Manifest | None:
        """Return the manifest where it has the `wanted` fingerprint and its files are there in full size."""
        try:
            manifest = self.manifest(relative)
            if manifest is None or manifest.fingerprint != wanted:
                return None
            infos = self.filesystem.get_file_info([self.path(record.path) for record in manifest.files])
        except ManifestError:
            return None
        whole = all(info.size == record.bytes for info, record in zip(infos, manifest.files, strict=True))
        return manifest if whole else None

    @contextmanager
    def writing(self, tell: lock.Tell = lambda line: None) -> Iterator["RunDir"]:
        """Hold the run directory for this process alone; yield it with the right to commit.

        `tell` hears of an owner that may be dead and is waited for. Raises RunBusyError, StorageError.
        """
        try:
            if self.is_local:
                commits.make_folder(self.root)
        except OSError as error:
            raise StorageError(f"{self}: cannot be written: {_reason(error)}") from None
        with lock.held(self, tell) as epoch:
            yield replace(self, epoch=epoch)


def _reason(error: OSError) -> str:
    return error.strerror or str(error).splitlines()[0]
