"""What two runs must have alike, read without kd_ray: bits of the models, soft targets in order of rows, files."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

ROLES = ("student", "baseline", "augmented_control")
OF_A_MOMENT = re.compile(r"[0-9a-f]{8,}")
NOT_COMPARED = re.compile(r"\.lock|\.writer/.*")


def content(run: Path | str) -> dict[str, str]:
    """Return a digest of everything that must not depend on what was done to a run; {} of what is not there."""
    filesystem, root = _open(run)
    found: dict[str, str] = {}
    for path in _files(filesystem, root):
        is_model = re.fullmatch(rf"(({'|'.join(ROLES)})/(model|replicas)|teachers/\d+/model)\.safetensors", path)
        if is_model or (path.startswith("export/") and path.endswith(".onnx")):
            found[path] = hashlib.sha256(_read(filesystem, f"{root}/{path}")).hexdigest()
    if "evaluation.json" in _files(filesystem, root):
        found["evaluation.json"] = _digest(json.loads(_read(filesystem, f"{root}/evaluation.json")))
    return found | _soft_targets(filesystem, root)


def _soft_targets(filesystem: pafs.FileSystem, root: str) -> dict[str, str]:
    """Rows that the manifest names, sorted; each must be there once."""
    if "soft_targets/manifest.json" not in _files(filesystem, root):
        return {}
    manifest = json.loads(_read(filesystem, f"{root}/soft_targets/manifest.json"))
    tables = [
        pq.read_table(pa.BufferReader(_read(filesystem, f"{root}/{record['path']}"))) for record in manifest["files"]
    ]
    table = pa.concat_tables(tables).sort_by("row_id").combine_chunks()
    ids = table["row_id"].to_pylist()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None))
    return {
        "soft_targets": hashlib.sha256(sink.getvalue()).hexdigest(),
        "soft target rows": str(len(ids)),
        "soft target rows that come twice": str(len(ids) - len(set(ids))),
    }


def differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Say what is missing, further, or other."""
    said = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    said += [f"{name} is there" for name in found.keys() - wanted.keys()]
    said += [f"{name} differs" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return sorted(said)


def files(run: Path | str) -> set[str]:
    """Names of a run's files, the parts drawn at random left out."""
    return {OF_A_MOMENT.sub("#", path) for path in _files(*_open(run)) if not NOT_COMPARED.fullmatch(path)}


def _open(run: Path | str) -> tuple[pafs.FileSystem, str]:
    if isinstance(run, Path):
        return pafs.LocalFileSystem(), str(run)
    return pafs.FileSystem.from_uri(run)


def _files(filesystem: pafs.FileSystem, root: str) -> list[str]:
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    return [info.path[len(root) + 1 :] for info in filesystem.get_file_info(selector) if info.is_file]


def _read(filesystem: pafs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
