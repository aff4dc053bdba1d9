"""Values, texts, files and runs made to break who reads them, and what may not happen while they are read."""

import contextlib
import hashlib
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CANARY = "canary"
TEXTS = [
    "", " ", "..", "../../x", "/etc/passwd", "a/b", "a\0b", "\u202egnp", "~", "-rf", "CON", "x" * 300, "s3://k:s@b/x",
    "file:///etc", "http://169.254.169.254/", "no", "1e-3", "010", "null", "os:system", "builtins.eval", "os.system",
    "!!python/object/apply:os.system ['true']", "${HOME}", "{{7*7}}", "<script>", "=cmd()", "sklearn:iris",
    "/dev/zero", "/dev/stdin", "**/*", "data.csv", "\ud800", "1_000", "0x10", "nan", ".inf", "2024-01-01",
]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**40, -(10**40), 0.5, 1e308, 1e-320, float("nan"), float("inf"), True, None]


def scalars() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(TEXTS),
        st.sampled_from(NUMBERS),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=20),
    )


def values() -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=8,
    )


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _paths(inner, (*at, number))


def _default() -> dict[str, Any]:
    from kd_ray import Config

    values: dict[str, Any] = json.loads(Config().model_dump_json())
    group = {"kind": "mlp", "count": 2, "model": {"hidden": [4]}}
    values["teachers"]["groups"] = [group, {"kind": "columns", "columns": [["a", "b"]]}]
    return values


def configs() -> st.SearchStrategy[Any]:
    """Return nested values (as they come from YAML) and texts."""
    import yaml

    default = _default()
    paths = [path for path in _paths(default) if path]
    knobs = st.lists(st.tuples(st.sampled_from(paths), values()), max_size=6)
    own = st.tuples(st.sampled_from(paths), st.text(max_size=12), values())
    changed = st.tuples(knobs, st.lists(own, max_size=1)).map(lambda drawn: _changed(*drawn))
    text = yaml.safe_dump(default)
    torn = st.tuples(
        st.integers(0, len(text)),
        st.integers(0, 40),
        st.text(max_size=30) | st.sampled_from(["&a [*a]", "<<: *x", "\t", "- "]),
    ).map(lambda drawn: text[: drawn[0]] + drawn[2] + text[drawn[0] + drawn[1] :])
    return st.one_of(changed, changed, values(), torn, st.text(max_size=200))


def _changed(knobs: list[tuple[tuple[Any, ...], Any]], own: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
    made: dict[str, Any] = {}
    for path, value in [*knobs, *(((*path[:-1], key), value) for path, key, value in own)]:
        at = made
        keys = [key for key in path if isinstance(key, str)]
        for key in keys[:-1]:
            at = at[key] if isinstance(at.get(key), dict) else at.setdefault(key, {})
            if not isinstance(at, dict):
                break
        else:
            at[keys[-1]] = value
    return made


def check_config(given: Any, folder: Path) -> str:
    """Read a config as a run does; return what became of it. Anything raised is a fault."""
    from kd_ray import Config, pipeline, yaml_io
    from kd_ray.errors import KdRayError
    from kd_ray.rundir import RunDir

    try:
        config = Config.of(yaml_io.parse(given) if isinstance(given, str) else given)
        again = Config.of(yaml_io.parse(config.to_yaml()))
        if again != config:
            raise AssertionError("is another config when it is read back")
        run = RunDir.at(str(folder), config.name)
        if not run.path("x").startswith(f"{folder}/"):
            raise AssertionError(f"would write {run.path('x')}")
        pipeline.fingerprints(config)
    except KdRayError as error:
        said = str(error)
        if not said.strip() or len(said) > 100_000:
            raise AssertionError(f"says {said!r:.300}") from None
        return "refused"
    return "read"


# --- runs ---------------------------------------------------------------------------------------------------------


class Payload:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def mutate(run: Path, outer: Path, draw: random.Random) -> str:
    """Change a run by one to three hands; return what was done."""
    return " and ".join(draw.choice(_MUTATIONS)(run, outer, draw) for _ in range(draw.choice((1, 1, 1, 2, 3))))


def _file(run: Path, draw: random.Random, suffix: str = "") -> Path:
    return draw.choice(sorted(path for path in run.rglob(f"*{suffix}") if path.is_file() and not path.is_symlink()))


def _bytes(run: Path, outer: Path, draw: random.Random) -> str:
    path = _file(run, draw)
    content = bytearray(path.read_bytes())
    at, how = draw.randrange(len(content) + 1), draw.choice(("flip", "cut", "grow", "zero", "junk", "empty"))
    if how == "flip" and content:
        content[at % len(content)] ^= 1 << draw.randrange(8)
    elif how == "cut":
        content = content[:at]
    elif how == "grow":
        content += draw.randbytes(draw.randrange(1, 5000))
    elif how == "zero":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif how == "junk":
        content[at : at + 64] = draw.randbytes(64)
    else:
        content = bytearray()
    _put(path, bytes(content))
    return f"{how} {path.relative_to(run)} at {at}{_signed(run, path, draw)}"


def _json(run: Path, outer: Path, draw: random.Random) -> str:
    path = _file(run, draw, ".json")
    try:
        value = json.loads(path.read_text())
    except ValueError:
        return f"nothing of {path.name}"
    where = draw.choice(list(_paths(value)))
    new = draw.choice(
        [*TEXTS, *NUMBERS, [], {}, [[]], "../../canary", str(outer / CANARY), [0] * 1000, "runs", _deep()]
    )
    new = draw.choice((new, None)) if where else new
    at, value = value, {"": value}
    if where:
        parent = at
        for key in where[:-1]:
            parent = parent[key]
        if draw.random() < 0.2:
            parent.pop(where[-1])
        else:
            parent[where[-1]] = new
        value = at
    else:
        value = new
    sealed = draw.random() < 0.7
    _put(path, _sealed(value) if sealed else json.dumps(value).encode("utf-8", "surrogatepass"))
    signed = _signed(run, path, draw)
    return f"{'.'.join(map(str, where))} of {path.relative_to(run)} = {str(new)[:60]!r}{' sealed' * sealed}{signed}"


def _deep() -> Any:
    value: Any = 0
    for _ in range(500):
        value = [value]
    return value


def _sealed(value: Any) -> bytes:
    """As somebody would who has read how manifests are made."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key != "sha256"}
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")
        value = {**value, "sha256": hashlib.sha256(text).hexdigest()}
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _signed(run: Path, path: Path, draw: random.Random) -> str:
    """Half the time, have the manifests say what the file now is."""
    if draw.random() < 0.5 or path.name.endswith(("manifest.json", "teacher.json")):
        return ""
    content, relative = path.read_bytes(), str(path.relative_to(run))
    for manifest in [*run.rglob("*manifest.json"), *run.rglob("teacher.json")]:
        if manifest.is_symlink() or not manifest.is_file():
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
            value = json.loads(manifest.read_text())
            for record in value["files"]:
                if record["path"] == relative:
                    record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                    _put(manifest, _sealed(value))
    return " signed"


def _put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _gone(run: Path, outer: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(run.rglob("*")))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return f"{path.relative_to(run)} gone"


def _exchanged(run: Path, outer: Path, draw: random.Random) -> str:
    one, other = _file(run, draw), _file(run, draw)
    content = other.read_bytes()
    _put(one, content)
    return f"{one.relative_to(run)} = {other.relative_to(run)}{_signed(run, one, draw)}"


def _linked(run: Path, outer: Path, draw: random.Random) -> str:
    path = draw.choice(sorted(run.rglob("*")))
    target = draw.choice((outer / CANARY, outer, Path("/etc/passwd"), Path("/dev/zero"), run, path, outer / "storage"))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.symlink_to(target)
    return f"{path.relative_to(run)} -> {target}"


def _odd(run: Path, outer: Path, draw: random.Random) -> str:
    path = _file(run, draw)
    path.unlink()
    if draw.random() < 0.5:
        path.mkdir()
        return f"{path.relative_to(run)} a folder"
    os.mkfifo(path)
    return f"{path.relative_to(run)} a pipe"


def _pickled(run: Path, outer: Path, draw: random.Random) -> str:
    path = _file(run, draw, draw.choice((".safetensors", ".parquet", ".onnx", ".json", "")))
    _put(path, pickle.dumps(Payload(outer / "executed"), protocol=draw.choice((0, 2, 4))))
    return f"{path.relative_to(run)} a pickle{_signed(run, path, draw)}"


def _config(run: Path, outer: Path, draw: random.Random) -> str:
    import yaml

    path = run / "config.yaml"
    if not path.is_file():
        return "no config"
    try:
        value = yaml.safe_load(path.read_text())
        where = draw.choice([one for one in _paths(value) if one])
        parent = value
        for key in where[:-1]:
            parent = parent[key]
        parent[where[-1]] = new = draw.choice([*TEXTS, *NUMBERS, [], {}])
        text = yaml.safe_dump(value)
    except (yaml.YAMLError, TypeError, IndexError, KeyError):
        where, new, text = (), "bomb", "a: &a [x]\n" + "".join(f"{c}: &{c} [*{chr(ord(c) - 1)}]\n" for c in "bcdefg")
    _put(path, text.encode("utf-8", "surrogatepass"))
    return f"config {'.'.join(map(str, where))} = {new!r:.60}{_signed(run, path, draw)}"


_MUTATIONS = (_bytes, _bytes, _json, _json, _json, _gone, _exchanged, _linked, _odd, _pickled, _config)


def _cli(*words: Any) -> None:
    from kd_ray import cli

    cli.app([str(word) for word in words], standalone_mode=False, prog_name="kd-ray")


def _again(run: Path, out: Path) -> None:
    """What `kd-ray run` does until it would do a stage again."""
    from kd_ray import Config, pipeline

    config = Config.from_yaml(run / "config.yaml")
    pipeline.run(config, name=run.name, storage=str(run.parent), progress=_Never())


class _Never:
    @contextmanager
    def stage(self, name: str) -> Iterator[Any]:
        from tests.chaos.nursery import Enough

        raise Enough
        yield

    def skip(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _load(run: Path, out: Path) -> None:
    import kd_ray

    student = kd_ray.load_student(run)
    student.predict_proba([[0.0] * student.n_features_in_])


def _predict(*more: str) -> Callable[[Path, Path], None]:
    def read(run: Path, out: Path) -> None:
        (out / "rows.csv").write_text("\n".join([",".join(f"x{d}" for d in range(6)), ",".join("123456")]) + "\n")
        _cli("predict", run, out / "rows.csv", "--out", out / "out.parquet", *more)

    return read


READS: dict[str, tuple[int, Callable[[Path, Path], None]]] = {
    "status": (5, lambda run, out: _cli("status", run)),
    "verify": (6, lambda run, out: _cli("verify", run)),
    "clean": (4, lambda run, out: _cli("clean", run)),
    "run": (5, _again),
    "load_student": (4, _load),
    "predict": (3, _predict()),
    "ensemble": (3, _predict("--ensemble")),
    "report": (1, lambda run, out: _cli("report", run)),
}
"""How often each is drawn, and what it does with a run and a folder for what it makes."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}


class Watch:
    """Notes what this process changes outside of what is allowed. An audit hook is for good: one Watch a process."""

    def __init__(self, outer: Path) -> None:
        self.outer, self.allowed, self._seen, self.on = outer, (), [], False
        (outer / CANARY).write_text("canary")
        sys.addaudithook(self._hook)

    @contextmanager
    def allowing(self, *folders: Path) -> Iterator[None]:
        """Allow changes in `folders`; what is temporary goes to the last of them."""
        self.allowed, self._seen, self.on = tuple(map(str, folders)), [], True
        tempfile.tempdir = str(folders[-1])
        try:
            yield
        finally:
            self.on, tempfile.tempdir = False, None

    def seen(self) -> list[str]:
        return sorted(set(self._seen))

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _NEVER:
            self._seen.append(f"{event} {arguments[:2]!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and isinstance(path, str | bytes):
                self._look("opened to write", os.fsdecode(path))
        elif event in _CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
            folder = None if event == "os.truncate" else arguments[-1]
            self._look(event, _under(folder, os.fsdecode(arguments[0])))

    def _look(self, what: str, path: str) -> None:
        path = os.path.abspath(path) if not path.startswith("/proc/self/fd") else path
        inside = any(path == one or path.startswith(f"{one}/") for one in (*self.allowed, *_SCRATCH))
        if not inside:
            self._seen.append(f"{what}: {path}")


def _under(folder: Any, path: str) -> str:
    """The path that is meant, where it is given in relation to an open folder, as when a tree is removed."""
    opened = isinstance(folder, int) and folder >= 0
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if opened else path


_SCRATCH = ("/dev/null", "/dev/shm/sem.", "/dev/shm/torch_", "/tmp/matplotlib", os.path.expanduser("~/.cache"))


def touched(outer: Path) -> list[str]:
    """What lies around the run and should be as it was."""
    found = ["the pickle was loaded"] if (outer / "executed").exists() else []
    with contextlib.suppress(OSError):
        if (outer / CANARY).read_text() == "canary" and (outer / "storage/neighbour/kept").read_text() == "kept":
            return found
    return [*found, "a file beside the run was changed"]
