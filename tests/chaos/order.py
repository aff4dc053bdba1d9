"""The order of writing, flushing and publishing, read off the system calls of whole runs: no power cut, but its rules.

For each file that a manifest names: its content was flushed before its name appeared, its name (its folder, and the
parent of every folder made on the way) before the manifest's; for each manifest its own, and its folder afterwards. To
redo a stage its manifest goes, and that is flushed, before any of its files does.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.harness import Place, Row, Started

CALLS = (
    "openat,creat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat"
)
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "0", "-e", f"trace={CALLS}", "-e", "signal=none", "-o")
MANIFEST = re.compile(r"(^|/)([a-z_]+\.)?manifest\.json$|/teacher\.json$")
OF_THE_LOCK = re.compile(r"^\.(lock|writer)")
_STRING = re.compile(r'(?:AT_FDCWD<[^>]*>|(?P<at>\d+)<(?P<folder>[^>]*)>)?(?:, )?"(?P<path>[^"]*)"\.*')
_FD = re.compile(r"^(\d+)<([^>]*)>")


@dataclass
class Call:
    name: str
    arguments: str
    began: int
    ended: int = 0
    failed: bool = False

    @property
    def paths(self) -> list[str]:
        found = []
        for match in _STRING.finditer(self.arguments):
            found.append(os.path.join(match["folder"] or "", match["path"]))
        return found

    @property
    def fd_path(self) -> str:
        match = _FD.match(self.arguments)
        return match[2] if match else ""


def calls(trace: str) -> list[Call]:
    """Return the calls that succeeded; in the trace a call may begin and end on different lines."""
    found: list[Call] = []
    open_: dict[str, Call] = {}
    for at, line in enumerate(trace.splitlines()):
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.startswith("<... "):
            call = open_.pop(pid, None)
            if call is None:
                continue
            call.ended, call.failed = at, _failed(rest)
            call.arguments += rest.partition("resumed>")[2]
            found.append(call)
        elif rest.endswith("<unfinished ...>"):
            name, _, arguments = rest.removesuffix("<unfinished ...>").partition("(")
            open_[pid] = Call(name, arguments, at)
        elif "(" in rest:
            name, _, arguments = rest.partition("(")
            found.append(Call(name, arguments, at, at, _failed(rest)))
    return [call for call in found if not call.failed]


def _failed(rest: str) -> bool:
    return bool(re.search(r"= -1 E[A-Z]+", rest))


@dataclass
class Published:
    """A name that appeared in a run."""

    path: str
    began: int
    ended: int


@dataclass
class Story:
    """What happened to the files under one folder, in order."""

    root: str
    flushed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    written: dict[str, list[int]] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    removed: list[tuple[int, str]] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, trace: str, root: str) -> "Story":
        story = cls(root)
        for call in calls(trace):
            story._add(call)
        return story

    def _add(self, call: Call) -> None:
        kind = call.name
        if kind in ("fsync", "fdatasync"):
            self.flushed.setdefault(call.fd_path, []).append((call.began, call.ended))
        elif kind in ("write", "pwrite64"):
            self.written.setdefault(call.fd_path, []).append(call.ended)
        elif kind.startswith("mkdir") and call.paths:
            self.made[call.paths[-1].rstrip("/")] = call.ended
        elif kind.startswith("unlink") and call.paths and self._has(call.paths[-1]):
            self.removed.append((call.began, call.paths[-1]))
        elif kind.startswith(("rename", "link")) and len(call.paths) == 2 and self._has(call.paths[1]):
            self._publish(call, *call.paths)

    def _has(self, path: str) -> bool:
        return path.startswith(f"{self.root}/")

    def _publish(self, call: Call, source: str, target: str) -> None:
        self.published.append(Published(target, call.began, call.ended))
        writes = [at for at in self.written.get(source, []) if at <= call.began]
        last = max(writes, default=-1)
        if not any(began > last and ended <= call.began for began, ended in self.flushed.get(source, [])):
            self._blame(target, "appeared before its content was flushed")

    def _blame(self, path: str, what: str) -> None:
        self.problems.append(f"{path[len(self.root) + 1 :]} {what}")

    def is_flushed(self, path: str, after: int, before: int) -> bool:
        return any(began >= after and ended <= before for began, ended in self.flushed.get(path, []))

    def lasts(self, one: Published, before: int) -> bool:
        """Whether a name, and those of all folders made on the way to it, were flushed before a time."""
        folder = os.path.dirname(one.path)
        if not self.is_flushed(folder, one.ended, before):
            self._blame(one.path, "was named before its folder was flushed")
            return False
        while folder in self.made and self._has(folder + "/"):
            if not self.is_flushed(os.path.dirname(folder), self.made[folder], before):
                self._blame(one.path, f"was named before the name of {folder[len(self.root) :]} was flushed")
                return False
            folder = os.path.dirname(folder)
        return True

    def check(self, end: int) -> tuple[int, int]:
        """Hold every manifest to the rules; return how many there were, and how many files they name."""
        manifests = [one for one in self.published if self._is_manifest(one.path)]
        named = 0
        for manifest in manifests:
            self.lasts(manifest, end)
            if not os.path.exists(manifest.path):
                continue
            for record in json.loads(Path(manifest.path).read_text())["files"]:
                named += 1
                self._check_named(f"{self.root}/{record['path']}", manifest)
        self._check_redone(manifests)
        return len(manifests), named

    def _is_manifest(self, path: str) -> bool:
        relative = path[len(self.root) + 1 :]
        return bool(MANIFEST.search(relative)) and not OF_THE_LOCK.match(relative)

    def _check_named(self, path: str, manifest: Published) -> None:
        before = [one for one in self.published if one.path == path and one.ended <= manifest.began]
        if before:
            self.lasts(before[-1], manifest.began)
        elif any(one.path == path for one in self.published):
            self._blame(path, "appeared after the manifest that names it")

    def _check_redone(self, manifests: list[Published]) -> None:
        """A manifest that was removed: its removal is flushed before anything in its folder is touched."""
        for at, path in self.removed:
            if not self._is_manifest(path):
                continue
            folder = os.path.dirname(path)
            touched = [one.began for one in self.published if os.path.dirname(one.path) == folder and one.began > at]
            touched += [when for when, other in self.removed if os.path.dirname(other) == folder and when > at]
            if folder != self.root and touched and not self.is_flushed(folder, at, min(touched)):
                self._blame(path, "was removed, but that was not flushed before its folder changed")


def order(place: Place) -> list[Row]:
    """A whole run, then one that redoes the student and what comes after."""
    row = Row("order", "order of flushes and commits in system calls")
    if not shutil.which("strace"):
        row.notes = "needs strace: apt-get install strace"
        return [row]
    config, storage, facts = place.config(), place.new("order"), []
    for words in ((), ("--set", "student.alpha=0.9")):
        trace = place.folder / f"trace-{len(facts)}"
        started = Started.run(config, storage, *words, prefix=(*STRACE, str(trace)))
        code = started.wait()
        if code:
            raise RuntimeError(f"under strace the run ended with {code}: {started.said()}")
        text = trace.read_text(errors="replace")
        story = Story.of(text, str(storage / "default"))
        manifests, named = story.check(text.count("\n") + 1)
        facts.append(f"{len(story.published)} names published, {manifests} manifests that name {named} files")
        problems = story.problems if manifests else ["no manifest was seen"]
        row.tried += len(story.published)
        row.good += len(story.published) - len(set(problems))
        row.problems += sorted(set(problems))
    row.notes = "; redone: ".join(facts)
    return [row]
