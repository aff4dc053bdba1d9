"""The only ray.init: a private node of our own, or a cluster that is already there."""

import contextlib
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from kd_ray.errors import KdRayError, ResourceError
from kd_ray.guard import Guard
from kd_ray.interrupts import deferred
from kd_ray.rundir import RunDir
from kd_ray.scheduling import Ask

_TOKEN = secrets.token_hex(32)  # of this process's private nodes
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


class Session:
    """Ray for one run. Nothing starts before the first use; `close` ends what was started.

    On a cluster of several nodes each of them must see `run`, if one is given, and have this kd_ray.
    """

    def __init__(self, address: str | None = None, *, dashboard: bool = False, run: RunDir | None = None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.is_local = self.address in (None, "local")
        self._dashboard, self._run = dashboard, run
        self._environment: dict[str, str | None] = {}
        self.started = False
        self._is_ours = True
        self._guard: Guard | None = None

    def __enter__(self) -> "Session":
        hush()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> None:
        """Start or join Ray unless that is done.

        Raises ConfigError, ResourceError, StorageError or UserError: it cannot be joined, or lacks what a run needs.
        """
        if self.started:
            return
        self.started = True
        from kd_ray import nodes

        self._start()
        if self._run is not None:
            nodes.check(self._run)

    def _start(self) -> None:
        import ray

        from kd_ray import joining, nodes

        nodes.check_switches()
        joining.check_safe(ray.__version__)
        if ray.is_initialized():
            self._is_ours = False
            return
        self._set_environment()
        # Ray read its switches when it was imported; these two make it look again.
        core: Any = ray._raylet
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with deferred(), _stderr_aside(), _signals_left_alone():
            if self.is_local:
                ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    include_dashboard=self._dashboard,
                    dashboard_host="127.0.0.1",
                    runtime_env=quoted_python(),
                    **quiet,
                )
                node: Any = ray._private.worker._global_node
                self._guard = Guard([one.process.pid for each in node.all_processes.values() for one in each])
            else:
                self._join(quiet)
        hush()

    def _join(self, quiet: dict[str, Any]) -> None:
        import ray

        from kd_ray import joining

        address = str(self.address)
        if address != "auto":
            joining.check_head(address)
        try:
            ray.init(address=address, namespace=self._namespace(), **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ResourceError(
                f"--address: a Ray {ray.__version__} cluster must answer at {self.address}, with RAY_AUTH_MODE and "
                f"RAY_AUTH_TOKEN set as it was started; it says: {' '.join(str(error).split())}"
            ) from None

    def _namespace(self) -> str:
        """Names of actors are of one attempt at a run: what a killed one left behind does not stand in the way."""
        return f"kd_ray {self._run.name if self._run else ''} {secrets.token_hex(4)}"

    def _set_environment(self) -> None:
        wanted = dict(_QUIET)
        if self.is_local:
            wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
        for name, value in wanted.items():
            if name in os.environ and name in _QUIET:
                continue
            self._environment[name] = os.environ.get(name)
            os.environ[name] = value

    def close(self) -> None:
        """Shut down what was started and put the environment back."""
        if self.started and self._is_ours:
            import ray

            with deferred():
                ray.shutdown()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        self.started = False
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment = {}

    def nodes(self) -> list[dict[str, float]]:
        """Return the total resources of each node alive."""
        self.ready()
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes())

    def slots(self, ask: Ask, *, stage: str, at_least: int = 1) -> int:
        """Return how many of `ask` fit at once. Raises ResourceError where fewer than `at_least` ever do."""
        nodes = self.nodes()
        slots = ask.slots(nodes)
        if slots < at_least:
            have = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
            raise ResourceError(
                f"{stage}: asks for {at_least} x {ask}, the cluster has {len(nodes)} node(s): {have}; "
                "ask for less or add nodes"
            )
        return slots


@contextlib.contextmanager
def _stderr_aside() -> Iterator[None]:
    """Keep what Ray's core writes straight to file descriptor 2 off the terminal; show it where Ray fails."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except KdRayError:
            raise
        except Exception:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quoted_python() -> dict[str, str] | None:
    """Return what `ray.init` must be told where the interpreter's path has a space.

    Ray starts a worker that has an environment of its own, as Ray Train's have, by a shell, with the path unquoted:
    it then never starts, and Ray waits for it for ever.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


@contextlib.contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Keep Ray from putting its own way to end on SIGTERM in place of the program's.

    Its own exits wherever the start happens to be, and leaves the processes started so far behind.
    """
    from ray._private import utils

    theirs = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


def hush() -> None:
    """Keep Ray's libraries to errors on this process's terminal; their failures come as exceptions.

    Ray Data makes itself heard again when it is first imported.
    """
    import logging

    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def killed_after(actors: list[Any]) -> Iterator[list[Any]]:
    """Yield `actors` and kill whatever is in the list at the end, however it came to an end."""
    import ray

    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)
