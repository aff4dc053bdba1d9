"""The run directory: one folder of results under a storage that pyarrow.fs understands.

A stage becomes visible in one step: its files first, its manifest (sizes, sha256, rows, fingerprint) last;
to redo a stage, its manifest goes first. What no valid manifest names is not believed. A file appears whole
or not at all: local files are written aside, flushed and renamed; object stores take whole-object puts.
"""

import hashlib
import json
import os
import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from kd_ray.config import check_name
from kd_ray.errors import ManifestError, RunBusyError, StorageError

FORMAT = 2


def fingerprint(*parts: Any) -> str:
    """Return 32 hex digits that stand for `parts` (JSON values) and the format of what is written."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a manifest says of one file; `path` is relative to the run directory."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    fingerprint: str
    files: list[FileRecord]
    summary: dict[str, Any]

    def to_json(self) -> bytes:
        return to_json({"format": FORMAT, **asdict(self)})


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class RunDir:
    """`<storage>/<name>`; small enough to travel to every worker. `storage` is absolute or a URI."""

    storage: str
    name: str

    @classmethod
    def at(cls, storage: str, name: str) -> "RunDir":
        """Return the directory of run `name`. Raises ConfigError where the name could leave the storage."""
        check_name(name)
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
        return posixpath.join(self.root, clean)

    def exists(self, relative: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(relative)).type == pafs.FileType.File)

    def size(self, relative: str) -> int | None:
        """Return a file's bytes, None where there is none."""
        found = self.filesystem.get_file_info(self.path(relative)).size
        return None if found is None else int(found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file under `folder`, by its path in the run: one listing for all of them."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise StorageError(f"{self}/{folder}: cannot be listed: {_reason(error)}") from None
        prefix = f"{self.root}/"
        return {info.path.removeprefix(prefix): info.size for info in found if info.type == pafs.FileType.File}

    def read_bytes(self, relative: str) -> bytes:
        """Return a file's content. Raises StorageError where it cannot be read."""
        try:
            with self.filesystem.open_input_stream(self.path(relative)) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be read: {_reason(error)}") from None

    def read_json(self, relative: str) -> Any:
        try:
            return json.loads(self.read_bytes(relative))
        except ValueError:
            raise ManifestError(f"{self}/{relative}: is not JSON; delete it and run again") from None

    def write_bytes(self, relative: str, content: bytes, *, rows: int | None = None) -> FileRecord:
        """Write a file whole or not at all. Raises StorageError."""
        path = self.path(relative)
        try:
            if self.is_local:
                _write_local(path, content)
            else:
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(content)
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be written: {_reason(error)}") from None
        return FileRecord(path=relative, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=rows)

    def write_json(self, relative: str, value: Any) -> FileRecord:
        return self.write_bytes(relative, to_json(value))

    def read_checked(self, record: FileRecord) -> bytes:
        """Return a file's content. Raises ManifestError where it is not what `record` says."""
        try:
            content = self.read_bytes(record.path)
        except StorageError as error:
            raise ManifestError(f"{error}; its manifest names it: run again to make it anew") from None
        if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
            raise ManifestError(
                f"{self}/{record.path}: is not what its manifest says "
                f"({record.bytes} bytes, sha256 {record.sha256[:12]}); it was changed or damaged"
            )
        return content

    def remove(self, relative: str) -> None:
        """Delete a file or folder; nothing happens where there is none."""
        path = self.path(relative)
        kind = self.filesystem.get_file_info(path).type
        try:
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(path)
            elif kind == pafs.FileType.File:
                self.filesystem.delete_file(path)
        except OSError as error:
            raise StorageError(f"{self}/{relative}: cannot be removed: {_reason(error)}") from None

    def manifest(self, relative: str) -> Manifest | None:
        """Return a manifest, or None where there is none. Raises ManifestError where it is damaged."""
        if not self.exists(relative):
            return None
        value = self.read_json(relative)
        try:
            files = [FileRecord(**record) for record in value["files"]]
            if value["format"] != FORMAT:
                raise ManifestError(f"{self}/{relative}: has format {value['format']!r}, this version reads {FORMAT}")
            return Manifest(fingerprint=value["fingerprint"], files=files, summary=value["summary"])
        except (KeyError, TypeError):
            raise ManifestError(f"{self}/{relative}: is not a manifest; delete it and run again") from None

    def finished(self, relative: str, wanted: str) -> Manifest | None:
        """Return the manifest where it has the `wanted` fingerprint and its files are there in full size."""
        try:
            manifest = self.manifest(relative)
        except ManifestError:
            return None
        if manifest is None or manifest.fingerprint != wanted:
            return None
        infos = self.filesystem.get_file_info([self.path(record.path) for record in manifest.files])
        whole = all(info.size == record.bytes for info, record in zip(infos, manifest.files, strict=True))
        return manifest if whole else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run directory for this process alone. Raises RunBusyError, StorageError."""
        if not self.is_local:
            yield
            return
        from filelock import FileLock, Timeout

        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path(".lock"), timeout=0)
            lock.acquire()
        except Timeout:
            owner = Path(self.path(".lock")).read_text(errors="replace").strip() or "another process"
            raise RunBusyError(f"{self}: is being written by {owner}; wait for it, or use another --name") from None
        except OSError as error:
            raise StorageError(f"{self}: cannot be written: {_reason(error)}") from None
        try:
            Path(self.path(".lock")).write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
            yield
        finally:
            lock.release()


def _write_local(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(aside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _reason(error: OSError) -> str:
    return error.strerror or str(error).splitlines()[0]
