"""Stage 3: Ray Data has the packed ensemble label the transfer set, shard by shard, into verified Parquet.

The rows of the Ray Data pipeline are shards: an actor of its pool reads a shard's parent rows, synthesizes,
labels and writes it whole, and only the file's record travels back. So no labelled row passes the object store,
memory does not grow with the rows, and a shard that is retried replaces itself.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from kd_ray import config as knobs
from kd_ray import tables
from kd_ray.ensemble import load_ensemble, mean_in_order, spec_of
from kd_ray.errors import KdRayError, ManifestError
from kd_ray.models import MLP
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.scheduling import Ask
from kd_ray.session import Session
from kd_ray.tables import SOFT_TARGETS_MANIFEST, Dataset, Positions
from kd_ray.transfer import Shard, Synthesis, shards

MAX_MEMBER_VALUES = 1024
ROWS_PER_FILE = 131_072
POOL_ROWS = 1_000_000
ROWS_AT_ONCE = 16_384


def label(config: knobs.Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Label the transfer set and write its manifest. Raises ResourceError, ManifestError."""
    data, wanted, members = Dataset.open(run), config.soft_targets, config.teachers.count
    synthesis = Synthesis(seed=config.seed, **wanted.transfer.model_dump())
    ask = Ask(cpus=1.0, gpus=1.0 if session.total("GPU") >= 1 else 0.0)
    slots = session.slots(ask, stage="soft_targets")
    total = len(Positions(data, "train")) * synthesis.copies
    plan = shards(total, _rows_per_file(wanted, total, slots))
    run.remove("soft_targets")
    spec = spec_of(config.teachers.model, data)
    keep_members = wanted.member_log_probs and members * spec.n_classes <= MAX_MEMBER_VALUES
    pool = ray.put(_pool(data)) if synthesis.needs_pool else None
    records: dict[int, FileRecord] = {}
    rows = 0
    for record in _label_all(plan, (run, spec, members, synthesis, pool, keep_members), ask, slots):
        number = record.pop("number")
        records[number] = FileRecord(**record)
        rows += record["rows"]
        report(rows, total, f"{rows:,} of {total:,} rows labelled")
    if sorted(records) != [shard.number for shard in plan]:
        raise ManifestError(f"{run}/soft_targets: {len(records)} of {len(plan)} shards came back; run again")
    summary = {
        "rows": total,
        "origins": {"train": total // synthesis.copies, synthesis.kind: total - total // synthesis.copies}
        if synthesis.copies > 1
        else {"train": total},
        "teachers": members,
        "classes": data.schema["task"]["classes"],
        "temperature": 1.0,
        "member_log_probs": keep_members,
    }
    files = [records[shard.number] for shard in plan]
    manifest = Manifest(fingerprint=fingerprint, files=files, summary=summary)
    run.write_bytes(SOFT_TARGETS_MANIFEST, manifest.to_json())
    return summary


def _rows_per_file(config: knobs.SoftTargets, total: int, slots: int) -> int:
    """The given number, or such that every slot has a part and no file is large."""
    if config.rows_per_file != "auto":
        return config.rows_per_file
    return min(ROWS_PER_FILE, math.ceil(total / slots))


def _pool(data: Dataset) -> np.ndarray:
    """Rows that mixup and swap draw partners from: the training rows, or as many of them spread evenly."""
    features_ND = data.rows("train").features_ND
    return np.ascontiguousarray(features_ND[:: math.ceil(len(features_ND) / POOL_ROWS)])


def _label_all(plan: list[Shard], how: tuple[Any, ...], ask: Ask, slots: int) -> Any:
    import ray.data

    pool = ray.data.ActorPoolStrategy(size=min(slots, len(plan)))
    items = [{"number": s.number, "start": s.start, "stop": s.stop} for s in plan]
    labelled = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Labeller,
        fn_constructor_args=how,
        batch_size=1,
        compute=pool,
        num_cpus=ask.cpus,
        num_gpus=ask.gpus or None,
    )
    try:
        yield from labelled.iter_rows()
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> BaseException:
    """Our own error in a chain of Ray's, or the chain's head."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, KdRayError):
            return at
        at = getattr(at, "cause", None) or at.__cause__
    return error


class Labeller:
    """Holds the packed ensemble on one device and turns shards into files."""

    def __init__(
        self, run: RunDir, spec: MLP, members: int, synthesis: Synthesis, pool: Any, keep_members: bool
    ) -> None:
        data = Dataset.open(run)
        self.run, self.synthesis, self.keep_members = run, synthesis, keep_members
        self.device = "cuda" if ray.get_gpu_ids() else "cpu"
        torch.set_num_threads(1)
        self.ensemble = load_ensemble(run, spec, members, self.device)
        self.parents = Positions(data, "train")
        self.n_source_rows = sum(data.schema["rows"].values())
        self.pool_ND = None if pool is None else ray.get(pool)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        shard = Shard(number=int(batch["number"][0]), start=int(batch["start"][0]), stop=int(batch["stop"][0]))
        table = pa.concat_tables(
            self._table(copy, at, min(at + ROWS_AT_ONCE, past))
            for copy, first, past in shard.spans(len(self.parents))
            for at in range(first, past, ROWS_AT_ONCE)
        )
        record = tables.write(self.run, shard.path, table)
        return {
            "number": [shard.number],
            "path": [record.path],
            "bytes": [record.bytes],
            "sha256": [record.sha256],
            "rows": [record.rows],
        }

    def _table(self, copy: int, first: int, past: int) -> pa.Table:
        """Label copy `copy` of the parents at positions `first` to `past` - 1."""
        parents = self.parents.take(first, past)
        row_id_N = parents.row_id_N + copy * self.n_source_rows
        if copy:
            features_ND = self.synthesis.rows(row_id_N, parents.features_ND, self.pool_ND).astype(np.float32)
        else:
            features_ND = parents.features_ND
        with torch.no_grad():
            logits_KNC = self.ensemble.logits(torch.from_numpy(np.array(features_ND)).to(self.device))
            mean_NC = mean_in_order(logits_KNC).cpu().numpy()
            log_probs_NX = logits_KNC.log_softmax(-1).half().permute(1, 0, 2).flatten(1).cpu().numpy()
        rows = len(row_id_N)
        columns = {
            "row_id": pa.array(row_id_N, pa.int64()),
            "parent_row_id": pa.array(parents.row_id_N, pa.int64()),
            "origin": pa.array([self.synthesis.kind if copy else "train"] * rows, pa.string()),
            "features": tables.fixed_lists(features_ND, pa.float32()),
            "label": pa.nulls(rows, pa.int32()) if copy else pa.array(parents.label_N, pa.int32()),
            "logits": tables.fixed_lists(mean_NC, pa.float32()),
        }
        if self.keep_members:
            columns["member_log_probs"] = tables.fixed_lists(log_probs_NX, pa.float16())
        return pa.table(columns)
