"""A cluster that grows: asked once for what the stage can use, and told at the end that it is not needed any more."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kd_ray.scheduling import Ask
from kd_ray.session import Session


@contextmanager
def asked_for(ask: Ask, count: int, session: Session) -> Iterator[bool]:
    """Request `count` asks of the autoscaler, if the cluster has one; yield whether it has. Take it back at the end."""
    session.ready()
    if session.is_local or not (ask.bundle and grows(node_types())):
        yield False
        return
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[ask.bundle] * count)
    try:
        yield True
    finally:
        request_resources(bundles=[])


def grows(type_of_node: dict[str, str]) -> bool:
    """Return whether nodes come of an autoscaler: it names their types, and Ray alone calls each after itself."""
    return any(kind and kind != f"node_{node}" for node, kind in type_of_node.items())


def node_types() -> dict[str, str]:
    """Return the type of each node as the autoscaler reports it, by Ray's two generations of it."""
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.runtime_context import get_runtime_context

    found: dict[str, str] = {}
    with suppress(TypeError, ValueError, KeyError, AttributeError):
        found |= json.loads(_internal_kv_get("__autoscaling_status"))["autoscaler_report"]["node_type_mapping"]
    with suppress(RuntimeError, ValueError, AttributeError):
        status = get_cluster_status(get_runtime_context().gcs_address)
        if int(status.stats.autoscaler_version or 0):
            found |= {node.node_id: node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]}
    return found
