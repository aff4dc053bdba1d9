"""Trained members as they lie in the run directory, and as one ensemble that labels rows.

Axes: M members, K members of a pack, N rows, D features, C classes (1 for a regression).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load

from kd_ray import estimators, knobs, modules, saved
from kd_ray.concurrency import in_order
from kd_ray.config import Config
from kd_ray.errors import ManifestError
from kd_ray.estimators import Problem
from kd_ray.groups import Member, columns_of, members, saw
from kd_ray.models import MLP
from kd_ray.packing import PackedMLP
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.tables import TEACHERS_MANIFEST, Dataset
from kd_ray.tasks import task_of
from kd_ray.tensors import read_weights


def spec_of(model: knobs.Model, data: Dataset | Problem) -> MLP:
    return MLP.of(
        n_features=len(data.levels_D),
        hidden=model.hidden,
        n_classes=data.n_outputs,
        dropout=model.dropout,
        levels=data.levels_D,
        one_hot=model.one_hot,
        embedding=model.embedding,
    )


def problem_of(data: Dataset, teachers: knobs.Teachers, threads: int = 1) -> Problem:
    return Problem(
        n_outputs=data.n_outputs,
        is_regression=data.is_regression,
        levels_D=data.levels_D,
        threads=threads,
        clip=teachers.clip,
    )


def member_manifest(run: RunDir, member: Member) -> Manifest:
    """Raises ManifestError where the member is not there."""
    manifest = run.manifest(member.manifest)
    if manifest is None:
        raise ManifestError(f"{run}/{member.manifest}: is missing; run again to train it")
    return manifest


def file_of(run: RunDir, member: Member) -> FileRecord:
    """Return the file that holds a member. Raises ManifestError where there is none."""
    files = member_manifest(run, member).files
    if len(files) != 1:
        raise ManifestError(f"{run}/{member.manifest}: must name one file; it names {len(files)}")
    return files[0]


def trained(run: RunDir, teachers: knobs.Teachers) -> list[Member]:
    """Return the members of the ensemble: all but those that failed and were let go by `teachers.allow_failures`."""
    manifest = run.manifest(TEACHERS_MANIFEST)
    failed = {entry["seed"] for entry in manifest.summary.get("failed", [])} if manifest else set()
    return [member for member in members(teachers) if member.number not in failed]


def finished_members(run: RunDir, wanted: list[Member], teachers: str) -> dict[int, Manifest]:
    """Return the manifests of those of `wanted` that are there with their fingerprint and whole files.

    `teachers` is the fingerprint of what all members share. One listing tells which are there and their sizes.
    """
    sizes = run.sizes("teachers")
    there = [member for member in wanted if member.manifest in sizes]

    def found(member: Member) -> Manifest | None:
        try:
            return run.manifest(member.manifest)
        except ManifestError:
            return None

    return {
        member.number: manifest
        for member, manifest in zip(there, in_order(found, there), strict=True)
        if manifest
        and manifest.fingerprint == member.fingerprint(teachers)
        and all(sizes.get(record.path) == record.bytes for record in manifest.files)
    }


Say = Callable[[torch.Tensor, np.ndarray | None], torch.Tensor]
"""Features of rows, and their words (None for rows that have none), to logits_KNC."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """All members, ready to say logits; networks of one architecture are a pack."""

    members: list[Member]
    parts: list[tuple[list[int], Say]]
    """Places of members in `members`, and what gives their logits."""
    weight_M: np.ndarray
    """Each member's weight in the mean; 1 where all are equal."""
    is_given_M: np.ndarray
    """Which members' words are columns of the table: they say nothing of other rows."""
    teachers: knobs.Teachers
    seed: int

    def logits(self, features_ND: torch.Tensor, word_NX: np.ndarray | None = None) -> torch.Tensor:
        """Return every member's logits_MNC of the same rows, 0 for members that have no word of them."""
        if len(self.parts) == 1:
            return self.parts[0][1](features_ND, word_NX)
        said = [(numbers, say(features_ND, word_NX)) for numbers, say in self.parts]
        out_MNC = said[0][1].new_empty(len(self.weight_M), *said[0][1].shape[1:])
        for numbers, logits_KNC in said:
            out_MNC[numbers] = logits_KNC
        return out_MNC

    def mean(
        self, logits_MNC: torch.Tensor, row_id_N: np.ndarray, *, learned_N: np.ndarray, have_words: bool
    ) -> torch.Tensor:
        """Return the weighted mean over members, summed member by member: the same bits for a row wherever it stands.

        Rows that are `learned_N` are averaged over the members that did not learn from them, where `teachers.folds`
        keeps some from it; rows that do not `have_words`, over the members that need none.
        """
        folds = self.teachers.folds > 1 and bool(learned_N.any())
        if not folds and (have_words or not self.is_given_M.any()):
            return mean_in_order(logits_MNC, self.weight_M)
        weight_MN = np.repeat(self.weight_M[:, None] * (have_words | ~self.is_given_M[:, None]), len(row_id_N), 1)
        if folds:
            for m in np.flatnonzero(~self.is_given_M):
                weight_MN[m] *= ~(learned_N & saw(self.members[m].number, row_id_N, self.teachers, self.seed))
        total_NC = torch.zeros_like(logits_MNC[0])
        for weight_N, logits_NC in zip(torch.from_numpy(weight_MN).to(logits_MNC), logits_MNC, strict=True):
            total_NC += weight_N.unsqueeze(1) * logits_NC
        return total_NC / torch.from_numpy(weight_MN.sum(0)).to(logits_MNC).unsqueeze(1)


def load_ensemble(
    run: RunDir,
    teachers: knobs.Teachers,
    seed: int,
    device: str = "cpu",
    threads: int = 1,
    *,
    every: list[Member] | None = None,
) -> Ensemble:
    """Return all members, or those given. Raises ManifestError where a file is not what was written."""
    data = Dataset.open(run)
    every = trained(run, teachers) if every is None else every
    problem = problem_of(data, teachers, threads)
    packs: dict[MLP, list[int]] = {}
    parts: list[tuple[list[int], Say]] = []
    words = 0
    for place, member in enumerate(every):
        if member.is_network:
            packs.setdefault(spec_of(member.group.model, data), []).append(place)
        elif member.group.kind == "columns":
            parts.append(([place], _given(member, words, data, problem)))
            words += len(member.group.columns[0])
        else:
            parts.append(([place], _alone(run, member, problem, device)))
    manifest = run.manifest(TEACHERS_MANIFEST)
    records = {record.path.rpartition("/")[0]: record for record in manifest.files} if manifest else {}
    for spec, places in packs.items():
        networks = [every[place] for place in places]
        parts.append((places, _packed(run, networks, records, spec, teachers, seed, device)))
    weights = manifest.summary.get("weights") if manifest else None
    return Ensemble(
        members=every,
        parts=parts,
        weight_M=np.array(weights or [1.0] * len(every), np.float32),
        is_given_M=np.array([member.group.kind == "columns" for member in every]),
        teachers=teachers,
        seed=seed,
    )


def _packed(
    run: RunDir,
    networks: list[Member],
    records: dict[str, FileRecord],
    spec: MLP,
    teachers: knobs.Teachers,
    seed: int,
    device: str,
) -> Say:
    def weights_of(member: Member) -> dict[str, torch.Tensor]:
        return read_weights(run, records.get(member.folder) or file_of(run, member), spec)

    pack = PackedMLP(spec, len(networks), device)
    for k, (member, weights) in enumerate(zip(networks, in_order(weights_of, networks), strict=True)):
        pack.load(k, weights)
        if member.group.kind == "mlp":
            pack.show(k, columns_of(member.number, spec.n_features, teachers, seed))
    return lambda features_ND, word_NX: pack.logits(features_ND)


def _alone(run: RunDir, member: Member, problem: Problem, device: str) -> Say:
    manifest = member_manifest(run, member)
    file, columns = file_of(run, member), manifest.summary["columns"]
    says = _says(member, run.read_checked(file), problem, device)

    def logits(features_ND: torch.Tensor, word_NX: np.ndarray | None) -> torch.Tensor:
        seen_ND = features_ND.cpu().numpy()
        seen_ND = seen_ND if columns is None else seen_ND[:, columns]
        return torch.from_numpy(says(seen_ND)).to(features_ND.device).unsqueeze(0)

    return logits


def _says(member: Member, content: bytes, problem: Problem, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns features into a member's logits, float32, shape [N, C]."""
    group = member.group
    if group.kind == "torch":
        module = modules.make(group, len(problem.levels_D), problem.n_outputs).to(device)
        module.load_state_dict(load(content))
        return lambda features_ND: modules.says(module, features_ND)
    if group.kind == "saved":
        session = saved.session_of(content, member.name, problem.threads)
        return lambda features_ND: problem.words(
            saved.ask(session, features_ND, problem.n_outputs, member.name), group.values
        )
    says = estimators.load(group.kind, content, problem, member.name)
    return lambda features_ND: problem.logits(says, features_ND)


def _given(member: Member, first: int, data: Dataset, problem: Problem) -> Say:
    past = first + len(member.group.columns[0])

    def logits(features_ND: torch.Tensor, word_NX: np.ndarray | None) -> torch.Tensor:
        if word_NX is None:
            return features_ND.new_zeros(1, len(features_ND), problem.n_outputs)
        said_NC = word_NX[:, first:past].astype(np.float64)
        if data.is_regression:
            said_NC = (said_NC - data.schema["task"]["mean"]) / data.schema["task"]["scale"]
        return torch.from_numpy(problem.words(said_NC, member.group.values)).to(features_ND.device).unsqueeze(0)

    return logits


def mean_in_order(logits_MNC: torch.Tensor, weight_M: np.ndarray | None = None) -> torch.Tensor:
    """Return the mean over members, summed member by member: the same bits for a row wherever it stands.

    torch's own mean adds in an order that depends on the shape.
    """
    if weight_M is None or (weight_M == weight_M[0]).all():
        weight_M = np.ones(len(logits_MNC), np.float32)
    total_NC = logits_MNC[0] * float(weight_M[0])
    for weight, logits_NC in zip(weight_M[1:], logits_MNC[1:], strict=True):
        total_NC += logits_NC if weight == 1 else logits_NC * float(weight)
    return total_NC / float(weight_M.sum())


def average_log_probs(logits_MNC: torch.Tensor, averaging: str, weight_M: np.ndarray | None = None) -> torch.Tensor:
    """Return the ensemble's log-probabilities, shape [N, C], from its members' logits or log-probabilities.

    `logits` averages logits (a geometric mean of the members' distributions, normalised), `probabilities`
    averages probabilities.
    """
    if weight_M is None or (weight_M == weight_M[0]).all():
        if averaging == "logits":
            return logits_MNC.mean(0).log_softmax(-1)
        return logits_MNC.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits_MNC))).log()
    share_M11 = torch.from_numpy(weight_M / weight_M.sum()).to(logits_MNC).view(-1, 1, 1)
    if averaging == "logits":
        return (logits_MNC * share_M11).sum(0).log_softmax(-1)
    return (logits_MNC.log_softmax(-1) + share_M11.log()).logsumexp(0)


@dataclass(frozen=True)
class EnsembleModel:
    """The teachers, to score a table; their words that are columns of it are read from it."""

    run: RunDir
    config: Config

    def columns(self) -> list[str]:
        return [*Dataset.open(self.run).preprocessor.columns, *self.config.teachers.words]

    def __call__(self, table: pa.Table) -> np.ndarray:
        data, words = Dataset.open(self.run), self.config.teachers.words
        ensemble = load_ensemble(self.run, self.config.teachers, self.config.seed)
        word_NX = np.stack([table[name].to_numpy() for name in words], 1) if words else None
        with torch.no_grad():
            values_MNC = ensemble.logits(torch.from_numpy(data.preprocessor.apply(table)), word_NX).double()
            if data.is_regression:
                return task_of(data.schema).says(mean_in_order(values_MNC, ensemble.weight_M).numpy())
            averaging = self.config.student.averaging
            return average_log_probs(values_MNC, averaging, ensemble.weight_M).exp().float().numpy()
