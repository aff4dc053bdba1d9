"""How a file appears, how a stage becomes finished, and why in this order.

1. A file appears whole or not at all. On a local disk it is written beside its place under another name, flushed
   (fsync), and renamed; then its folder is flushed, for a name is the folder's content, and so is the parent of every
   folder made on the way. Without the first flush a power cut leaves the name with no content, without the second no
   name. What lies aside after a kill ends in .tmp, is read by nobody, and goes with `kd-ray clean`.
2. An object store has no rename: a file is one put of a whole object. Nothing is written through an open writer, since
   pyarrow closes it where an exception passes through, and so publishes what was written until then, which may even be
   a readable Parquet file.
3. A stage is finished by its manifest, which is written when all its files are there and names each with its size,
   sha256 and rows. To redo a stage its manifest goes first, and the removal is flushed: no manifest ever names files
   that are being replaced. What no manifest names is not believed.
4. A manifest is created, never replaced: link() fails where there is one, and so does a put with If-None-Match. Who
   comes second finds the same fingerprint and the same files, which is as good as its own (and what a put that was
   repeated after a lost reply finds), or it stops: another process is at work here.
5. Before that, whoever writes looks whether the run is still its own (lock.py). Between the look and the creation time
   may pass, which is why 4 does not rely on 5: the lock saves work, the manifests keep the run right.
6. JSON that no manifest names, as a manifest itself, holds a sha256 of itself: a flipped bit in a number is as wrong as
   one in a bracket.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kd_ray.errors import ManifestError

FORMAT = 3
MAX_JSON_BYTES = 64 << 20
SEAL = "sha256"
ASIDE = re.compile(r"\.[0-9a-f]{8}\.tmp$")
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint(*parts: Any) -> str:
    """Return 32 hex digits that stand for `parts` (JSON values) and the format of what is written."""
    return hashlib.sha256(_canonical([FORMAT, *parts])).hexdigest()[:32]


def is_manifest(path: str) -> bool:
    return path.endswith(("manifest.json", "teacher.json"))


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a manifest says of one file; `path` is relative to the run directory."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it can be a record at all: types, a path of ours, numbers that are none below 0."""
        counts = [self.bytes, 0 if self.rows is None else self.rows]
        return (
            all(type(count) is int and count >= 0 for count in counts)
            and all(type(text) is str for text in (self.path, self.sha256))
            and bool(_PATH.fullmatch(self.path) and _SHA256.fullmatch(self.sha256))
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    fingerprint: str
    files: list[FileRecord]
    summary: dict[str, Any]

    def to_json(self) -> bytes:
        return sealed({"format": FORMAT, **asdict(self)})

    @classmethod
    def of(cls, content: bytes, name: str) -> "Manifest":
        """Read what `to_json` wrote. Raises ManifestError where it is damaged or of another format."""
        value = of_json(content, name)
        if not isinstance(value, dict):
            raise ManifestError(f"{name}: is not a manifest; delete it and run again")
        if value.get("format") != FORMAT:
            raise ManifestError(f"{name}: has format {value.get('format')!r}, this version reads {FORMAT}")
        try:
            files = [FileRecord(**record) for record in value["files"]]
            found = cls(fingerprint=value["fingerprint"], files=files, summary=value["summary"])
        except (KeyError, TypeError):
            raise ManifestError(f"{name}: is not a manifest; delete it and run again") from None
        strange = [record.path for record in files if not record.is_sound]
        if strange or type(found.fingerprint) is not str or type(found.summary) is not dict:
            why = f": {strange[0]!r} is not a file of a run" if strange else ""
            raise ManifestError(f"{name}: is not a manifest{why}; delete it and run again")
        return found

    def file(self, path: str) -> FileRecord:
        """Return what is said of a file. Raises ManifestError where it is not named."""
        for record in self.files:
            if record.path == path:
                return record
        raise ManifestError(f"{path}: is not named by the manifest of its stage; run again to make it anew")


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def of_json(content: bytes, name: str) -> Any:
    """Return what JSON says, without its sha256 of itself. Raises ManifestError where it is damaged."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise ManifestError(f"{name}: is not JSON; delete it and run again") from None
    if isinstance(value, dict) and SEAL in value and value.pop(SEAL) != _seal(value):
        raise ManifestError(f"{name}: is not what was written, its own sha256 says; delete it and run again")
    return value


def sealed(value: dict[str, Any]) -> bytes:
    """Return JSON that holds a sha256 of itself."""
    return to_json({**value, SEAL: _seal(value)})


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write_local(path: str, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    aside = _written_aside(path, content)
    try:
        os.replace(aside, path)
    except BaseException:
        _forget(aside)
        raise
    flush_folder(os.path.dirname(path))


def create_local(path: str, content: bytes) -> bool:
    """Write a file that is not there yet, whole; return False where it is. Raises OSError."""
    aside = _written_aside(path, content)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        _forget(aside)
    flush_folder(os.path.dirname(path))
    return True


def make_folder(path: str) -> None:
    """Make a folder and the missing ones above it, to last. Raises OSError."""
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path))
    os.makedirs(path, exist_ok=True)
    flush_folder(os.path.dirname(path))


def files_under(folder: str) -> Iterator[tuple[str, int]]:
    """Yield every file's path and bytes. Symbolic links are left out. Raises OSError."""
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path)
        elif entry.is_file(follow_symlinks=False):
            # What another process has just removed is not there.
            with contextlib.suppress(FileNotFoundError):
                yield entry.path, entry.stat(follow_symlinks=False).st_size


def remove_empty(folder: str) -> None:
    """Remove the folders below one, and itself, that hold nothing. Raises OSError."""
    for path, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(path):
            os.rmdir(path)


def flush_folder(path: str) -> None:
    """Make what was added to a folder, renamed in it or removed from it last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _written_aside(path: str, content: bytes) -> str:
    make_folder(os.path.dirname(path))
    aside = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(aside, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        _forget(aside)
        raise
    return aside


def _forget(aside: str) -> None:
    if os.path.exists(aside):
        os.unlink(aside)
