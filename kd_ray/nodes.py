"""What every node of a cluster must have before work is sent there: this kd_ray, the run's storage, safe switches."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_ray import __version__
from kd_ray.errors import KdRayError, ResourceError, StorageError, UserError
from kd_ray.rundir import RunDir

ANSWER_SECONDS = 60.0
SEE_SECONDS = 5.0  # a network file system may show a new file late
UNSAFE = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    "RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION",
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found on one node; an empty text is as it should be."""

    node: str
    version: str = __version__
    import_error: str = ""
    storage_error: str = ""
    unsafe: str = ""
    silent: str = ""


def unsafe_switch(environment: Mapping[str, str]) -> str:
    """Return the first switch that is set and lets data files run code, "" where none is."""
    return next((name for name in UNSAFE if environment.get(name, "0").lower() not in ("", "0", "false")), "")


def check_switches() -> None:
    """Raise UserError where this process has such a switch set."""
    if name := unsafe_switch(os.environ):
        raise UserError(f"{name}: must be unset, it lets data files run code; unset it and run again")


def check(run: RunDir) -> None:
    """Look at every node of a cluster of several. Raises ResourceError, StorageError or UserError, naming the nodes."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    canary, content = f"nodes.{secrets.token_hex(4)}.tmp", secrets.token_bytes(16)
    run.write_bytes(canary, content)
    try:
        seen = _look(nodes, run, canary, content)
    finally:
        run.remove(canary)
    if error := verdict(seen, str(run), is_local=run.is_local):
        raise error


def verdict(seen: list[Seen], storage: str, *, is_local: bool) -> KdRayError | None:
    """Say what is wrong with the nodes, the gravest first, and what to do about it."""
    if silent := _named(seen, lambda node: node.silent):
        return ResourceError(f"nodes: each must answer within {ANSWER_SECONDS:g} s; these do not: {silent}")
    if lacking := _named(seen, lambda node: node.import_error):
        return ResourceError(
            f"kd_ray: must be importable on every node; it is not on {lacking}: install it there, with its "
            "dependencies, or send it along: kd-ray submit --package"
        )
    if other := _named(seen, lambda node: "" if node.version == __version__ else f"has {node.version}"):
        return ResourceError(
            f"kd_ray: must be {__version__} on every node as it is here; {other}: install {__version__} there, or send "
            "it along: kd-ray submit --package"
        )
    if unsafe := _named(seen, lambda node: node.unsafe):
        return UserError(
            f"nodes: switches are set that let data files run code: {unsafe}; unset them where the nodes are started"
        )
    if blind := _named(seen, lambda node: node.storage_error):
        cure = (
            "mount one folder under this path on every node, or give a URI that all of them reach, such as s3://"
            if is_local
            else "give every node access to it"
        )
        return StorageError(f"storage: every node must see {storage}; not seen from {blind}: {cure}")
    return None


def _named(seen: list[Seen], what: Callable[[Seen], str]) -> str:
    found = [f"{node.node} ({says})" for node in seen if (says := what(node))]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _look(nodes: dict[str, dict[str, Any]], run: RunDir, canary: str, content: bytes) -> list[Seen]:
    remote = ray.remote(num_cpus=0, max_retries=0)(_looking())
    waiting = {}
    for node_id in nodes:
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        task = remote.options(scheduling_strategy=strategy, name="kd_ray looks at a node")
        ref = task.remote(run.storage, run.name, canary, content, SEE_SECONDS)
        waiting[ref] = node_id
    ray.wait(list(waiting), num_returns=len(waiting), timeout=ANSWER_SECONDS)
    still_there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    seen = []
    for ref, node_id in waiting.items():
        if node_id not in still_there:
            continue
        name = nodes[node_id].get("NodeName") or nodes[node_id]["NodeManagerAddress"]
        try:
            found = ray.get(ref, timeout=0)
            seen.append(Seen(node=name, unsafe=unsafe_switch(found.pop("environment")), **found))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(ref, force=True)
            seen.append(Seen(node=name, silent="no answer"))
        except ray.exceptions.RayError as error:
            seen.append(Seen(node=name, silent=str(error).strip().splitlines()[-1]))
    return seen


def _looking() -> Callable[..., dict[str, Any]]:
    """Return what looks around on a node. A function in a function travels whole: kd_ray may be missing there."""

    def look(storage: str, name: str, canary: str, content: bytes, seconds: float) -> dict[str, Any]:
        import importlib.util
        import os
        import time

        found: dict[str, Any] = {
            "environment": {key: value for key, value in os.environ.items() if key.startswith("RAY_DATA_")}
        }
        try:
            import kd_ray
            from kd_ray.rundir import RunDir

            if importlib.util.find_spec("torch") is None:
                raise ImportError("No module named 'torch'")
        except Exception as error:
            return {**found, "import_error": str(error).splitlines()[0]}
        found["version"] = kd_ray.__version__
        deadline = time.monotonic() + seconds
        while True:
            try:
                if RunDir(storage, name).read_bytes(canary) == content:
                    return found
                says = "another file is there"
            except Exception as error:
                says = str(error).splitlines()[0].rpartition("] ")[2]
            if time.monotonic() > deadline:
                return {**found, "storage_error": says}
            time.sleep(0.2)

    return look
