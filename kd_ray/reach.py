"""Addresses of clusters: how they are written, and that none out in the open is used without a token."""

import ipaddress
import os
import socket
import threading

from kd_ray.errors import ConfigError, ResourceError, UserError

OVERRIDE = "KD_RAY_ALLOW_OPEN_CLUSTER"
RESOLVE_SECONDS = 10.0


def host_and_port(address: str, key: str = "--address") -> tuple[str, int]:
    """Split HOST:PORT, where HOST may be an IPv6 address in brackets. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host.strip("[]") or not port.isdigit() or not 0 < int(port) < 65536 or "/" in address:
        raise ConfigError(f"{key}: must be HOST:PORT; got {address!r}")
    return host.strip("[]"), int(port)


def check_closed(host: str, *, has_token: bool, key: str = "--address") -> None:
    """Refuse a cluster that anybody may reach where no token is set: whoever reaches it can run code on it.

    Raises UserError, and ResourceError where `host` has no address, within RESOLVE_SECONDS.
    """
    if has_token or os.environ.get(OVERRIDE, "0").lower() not in ("", "0", "false"):
        return
    outside = [ip for ip in addresses_of(host, key) if ipaddress.ip_address(ip.partition("%")[0]).is_global]
    if outside:
        raise UserError(
            f"{key}: {host} is neither this machine nor in a private network ({outside[0]}), and no token is set: "
            "start the cluster with a token and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here, or reach it through a "
            f"tunnel; {OVERRIDE}=1 joins it all the same"
        )


def addresses_of(host: str, key: str = "--address") -> list[str]:
    """Return the IP addresses of `host`. Raises ResourceError where there are none within RESOLVE_SECONDS."""
    found: list[str] = []
    said: list[str] = ["no answer from the name servers"]

    def resolve() -> None:
        try:
            found.extend(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except OSError as error:
            said.append(error.strerror or str(error))

    resolving = threading.Thread(target=resolve, daemon=True)
    resolving.start()
    resolving.join(RESOLVE_SECONDS)
    if not found:
        raise ResourceError(f"{key}: {host!r} must be a host's name or address; it has none: {said[-1]}")
    return found
