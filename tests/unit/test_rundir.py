"""The run directory believes only what is whole."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_ray.errors import ConfigError, ManifestError, RunBusyError, StorageError
from kd_ray.rundir import FileRecord, Manifest, RunDir, fingerprint


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path / "with a space"), "trial")


def commit(run: RunDir, content: bytes = b"hello") -> FileRecord:
    record = run.write_bytes("data/a.bin", content, rows=3)
    run.write_bytes("data/manifest.json", Manifest(fingerprint="f", files=[record], summary={"n": 1}).to_json())
    return record


def test_a_file_is_read_as_it_was_written(run: RunDir) -> None:
    record = run.write_bytes("a/b.bin", b"x" * 1000)
    assert run.read_checked(record) == b"x" * 1000
    assert Path(run.root, "a/b.bin").stat().st_size == 1000


def test_a_manifest_is_read_as_it_was_written(run: RunDir) -> None:
    record = commit(run)
    assert run.manifest("data/manifest.json") == Manifest(fingerprint="f", files=[record], summary={"n": 1})
    assert run.manifest("other/manifest.json") is None


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"", b"hello!"])
def test_a_changed_file_is_refused_by_name(run: RunDir, damage: bytes) -> None:
    record = commit(run)
    Path(run.root, "data/a.bin").write_bytes(damage)
    with pytest.raises(ManifestError, match=r"data/a\.bin: (is not what|must have 5 bytes as) its manifest"):
        run.read_checked(record)


def test_a_missing_file_is_refused_by_name(run: RunDir) -> None:
    record = commit(run)
    os.unlink(Path(run.root, "data/a.bin"))
    with pytest.raises(ManifestError, match=r"data/a\.bin: is missing, .*run makes it anew"):
        run.read_checked(record)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 99, "fingerprint": "f", "files": [], "summary": {}}']
)
def test_a_damaged_manifest_is_no_manifest(run: RunDir, text: str) -> None:
    commit(run)
    Path(run.root, "data/manifest.json").write_text(text)
    assert run.finished("data/manifest.json", "f") is None
    with pytest.raises(ManifestError, match=r"data/manifest\.json"):
        run.manifest("data/manifest.json")


def test_finished_means_the_same_fingerprint_and_every_file_in_full_size(run: RunDir) -> None:
    commit(run)
    assert run.finished("data/manifest.json", "f")
    assert run.finished("data/manifest.json", "g") is None
    Path(run.root, "data/a.bin").write_bytes(b"hell")
    assert run.finished("data/manifest.json", "f") is None


def test_a_write_that_fails_leaves_nothing_and_names_the_file(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(run, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"data/a\.bin: cannot be written: No space left on device"):
        run.write_bytes("data/a.bin", b"new")
    assert Path(run.root, "data/a.bin").read_bytes() == b"old"
    assert sorted(path.name for path in Path(run.root, "data").iterdir()) == ["a.bin", "manifest.json"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "..", ".", "a\0b"])
def test_no_path_leaves_the_run(run: RunDir, path: str) -> None:
    with pytest.raises(ManifestError, match="is not a path inside the run"):
        run.read_bytes(path)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "a\n"])
def test_no_name_leaves_the_storage(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: must be"):
        RunDir.at(str(tmp_path), name)


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = RunDir.at(str(tmp_path / "file"), "trial")
    with pytest.raises(StorageError, match="file/trial: cannot be written"), run.writing():
        pass


def test_a_storage_no_filesystem_knows_is_named() -> None:
    with pytest.raises(StorageError, match="storage: must be a folder or a URI"):
        _ = RunDir.at("nosuch://bucket/x", "trial").root


def test_a_run_that_another_process_writes_is_left_alone(run: RunDir) -> None:
    holder = (
        "import sys; from kd_ray.rundir import RunDir\n"
        "with RunDir.at(sys.argv[1], 'trial').writing():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, run.storage]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunBusyError, match=rf"is being written by process {other.pid} on .*; wait for it"),
            run.writing(),
        ):
            pass
        other.kill()
    with run.writing():
        pass


def test_a_fingerprint_depends_on_every_part_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint(1), fingerprint("1"), fingerprint(1, 2), fingerprint([1, 2])}) == 4
