"""What an actor does: train packs of networks, or one other member at a time, and write each where it belongs."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import save

from kd_ray import estimators, knobs, modules
from kd_ray.checkpoints import TEACHERS, Checkpoint
from kd_ray.concurrency import in_order
from kd_ray.ensemble import problem_of, spec_of
from kd_ray.groups import Member, columns_of, rows_of
from kd_ray.losses import Loss, cross_entropy, reweighted, squared_error
from kd_ray.packing import PackedMLP
from kd_ray.rundir import FileRecord, Manifest
from kd_ray.tables import Dataset, Rows
from kd_ray.tasks import task_of
from kd_ray.training import Recipe, diverged, fit


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an actor needs to know to train any member."""

    data: Dataset
    teachers: knobs.Teachers
    members: list[Member]
    seed: int
    fingerprint: str
    threads: int
    gpus: float
    news_seconds: float
    """The least time between two words of an epoch: many actors talk to one driver."""


LANDED_AT_ONCE = 16


def recipe_of(config: knobs.Teachers, n_rows: int) -> Recipe:
    """An epoch is a pass over the rows that a member learns from, which with folds are all but its own."""
    if config.folds > 1:
        n_rows = round(n_rows * (1 - 1 / config.folds))
    return Recipe.of(config, n_rows)


class TeacherActor:
    """Trains packs of members on one device slot and writes each member where it belongs."""

    def __init__(self, work: Work, table: tuple[Rows, Rows]) -> None:
        torch.set_num_threads(work.threads)
        self.work = work
        # GPUs that Ray counts may be there in name only; where 0 are given, others' are still to be seen.
        self.device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        if self.device == "cuda" and work.gpus < 1:
            torch.cuda.set_per_process_memory_fraction(work.gpus)
        self.train_rows, valid_rows = table
        self.task = task_of(work.data.schema)
        self.judged, self.judged_on = (
            (valid_rows, "validation") if len(valid_rows.label_N) else (self.train_rows, "training")
        )

    def ready(self) -> dict[str, Any]:
        """Return the node it runs on, and the bytes of its device, its share where that is one of several."""
        device = None
        if self.device == "cuda":
            device = torch.cuda.get_device_properties(0).total_memory * min(1.0, self.work.gpus)
        return {"node": ray.get_runtime_context().get_node_id(), "device": device}

    def train(self, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """Yield {progress} now and then, {failed} of members that diverge, {landed} of those that are written."""
        said = time.monotonic()
        for news in self._train([self.work.members[number] for number in numbers]):
            if len(news) > 1 or time.monotonic() - said >= self.work.news_seconds:
                said = time.monotonic()
                yield news

    def _train(self, pack: list[Member]) -> Iterator[dict[str, Any]]:
        for member in pack:
            self.work.data.run.remove(member.manifest)
        if pack[0].group.kind == "mlp":
            yield from self._train_networks(pack)
        elif pack[0].group.kind == "torch":
            yield from self._train_module(pack[0])
        else:
            yield _landed([self._train_estimator(pack[0])])

    def _train_networks(self, members: list[Member]) -> Iterator[dict[str, Any]]:
        work, rows = self.work, self.train_rows
        streams = [member.streams(work.seed) for member in members]
        spec = spec_of(members[0].group.model, work.data)
        pack = PackedMLP(spec, len(members), self.device)
        for k, (member, stream) in enumerate(zip(members, streams, strict=True)):
            pack.load(k, spec.initial_weights(stream.weights))
            pack.show(k, columns_of(member.number, work.data.n_features, work.teachers, work.seed))
        keys = [member.fingerprint(work.fingerprint) for member in members]
        kept = Checkpoint(work.data.run, TEACHERS, keys, work.teachers.checkpoint_seconds)
        lost: dict[int, str] = {}
        recipe = recipe_of(work.teachers, len(rows.label_N))
        names = [member.name for member in members]
        for loss_K in fit(
            pack,
            _tensor(rows.features_ND, self.device),
            _objective(rows, work.data.is_regression, self.device),
            rows=[rows_of(member.number, rows.row_id_N, work.teachers, work.seed) for member in members],
            streams=streams,
            recipe=recipe,
            names=names,
            may_diverge=True,
            checkpoint=kept,
        ):
            news = {k: why for k, why in diverged(loss_K, pack, names, len(kept.history)).items() if k not in lost}
            lost |= news
            kept.history.append(loss_K[None])
            progress = len(kept.history) / recipe.epochs
            failed = [(members[k].number, why) for k, why in news.items()]
            yield {"progress": progress, "failed": failed} if failed else {"progress": progress}
            if len(lost) == len(members):
                return
        seconds = kept.trained_seconds / len(members)
        with torch.no_grad():
            values_KNC = pack.logits(_tensor(self.judged.features_ND, self.device)).cpu().numpy()

        run_facts = {"seconds": seconds, "pack": len(members), "taken_up": kept.taken_up}

        def land(k: int) -> dict[str, Any]:
            member = members[k]
            facts = {"loss": [float(loss_1K[0, k]) for loss_1K in kept.history], **self._scores(values_KNC[k])}
            record = work.data.run.write_bytes(f"{member.folder}/model.safetensors", save(pack.weights(k)))
            return self._commit(member, record, facts, run_facts)

        landed: list[dict[str, Any]] = []
        sound = [k for k in range(len(members)) if k not in lost]
        for facts in in_order(land, sound):
            landed.append(facts)
            if len(landed) == LANDED_AT_ONCE:
                yield _landed(landed)
                landed = []
        if landed:
            yield _landed(landed)
        kept.remove()

    def _train_module(self, member: Member) -> Iterator[dict[str, Any]]:
        work, rows, streams = self.work, self.train_rows, member.streams(self.work.seed)
        torch.manual_seed(int(streams.weights.integers(2**63)))
        module = modules.make(member.group, work.data.n_features, work.data.n_outputs)
        recipe = recipe_of(work.teachers, len(rows.label_N))
        learns_from = rows_of(member.number, rows.row_id_N, work.teachers, work.seed)
        begun = time.perf_counter()
        losses = []
        for loss in modules.train(module, rows, learns_from, streams.shuffle, recipe, member.name, self.device):
            losses.append(loss)
            yield {"progress": len(losses) / recipe.epochs}
        facts = {"loss": losses, **self._scores(modules.says(module, self.judged.features_ND))}
        content = save({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})
        record = work.data.run.write_bytes(f"{member.folder}/model.safetensors", content)
        yield _landed([self._commit(member, record, facts, {"seconds": time.perf_counter() - begun, "pack": 1})])

    def _train_estimator(self, member: Member) -> dict[str, Any]:
        work, kind = self.work, member.group.kind
        problem = problem_of(work.data, work.teachers, work.threads)
        seen_D = columns_of(member.number, work.data.n_features, work.teachers, work.seed)
        columns = None if seen_D.all() else np.flatnonzero(seen_D).tolist()
        rows = self.train_rows.at(rows_of(member.number, self.train_rows.row_id_N, work.teachers, work.seed))
        begun = time.perf_counter()
        model = estimators.fit(member.group, member.number, rows.of_columns(columns), problem)
        seconds = time.perf_counter() - begun
        record = work.data.run.write_bytes(f"{member.folder}/{estimators.FILES[kind]}", estimators.save(kind, model))
        judged = self.judged.of_columns(columns)
        scores = self._scores(problem.logits(estimators.says(model, problem), judged.features_ND))
        return self._commit(member, record, scores, {"seconds": seconds, "pack": 1, "columns": columns})

    def _scores(self, values_NC: np.ndarray) -> dict[str, Any]:
        """Accuracy, or a regression's RMSE, on the validation rows, or on the training rows where there are none."""
        metric = next(iter(self.task.measures))
        truth_N = self.task.truth(self.judged.label_N)
        mean = self.task.rows(self.task.says(values_NC), truth_N)[metric].mean()
        return {metric: float(self.task.measures[metric].of_mean(mean)), f"{metric}_on": self.judged_on}

    def _commit(
        self, member: Member, record: FileRecord, metrics: dict[str, Any], facts: dict[str, Any]
    ) -> dict[str, Any]:
        summary = {
            "seed": member.number,
            "kind": member.group.kind,
            "metrics": metrics,
            "device": "cpu" if member.group.kind in estimators.KINDS else self.device,
            "columns": None,
            **facts,
        }
        manifest = Manifest(fingerprint=member.fingerprint(self.work.fingerprint), files=[record], summary=summary)
        self.work.data.run.commit(member.manifest, manifest)
        metric = next(iter(self.task.measures))
        return {
            "member": member.number,
            "files": [asdict(record)],
            "metric": metric,
            "score": metrics[metric],
            "rows": self.judged_on,
        }


def _landed(members: list[dict[str, Any]]) -> dict[str, Any]:
    return {"progress": 1.0, "landed": members}


def _objective(rows: Rows, is_regression: bool, device: str) -> Any:
    """Return the loss of the labels, each row with its own weight where weights differ."""
    label_N = _tensor(rows.label_N, device)
    weight_N = None if (rows.weight_N == 1).all() else _tensor(rows.weight_N, device)
    of_label = squared_error if is_regression else cross_entropy

    def loss(logits_CKB: torch.Tensor, rows_KB: torch.Tensor, weight_KB: torch.Tensor) -> Loss:
        if weight_N is not None:
            weight_KB = reweighted(weight_KB, weight_N.take(rows_KB), lambda _: None)
        return of_label(logits_CKB, label_N.take(rows_KB), weight_KB)

    return loss


def _tensor(values: np.ndarray, device: str) -> torch.Tensor:
    """Copy an array out of the read-only object store onto `device`."""
    return torch.from_numpy(np.array(values)).to(device)
