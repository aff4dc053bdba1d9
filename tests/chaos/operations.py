"""Every storage operation of a process counted, and the process ended before or after one of them.

Patched from outside: the os module, open, and pyarrow's local file system, for paths under one folder. The count
may be shared by processes: the run's workers read the same control file.
"""

import builtins
import contextlib
import fcntl
import functools
import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

CONTROL = "KD_RAY_CHAOS_CONTROL"
CRASHED = 137
_PATHS = {"unlink": 0, "remove": 0, "rmdir": 0, "replace": 1, "rename": 1, "link": 1, "symlink": 1}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_depth = 0  # an operation made of others counts once


class Control:
    """A folder that says what to do: `root` to watch, operation `at` to end at, before or after it, `also` to kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, root: Path, *, at: int | None = None, side: str = "before", also: int | None = None) -> None:
        (self.folder / "count").write_text("0")
        (self.folder / "log").write_text("")
        aside = self.folder / "aside"
        aside.write_text(json.dumps({"root": str(root), "at": at, "side": side, "also": also}))
        os.replace(aside, self.folder / "wanted.json")

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def next(self, said: str) -> tuple[int, dict[str, Any]]:
        """Count an operation; return its number and what is wanted."""
        wanted = json.loads((self.folder / "wanted.json").read_text())
        with (self.folder / "count").open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            number = int(stream.read() or 0) + 1
            stream.seek(0)
            stream.write(str(number))
            stream.flush()
            with (self.folder / "log").open("a") as log:
                log.write(said + "\n")
        return number, wanted


def install(folder: Path) -> None:
    """Patch this process for good."""
    control = Control(folder)
    for name, position in _PATHS.items():
        _wrap(os, name, control, functools.partial(_path_of, position))
    _wrap(os, "mkdir", control, lambda args, kwargs: _unless_there(_path_of(0, args, kwargs)))
    for name in ("fsync", "fdatasync"):
        _wrap(os, name, control, lambda args, kwargs: _of_fd(args[0]))
    _wrap(os, "open", control, lambda args, kwargs: _path_of(0, args, kwargs) if args[1] & _WRITES else None)
    for module in (builtins, io):
        _wrap(module, "open", control, _if_written)
    _patch_rundir(control)


def _wrap(module: Any, name: str, control: Control, path_of: Callable[[Any, Any], str | None]) -> None:
    original = getattr(module, name)

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        path = None if _depth else path_of(args, kwargs)
        return original(*args, **kwargs) if path is None else _count(control, name, path, original, args, kwargs)

    setattr(module, name, counted)


def _count(control: Control, name: str, path: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    global _depth
    _depth += 1
    try:
        root = json.loads((control.folder / "wanted.json").read_text())["root"]
        if not path.startswith(root):
            return original(*args, **kwargs)
        number, wanted = control.next(f"{name} {path[len(root) :]}")
        if number == wanted["at"] and wanted["side"] == "before":
            _die(wanted)
        result = original(*args, **kwargs)
        if number == wanted["at"]:
            _die(wanted)
        return result
    finally:
        _depth -= 1


def _die(wanted: dict[str, Any]) -> None:
    if wanted["also"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(wanted["also"], signal.SIGKILL)
    os._exit(CRASHED)


def _path_of(position: int, args: Any, kwargs: Any) -> str | None:
    try:
        path = os.fspath(args[position] if len(args) > position else kwargs["dst"])
    except (TypeError, KeyError):
        return None
    at = kwargs.get("dir_fd") or kwargs.get("dst_dir_fd")
    base = _of_fd(at) if at is not None else os.getcwd()
    return os.path.join(base, os.fsdecode(path))


def _unless_there(path: str | None) -> str | None:
    return None if path is None or os.path.exists(path) else path


def _if_written(args: Any, kwargs: Any) -> str | None:
    mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
    return _path_of(0, args, kwargs) if set(mode) & set("wax+") else None


def _of_fd(fd: Any) -> str:
    with contextlib.suppress(OSError, TypeError, AttributeError):
        return os.readlink(f"/proc/self/fd/{fd if isinstance(fd, int) else fd.fileno()}")
    return ""


def _patch_rundir(control: Control) -> None:
    """What the run directory does through pyarrow's own code, done in Python, a file at a time."""
    from kd_ray.rundir import RunDir

    original = RunDir.__dict__["_filesystem"].func

    def counted(self: Any) -> tuple[pafs.FileSystem, str]:
        filesystem, root = original(self)
        if isinstance(filesystem, pafs.LocalFileSystem):
            filesystem = pafs.PyFileSystem(Local())
        return filesystem, root

    replaced = cached_property(counted)
    replaced.__set_name__(RunDir, "_filesystem")
    RunDir._filesystem = replaced  # type: ignore[assignment]


class Local(pafs.FileSystemHandler):
    """Local files by the os module, so that each operation passes the patches above."""

    def __init__(self) -> None:
        self.native = pafs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "local"

    def normalize_path(self, path: str) -> str:
        return str(self.native.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> Any:
        return self.native.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> Any:
        return self.native.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        os.makedirs(path, exist_ok=True)

    def delete_dir(self, path: str) -> None:
        shutil.rmtree(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        for entry in os.scandir(path):
            shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        os.unlink(path)

    def move(self, src: str, dest: str) -> None:
        os.replace(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        shutil.copyfile(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self.native.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self.native.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return self.native.open_output_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self.native.open_append_stream(path)
