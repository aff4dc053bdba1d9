"""The student's job on Ray Train workers: lost ones are replaced and go on from the last checkpoint.

Nothing is waited for without a bound: a worker that takes no step ends itself, one that does not even answer is ended
by Ray Train, and a job whose workers do not start, or keep dying, is given up.
"""

import concurrent.futures
import contextlib
import functools
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import RunningState

from kd_ray import knobs
from kd_ray.errors import KdRayError, ResourceError, RunError
from kd_ray.packing import torch_threads
from kd_ray.scheduling import Ask
from kd_ray.session import Session
from kd_ray.student.worker import Tell, Work, train_on_worker

MAX_FAILURES = 5
START_SECONDS = 1200.0  # as long as a cloud may take for a node
STEP_SECONDS = 300.0  # for a step, of which the slowest take a second
_TURN_SECONDS = 0.5
_BOARD_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many workers: as many from `least` to `most` as there is room for, each with a GPU or a core."""

    least: int
    most: int
    use_gpu: bool

    @property
    def asked(self) -> int | tuple[int, int]:
        """As Ray Train takes it."""
        return self.least if self.least == self.most else (self.least, self.most)


def size_of(config: knobs.Student, session: Session) -> Size | None:
    """Return how many Ray Train workers there are to be, None for this process. Raises ResourceError."""
    given = config.workers
    if given == "auto" and session.is_local:
        return None
    gpus = int(session.total("GPU"))
    if given == "auto":
        given = gpus or 1
    least, most = given if isinstance(given, list) else (given, given)
    size = Size(least=least, most=most, use_gpu=gpus >= least)
    session.slots(Ask(cpus=1.0, gpus=1.0 if size.use_gpu else 0.0), stage="student", at_least=least)
    return size


def train_here(work: Work, show: Tell) -> None:
    """Run the job in this process: Ray Train's local mode, which starts in a tenth of a second."""
    trainer = ray.train.torch.TorchTrainer(
        train_on_worker,
        train_loop_config={"work": work, "tell": show},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    )
    # Such small products gain little from a second thread, and lose all where another program wants the core.
    with torch_threads(1):
        trainer.fit()


def train_on_workers(work: Work, size: Size, show: Tell) -> None:
    """Run the job; what Ray Train keeps for itself is new each time, and removed.

    Raises what a worker raises on purpose, ResourceError where no workers start, RunError where they keep dying.
    """
    scratch = f"ray_train/{uuid.uuid4().hex[:12]}"
    work.run.filesystem.create_dir(work.run.path(scratch), recursive=True)
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    board = ray.remote(num_cpus=0, label_selector=here, name=f"student of {work.run.name}, {scratch[-12:]}")(
        Board
    ).remote()
    trainer = ray.train.torch.TorchTrainer(
        train_on_worker,
        train_loop_config={
            "work": work,
            "tell": functools.partial(_tell_board, board),
            "step_seconds": STEP_SECONDS,
        },
        torch_config=ray.train.torch.TorchConfig(timeout_s=max(1, round(STEP_SECONDS))),
        scaling_config=ray.train.ScalingConfig(num_workers=size.asked, use_gpu=size.use_gpu),
        run_config=ray.train.RunConfig(
            name="student",
            storage_path=work.run.path(scratch),
            storage_filesystem=work.run.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Guard(board, START_SECONDS)],
        ),
    )
    try:
        with _ended_with(board):
            _follow(trainer, board, show)
    except ray.train.TrainingFailedError as error:
        raise _reason(error) from error
    finally:
        work.run.remove("ray_train")


def _follow(trainer: ray.train.torch.TorchTrainer, board: Any, show: Tell) -> None:
    """Show how far the job is until it ends.

    It runs in a thread, for in the main one Ray Train would put a way of its own to end on Ctrl-C in place of ours.
    """
    job: concurrent.futures.Future[None] = concurrent.futures.Future()

    def fit() -> None:
        try:
            trainer.fit()
            job.set_result(None)
        except BaseException as error:
            job.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    said = None
    while not concurrent.futures.wait([job], timeout=_TURN_SECONDS).done:
        with contextlib.suppress(ray.exceptions.RayError):
            last = ray.get(board.read.remote(), timeout=_BOARD_SECONDS)
            if last and last != said:
                show(*last)
                said = last
    job.result()


class Board:
    """Where the job's processes write how far they are, and where its controller is."""

    def __init__(self) -> None:
        self.last: tuple[int, str] | None = None
        self.controller: Any = None

    def write(self, epoch: int, note: str) -> None:
        self.last = (epoch, note)

    def read(self) -> tuple[int, str] | None:
        return self.last

    def begin(self, controller: Any) -> None:
        self.controller = controller

    def kill(self) -> None:
        """End the controller, and with it the workers, which are its own."""
        if self.controller is None:
            return
        # Killed at once, it would leave its workers' cores reserved for as long as this program lives.
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.controller.abort.remote(), timeout=_BOARD_SECONDS / 2)
        ray.kill(self.controller)


def _tell_board(board: Any, epoch: int, note: str) -> None:
    board.write.remote(epoch, note)


@contextlib.contextmanager
def _ended_with(board: Any) -> Iterator[None]:
    """End the job with the block, however that ends: no worker is to write to a run that this process has left."""
    try:
        yield
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(board.kill.remote(), timeout=_BOARD_SECONDS)
        ray.kill(board)


class Guard(ControllerCallback, WorkerGroupCallback):
    """In Ray Train's controller: ends the job on what trying again would not mend. What a hook raises is the end."""

    def __init__(self, board: Any, start_seconds: float) -> None:
        self._board, self._start_seconds = board, start_seconds
        self._waits_since: float | None = None

    def after_controller_start(self, train_run_context: Any) -> None:
        self._waits_since = time.monotonic()
        ray.get(self._board.begin.remote(ray.get_runtime_context().current_actor), timeout=_BOARD_SECONDS)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, RunningState):
            self._waits_since = None
        elif isinstance(previous_state, RunningState) or self._waits_since is None:
            self._waits_since = time.monotonic()
        elif time.monotonic() - self._waits_since > self._start_seconds:
            raise ResourceError(
                f"student: its workers could not start in {self._start_seconds:g} s; others may hold the cores or "
                "GPUs, or nodes were lost; lower student.workers, or run again when there is room"
            )

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        ours = [error for error in worker_group_status.errors.values() if isinstance(error, KdRayError)]
        if ours:
            raise ours[0]


def _reason(error: Any) -> Exception:
    """Return the error of ours that ended the job, or one that says what did."""
    cause = getattr(error, "controller_failure", None)
    if isinstance(cause, KdRayError):
        return cause
    failures = list(getattr(error, "worker_failures", {}).values())
    last = str(failures[0] if failures else cause or error).strip().splitlines()[-1].strip()
    return RunError(f"student: its workers failed {MAX_FAILURES + 1} times, the last one so: {last}")
