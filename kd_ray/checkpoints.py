"""Trainings under way: what they have after an epoch, kept in the run, so that a killed one need not begin anew.

A checkpoint is one safetensors file whose name holds its sha256: it appears whole, and one that was damaged is not
believed. It holds members, not packs: those that are kept after as many epochs may go on in any company, and end in
the bits that they would have had undisturbed.

Axes: K members, Q numbers of one member, E epochs done, X numbers noted of a member each epoch.
"""

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from kd_ray.feeds import Feed, Share
from kd_ray.optimizers import Adam
from kd_ray.packing import PackedMLP
from kd_ray.rundir import RunDir

MAX_HEADER = 64 << 20
_TENSORS = ("weights_Q", "mean_Q", "square_Q")
TEACHERS, STUDENT = "checkpoints/teachers", "checkpoints/student"


@dataclass(frozen=True, kw_only=True)
class MemberState:
    """What a member's further training depends on, once some epochs are done; `streams` is JSON."""

    weights_Q: torch.Tensor
    mean_Q: torch.Tensor
    square_Q: torch.Tensor
    streams: dict[str, Any]


@dataclass(frozen=True)
class State:
    """All that changes from epoch to epoch."""

    pack: PackedMLP
    adam: Adam
    feeds: list[Feed]
    dropout: list[np.random.Generator]
    share: Share

    @property
    def _tensors_P(self) -> dict[str, torch.Tensor]:
        return {"weights_Q": self.pack.flat_P, "mean_Q": self.adam.mean_P, "square_Q": self.adam.square_P}

    def of_members(self) -> list[MemberState]:
        drops_RK = self.share.gather([_state_of(stream) for stream in self.dropout])
        return [
            MemberState(
                **{name: self.pack.part(value_P, k) for name, value_P in self._tensors_P.items()},
                streams={"feed": feed.state, "dropout": [drops_K[k] for drops_K in drops_RK]},
            )
            for k, feed in enumerate(self.feeds)
        ]

    def resume(self, checkpoint: "Checkpoint", steps: int) -> int:
        """Take up what was kept; return the epochs that are done. As many workers as then draw the same dropout."""
        epochs, states = checkpoint.found() or (0, [])
        if len(every := set(self.share.gather(epochs))) > 1:
            raise RuntimeError(f"{checkpoint.folder}: workers found checkpoints of epochs {sorted(every)}, not of one")
        for k, state in enumerate(states):
            for name, value_P in self._tensors_P.items():
                self.pack.put(value_P, k, getattr(state, name))
            self.feeds[k].resume(state.streams["feed"])
            if len(state.streams["dropout"]) == self.share.world:
                self.dropout[k].bit_generator.state = _stream_of(state.streams["dropout"][self.share.rank])
        self.adam.done(epochs * steps)
        return epochs


def _state_of(stream: np.random.Generator) -> dict[str, Any]:
    """JSON of a stream of SFC64, whose words numpy has as an array."""
    state: dict[str, Any] = dict(stream.bit_generator.state)
    return state | {"state": {"state": state["state"]["state"].tolist()}}


def _stream_of(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"state": {"state": np.array(state["state"]["state"], np.uint64)}}


@dataclass
class Checkpoint:
    """Where a pack of `keys`, which say what each member is a function of, keeps what it has in `folder`.

    Every `seconds` is one due; a process that may not write only reads. `history` is what was noted after each epoch,
    X numbers of each of the K members.
    """

    run: RunDir
    folder: str
    keys: list[str]
    seconds: float
    writes: bool = True
    history: list[np.ndarray] = field(default_factory=list)
    spent: float = 0.0
    """Seconds of training before this process's own."""
    taken_up: list[int] = field(default_factory=list)
    """The epochs after which this training was taken up, once each time."""

    def __post_init__(self) -> None:
        self._begun = self._kept = time.perf_counter()
        self._file: str | None = None

    @property
    def trained_seconds(self) -> float:
        return self.spent + time.perf_counter() - self._begun

    def is_due(self) -> bool:
        return self.writes and time.perf_counter() - self._kept >= self.seconds

    def keep(self, epochs: int, states: list[MemberState]) -> None:
        """Write the states in the place of what was written before. Raises StorageError."""
        if not self.writes:
            return
        noted_EXK = np.stack(self.history)
        tensors: dict[str, torch.Tensor] = {}
        streams = {}
        for k, (key, state) in enumerate(zip(self.keys, states, strict=True)):
            tensors |= {f"{key}.{name}": getattr(state, name) for name in _TENSORS}
            tensors[f"{key}.noted_EX"] = torch.from_numpy(noted_EXK[:, :, k].copy())
            streams[key] = state.streams
        facts = {"epochs": epochs, "seconds": self.trained_seconds, "taken_up": self.taken_up, "streams": streams}
        content = save(tensors, {"kept": json.dumps(facts)})
        before, self._file = self._file, f"{self.folder}/{hashlib.sha256(content).hexdigest()}.safetensors"
        self.run.write_bytes(self._file, content)
        if before and before != self._file:
            self.run.remove(before)
        self._kept = time.perf_counter()

    def found(self) -> tuple[int, list[MemberState]] | None:
        """Return the epochs done and each member's state; None unless all of them were kept after as many epochs."""
        there = {key: kept for kept in _kept(self.run, self.folder) for key in kept.streams}
        mine = [there[key] for key in self.keys if key in there]
        files = {kept.path: kept for kept in mine}
        tensors: dict[str, torch.Tensor] = {}
        for path in files:
            tensors |= _checked(self.run, path)
        if len(mine) < len(self.keys) or len({kept.epochs for kept in mine}) > 1 or not tensors:
            return None
        states = [
            MemberState(**{name: tensors[f"{key}.{name}"] for name in _TENSORS}, streams=kept.streams[key])
            for key, kept in zip(self.keys, mine, strict=True)
        ]
        noted_KEX = [tensors[f"{key}.noted_EX"].numpy() for key in self.keys]
        self.history = list(np.stack(noted_KEX, -1))
        self.spent = max(kept.seconds for kept in files.values())
        self.taken_up = [*max((kept.taken_up for kept in files.values()), key=len), mine[0].epochs]
        return mine[0].epochs, states

    def remove(self) -> None:
        """Take away what this process has written, once the members themselves are."""
        if self._file:
            self.run.remove(self._file)
            self._file = None


def epochs_kept(run: RunDir, folder: str) -> dict[str, int]:
    """Return the epochs after which each member, by its key, was last kept."""
    return {key: kept.epochs for kept in _kept(run, folder) for key in kept.streams}


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What a checkpoint's header says; its tensors are not read for it."""

    path: str
    epochs: int
    seconds: float
    taken_up: list[int]
    streams: dict[str, Any]


def _kept(run: RunDir, folder: str) -> list[_Kept]:
    """Return what lies there, the latest last. What cannot be read is as if it were not there."""
    found = []
    for path in run.sizes(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with run.filesystem.open_input_file(run.path(path)) as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(size, MAX_HEADER)))
            facts = json.loads(header["__metadata__"]["kept"])
            found.append(_Kept(path=path, **facts))
    return sorted(found, key=lambda kept: kept.epochs)


def _checked(run: RunDir, path: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors, none where it is not what its name says."""
    content = run.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != PurePosixPath(path).stem:
        return {}
    return load(content)
