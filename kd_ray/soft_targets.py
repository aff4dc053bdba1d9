"""Stage 3: Ray Data has the packed ensemble label the transfer set, shard by shard, into verified Parquet.

The rows of the Ray Data pipeline are shards: an actor of its pool reads a shard's parent rows, synthesizes,
labels and writes it whole, and only the file's record travels back. So no labelled row passes the object store,
memory does not grow with the rows, and a shard that is retried replaces itself.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from kd_ray import knobs, tables
from kd_ray.config import Config
from kd_ray.ensemble import load_ensemble, spec_of, trained
from kd_ray.errors import KdRayError, LabellingError
from kd_ray.groups import Member
from kd_ray.journal import Journal
from kd_ray.progress import Report
from kd_ray.rundir import FileRecord, Manifest, RunDir
from kd_ray.rundir import fingerprint as fingerprint_of
from kd_ray.scheduling import Ask, patience
from kd_ray.session import Session, hush
from kd_ray.tables import PARENTS, SOFT_TARGETS_MANIFEST, TEACHERS_MANIFEST, Dataset, Positions
from kd_ray.transfer import Pool, Shard, Synthesis, shards
from kd_ray.transfer_set import known

MAX_MEMBER_VALUES = 1024
ROWS_PER_FILE = 131_072
POOL_ROWS = 1_000_000
NEIGHBOURS = 65_536  # rows of the pool where every parent is compared with all of them
ROWS_AT_ONCE = 16_384
ATTEMPTS = 3  # in a row that bring nothing


def label(config: Config, run: RunDir, session: Session, report: Report, fingerprint: str) -> dict[str, Any]:
    """Label what is not labelled yet of the transfer set and write its manifest.

    Raises ResourceError, ManifestError, LabellingError.
    """
    data, wanted, every = Dataset.open(run), config.soft_targets, trained(run, config.teachers)
    synthesis = Synthesis(seed=config.seed, **wanted.transfer.model_dump())
    ask = Ask(cpus=1.0, gpus=1.0 if session.total("GPU") >= 1 else 0.0)
    slots = session.slots(ask, stage="soft_targets")
    total = len(Positions(data, *PARENTS)) * synthesis.copies
    journal = Journal.open(run, _of_what(data, fingerprint), _rows_per_file(wanted, total, slots))
    plan = shards(total, journal.rows_per_file)
    keep_members = wanted.member_log_probs and len(every) * data.n_outputs <= MAX_MEMBER_VALUES
    pool = ray.put(_pool(data, synthesis)) if synthesis.copies > 1 else None
    patient = _patience(config, data, every, journal.rows_per_file)

    def labelled(missing: list[Shard]) -> Iterator[dict[str, Any]]:
        how = (run, config, synthesis, pool, keep_members)
        return _label_all(missing, how, ask, slots, may_grow=not session.is_local, patient=patient)

    def tell() -> None:
        done = journal.rows.total()
        report(done, total, f"{done:,} of {total:,} rows labelled")

    _complete(plan, journal, labelled, tell)
    summary = {
        "rows": total,
        "origins": dict(sorted(journal.rows.items())),
        "teachers": len(every),
        "classes": data.schema["task"].get("classes"),
        "temperature": 1.0,
        "member_log_probs": keep_members,
    }
    files = [journal.records[shard.number] for shard in plan]
    manifest = Manifest(fingerprint=fingerprint, files=files, summary=summary)
    run.commit(SOFT_TARGETS_MANIFEST, manifest)
    journal.close()
    return summary


def _of_what(data: Dataset, fingerprint: str) -> str:
    """Stand for the very rows and weights: members that failed or were trained again elsewhere make other labels."""
    teachers = data.run.manifest(TEACHERS_MANIFEST)
    records = [*data.manifest.files, *(teachers.files if teachers else [])]
    weights = teachers.summary.get("weights") if teachers else None
    return fingerprint_of(fingerprint, [asdict(record) for record in records], weights)


def _patience(config: Config, data: Dataset, every: list[Member], rows: int) -> float:
    """Seconds in which at least one file of `rows` must be finished."""
    given = config.soft_targets.deadline_seconds
    if given != "auto":
        return given
    asked = [member for member in every if member.group.kind != "columns"]
    if all(member.is_network for member in asked):
        return 2 * patience(work=float(rows) * sum(_parameters(member, data) for member in asked), slowest=None)
    return patience(work=None, slowest=None)


def _parameters(member: Member, data: Dataset) -> int:
    return spec_of(member.group.model, data).n_parameters


def _complete(
    plan: list[Shard],
    journal: Journal,
    labelled: Callable[[list[Shard]], Iterator[dict[str, Any]]],
    tell: Callable[[], None],
) -> None:
    """Have the shards labelled that are missing; begin again where workers die or hang, unless that brings nothing."""
    fruitless, why = 0, ""
    while missing := [shard for shard in plan if shard.number not in journal.records]:
        if fruitless == ATTEMPTS:
            names = ", ".join(str(shard.number) for shard in missing[:10]) + (", ..." if missing[10:] else "")
            raise LabellingError(
                f"soft_targets: {len(missing)} of {len(plan)} files could not be labelled ({names}): their workers "
                f"died or hung {ATTEMPTS} times in a row, at last: {why}; they may need more memory (lower "
                "soft_targets.rows_per_file) or more time (soft_targets.deadline_seconds); what is labelled is kept"
            )
        fruitless += 1
        try:
            for record in labelled(missing):
                number, origins = record.pop("number"), json.loads(record.pop("origins"))
                journal.add(number, FileRecord(**record), origins)
                fruitless = 0
                tell()
        except _LostError as lost:
            why = str(lost)
        finally:
            journal.write()


class _LostError(Exception):
    """The workers are gone, or bring nothing any more."""


def _rows_per_file(config: knobs.SoftTargets, total: int, slots: int) -> int:
    """The given number, or such that every slot has a part and no file is large."""
    if config.rows_per_file != "auto":
        return config.rows_per_file
    return min(ROWS_PER_FILE, math.ceil(total / slots))


def _pool(data: Dataset, synthesis: Synthesis) -> Pool:
    """The training rows, or as many of them as a kind of synthesis can look through, spread evenly."""
    rows = data.rows("train")
    most = NEIGHBOURS if synthesis.needs_neighbours else POOL_ROWS
    spread = rows.at(slice(None, None, math.ceil(len(rows.label_N) / most)))
    return Pool.of(spread, data.schema["features"]["names"], data.levels_D)


def _label_all(
    plan: list[Shard], how: tuple[Any, ...], ask: Ask, slots: int, *, may_grow: bool, patient: float
) -> Iterator[dict[str, Any]]:
    """Yield each shard's record as it is written. Raises _LostError where no worker brings anything for `patient` s."""
    import ray.data

    hush()
    size = min(slots, len(plan))
    # A cluster may grow while it labels; nodes that come are given work.
    pool = ray.data.ActorPoolStrategy(min_size=size, max_size=len(plan) if may_grow else size)
    items = [{"number": s.number, "start": s.start, "stop": s.stop} for s in plan]
    context = ray.data.DataContext.get_current()
    before, context.execution_no_progress_timeout_s = context.execution_no_progress_timeout_s, patient
    try:
        labelled = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Labeller,
            fn_constructor_args=how,
            batch_size=1,
            compute=pool,
            num_cpus=ask.cpus,
            num_gpus=ask.gpus or None,
        )
        yield from labelled.iter_rows()
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        raise _LostError(str(error).strip().splitlines()[0]) from error
    finally:
        context.execution_no_progress_timeout_s = before


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

    def __init__(self, run: RunDir, config: Config, synthesis: Synthesis, pool: Any, keep_members: bool) -> None:
        data = Dataset.open(run)
        self.run, self.synthesis, self.keep_members = run, synthesis, keep_members
        self.device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        torch.set_num_threads(1)
        self.ensemble = load_ensemble(run, config.teachers, config.seed, self.device)
        self.parents, self.is_regression = (
            Positions(data, *PARENTS, words=config.teachers.words),
            data.is_regression,
        )
        self.n_source_rows = sum(data.schema["rows"].values())
        self.pool: Pool | None = None if pool is None else ray.get(pool)

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
            "origins": [json.dumps(Counter(table["origin"].to_pylist()))],
        }

    def _table(self, copy: int, first: int, past: int) -> pa.Table:
        """Label copy `copy` of the parents at positions `first` to `past` - 1."""
        parents = self.parents.take(first, past)
        row_id_N = parents.row_id_N + copy * self.n_source_rows
        features_ND, is_known_N = parents.features_ND, known(parents.label_N)
        origin_N = np.where(is_known_N, *PARENTS)
        if copy:
            assert self.pool is not None
            features_ND = self.synthesis.rows(row_id_N, parents, self.pool)
            origin_N, is_known_N = self.synthesis.kinds(row_id_N), np.zeros_like(is_known_N)
        with torch.no_grad():
            on_device_ND = torch.from_numpy(np.array(features_ND)).to(self.device)
            logits_MNC = self.ensemble.logits(on_device_ND, None if copy else parents.word_NX)
            mean_NC = self.ensemble.mean(logits_MNC, row_id_N, learned_N=is_known_N, have_words=not copy)
            said_MNC = logits_MNC if self.is_regression else logits_MNC.log_softmax(-1)
            said_NX = said_MNC.half().permute(1, 0, 2).flatten(1).cpu().numpy()
        label_type = pa.float32() if self.is_regression else pa.int32()
        columns = {
            "row_id": pa.array(row_id_N, pa.int64()),
            "parent_row_id": pa.array(parents.row_id_N, pa.int64()),
            "origin": pa.array(origin_N, pa.string()),
            "features": tables.fixed_lists(features_ND, pa.float32()),
            "label": pa.array(parents.label_N, label_type, mask=~is_known_N),
            "logits": tables.fixed_lists(mean_NC.cpu().numpy(), pa.float32()),
        }
        if self.keep_members:
            columns["member_log_probs"] = tables.fixed_lists(said_NX, pa.float16())
        return pa.table(columns)
