"""Whether files are what their manifests say, byte by byte, without holding a file in memory."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.commits import FileRecord, is_manifest
from kd_ray.errors import KdRayError, ManifestError, StorageError
from kd_ray.progress import Report
from kd_ray.rundir import RunDir

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Damage:
    """A file that is not what `manifest` says of it, or a manifest that cannot be read; `says` names and explains."""

    path: str
    manifest: str
    says: str


def manifests(run: RunDir) -> list[str]:
    """Return the paths of all manifests of a run, whatever made them."""
    return [path for path in run.sizes("") if is_manifest(path)]


def damages(run: RunDir, paths: Iterable[str], report: Report = lambda done, total, note: None) -> Iterator[Damage]:
    """Yield what is wrong with manifests, and with the files that they name."""
    named: list[tuple[str, FileRecord]] = []
    for path in paths:
        try:
            manifest = run.manifest(path)
        except KdRayError as error:
            yield Damage(path, path, str(error))
        else:
            named += [(path, record) for record in (manifest.files if manifest else [])]
    total = sum(record.bytes for _, record in named)
    known: dict[FileRecord, str | None] = {}
    done = 0
    for path, record in named:
        if record not in known:
            known[record] = _wrong(run, record, path)
        done += record.bytes
        report(done, total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
        if says := known[record]:
            yield Damage(record.path, path, says)


def _wrong(run: RunDir, record: FileRecord, manifest: str) -> str | None:
    name = f"{run}/{record.path}"
    try:
        run.check_size(record, manifest)
        if _sha256(run, record.path) != record.sha256:
            return f"{name}: is not what {manifest} says (sha256 {record.sha256[:12]}): it was changed or damaged"
        rows = _rows(run, record.path) if record.path.endswith(".parquet") else None
        if rows is not None and record.rows not in (None, rows):
            return f"{name}: must hold {record.rows:,} rows as {manifest} says; it holds {rows:,}"
    except (ManifestError, StorageError) as error:
        return str(error)
    return None


def _sha256(run: RunDir, path: str) -> str:
    digest = hashlib.sha256()
    try:
        with run.filesystem.open_input_stream(run.path(path)) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"{run}/{path}: cannot be read: {str(error).splitlines()[0]}") from None
    return digest.hexdigest()


def _rows(run: RunDir, path: str) -> int:
    try:
        with run.filesystem.open_input_file(run.path(path)) as file:
            return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{run}/{path}: is not readable Parquet: {str(error).splitlines()[0]}") from None
