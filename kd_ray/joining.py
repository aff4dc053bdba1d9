"""A cluster's head, asked who it is before Ray joins it: Ray itself waits half a minute, or for ever, and says less."""

import json
import os

import grpc
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from kd_ray.errors import ConfigError, ResourceError, UserError
from kd_ray.reach import addresses_of, check_closed, host_and_port

ANSWER_SECONDS = 10.0
OLDEST_RAY, BEYOND_RAY = (2, 60), (2, 64)
SUPPORTED = "2.60 to 2.63"
SAFE_RAY = (2, 55)  # CVE-2026-27482 is mended in 2.54, CVE-2026-41486 in 2.55


def number(version: str) -> tuple[int, int]:
    """Return a version's first two numbers."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def check_safe(version: str) -> None:
    """Raise UserError where this Ray has holes that are known."""
    if number(version) < SAFE_RAY:
        raise UserError(
            f"ray: must be {'.'.join(map(str, SAFE_RAY))} or newer; {version} lets strangers run code on a cluster "
            "(CVE-2026-27482, CVE-2026-41486): pip install -U 'ray>=2.60,<2.64'"
        )


def has_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() in ("token", "k8s")


def check_head(address: str) -> None:
    """Return where a cluster that this process can join answers at HOST:PORT.

    Raises ConfigError, ResourceError or UserError within seconds: nobody there, no Ray, another token or version.
    """
    if "://" in address:
        raise ConfigError(
            f"--address: must be HOST:PORT of the cluster's head, on a machine that is one of its nodes; got "
            f"{address!r}: from outside, give kd-ray submit the URL of its Jobs API"
        )
    host, _ = host_and_port(address)
    check_closed(host, has_token=has_token())
    addresses_of(host)
    there = _metadata(address)
    try:
        ray._private.utils.check_version_info(there, address)
    except RuntimeError:
        here = ray._private.utils.compute_version_info()
        raise ResourceError(
            f"--address: the cluster at {address} runs Ray {there['ray_version']} on Python {there['python_version']}, "
            f"this is Ray {here[0]} on Python {here[1]}: they must be the same; install those here, or kd-ray submit"
        ) from None


def _metadata(address: str) -> dict[str, str]:
    """Return what a cluster was started with, as its head keeps it."""
    request = gcs_service_pb2.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        try:
            reply = stub.InternalKVGet(request, timeout=ANSWER_SECONDS, metadata=_credentials())
            return dict(json.loads(reply.value))
        except grpc.RpcError as error:
            raise ResourceError(f"--address: {_why_not(address, error)}") from None
        except ValueError:
            raise ResourceError(f"--address: what answers at {address} is not the head of a Ray cluster") from None


def _why_not(address: str, error: grpc.RpcError) -> str:
    code, says = error.code(), (error.details() or "").rpartition("last error: ")[2]
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"something is at {address}, but it gave no answer in {ANSWER_SECONDS:g} s; is it a Ray cluster's head?"
    if code == grpc.StatusCode.UNAUTHENTICATED:
        token = "has another token than the one set here" if has_token() else "wants a token, and none is set"
        return f"the cluster at {address} {token}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as it was started"
    if code == grpc.StatusCode.UNAVAILABLE:
        return f"no Ray cluster answers at {address}: {says}; is it running, and is this its head's port?"
    return f"what answers at {address} is not the head of a Ray cluster: {says or code.name}"


def _credentials() -> list[tuple[str, str]]:
    if not has_token():
        return []
    try:
        header = ray._raylet.AuthenticationTokenLoader.instance().get_token_for_http_header()
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise ResourceError(f"RAY_AUTH_MODE: is token, but there is none: {' '.join(str(error).split())}") from None
    return [(name.lower(), value) for name, value in header.items()]
