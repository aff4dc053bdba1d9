"""Packs as Ray Tune trials, and how far they are."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import ray
import ray.tune
import torch

from kd_ray import trials
from kd_ray.errors import KdRayError, RunError
from kd_ray.progress import Report
from kd_ray.scheduling import Ask
from kd_ray.trials import Pack, Work

SCRATCH = "ray_tune"
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}


class Watch(ray.tune.Callback):
    """Tells how far the packs of a rung are."""

    def __init__(self, packs: list[Pack], report: Report, name: str) -> None:
        self._packs, self._report, self._name = packs, report, name
        self._epochs: dict[int, int] = {}
        self._sizes = [len(pack.combinations) for pack in packs]

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes its callbacks down; nobody reads them back, and a terminal cannot be written."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "epoch" not in result:
            return
        self._epochs[result["pack"]] = result["epoch"]
        until = self._packs[0].epochs
        done = sum(self._sizes[pack] * epoch for pack, epoch in self._epochs.items())
        total = sum(self._sizes)
        note = f"{self._name}: {total} combinations, {done / total:.0f} of {until} epochs"
        self._report(done, total * until, note)


def run_packs(work: Work, packs: list[Pack], ask: Ask, watch: Watch, *, at_once: int | None = None) -> None:
    """Run each pack as one Ray Tune trial, `at_once` or as many as fit.

    What Ray Tune keeps for itself is new each time, and removed.
    """

    def trial(given: dict[str, Any]) -> None:
        _trial(work, given["pack"], packs[given["pack"]])

    scratch = f"{SCRATCH}/{uuid.uuid4().hex[:12]}"
    work.run.filesystem.create_dir(work.run.path(scratch), recursive=True)
    with _environment():
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trial, {"cpu": ask.cpus, **({"gpu": ask.gpus} if ask.gpus else {})}),
            param_space={"pack": ray.tune.grid_search(list(range(len(packs))))},
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=ray.tune.RunConfig(
                name="tune",
                storage_path=work.run.path(scratch),
                storage_filesystem=work.run.filesystem,
                callbacks=[watch],
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        finally:
            work.run.remove(SCRATCH)
    for result in results:
        if result.error is not None:
            raise _blame(result.error) from result.error


def _trial(work: Work, number: int, pack: Pack) -> None:
    """One trial's process: train the pack on one core or GPU."""
    torch.set_num_threads(1)
    said = time.monotonic()

    def tell(epoch: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 1.0 or epoch == pack.epochs:
            said = time.monotonic()
            ray.tune.report({"pack": number, "epoch": epoch})

    trials.train(work, pack, "cuda" if ray.get_gpu_ids() else "cpu", tell)


def _blame(error: BaseException) -> Exception:
    cause: Any = error
    while cause is not None and not isinstance(cause, KdRayError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause or RunError(f"tune: a pack failed: {str(error).strip().splitlines()[-1]}")


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Keep Ray Tune off the terminal, and Ctrl-C ours."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
