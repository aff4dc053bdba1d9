"""Addresses of clusters: no Ray is started, nothing is connected to but sockets of the test's own."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kd_ray import joining
from kd_ray.errors import ConfigError, ResourceError, UserError
from kd_ray.reach import OVERRIDE, addresses_of, check_closed, host_and_port


@pytest.mark.parametrize(
    ("address", "parts"),
    [("head:6379", ("head", 6379)), ("10.0.0.1:1", ("10.0.0.1", 1)), ("[fd00::1]:6379", ("fd00::1", 6379))],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["head", "head:", ":6379", "head:0", "head:65536", "head:x", "http://head:8265", ""]
)
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT; got"):
        host_and_port(address)


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:4860:4860::8888"])
def test_a_cluster_out_in_the_open_is_refused_without_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"{host} is neither this machine nor in a private network.*no token is set"):
        check_closed(host, has_token=False)
    check_closed(host, has_token=True)
    monkeypatch.setenv(OVERRIDE, "0")
    with pytest.raises(UserError):
        check_closed(host, has_token=False)
    monkeypatch.setenv(OVERRIDE, "1")
    check_closed(host, has_token=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "10.1.2.3", "192.168.0.7", "172.16.0.1", "fd00::1"])
def test_this_machine_and_private_networks_need_no_token(host: str) -> None:
    check_closed(host, has_token=False)


def test_a_name_that_nobody_has_is_an_error_of_one_line() -> None:
    with pytest.raises(ResourceError, match=r"'nowhere\.invalid' must be a host's name or address; it has none"):
        addresses_of("nowhere.invalid")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_host_that_takes_connections_and_never_answers_is_given_up(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ResourceError, match=r"it gave no answer in 0\.5 s; is it a Ray cluster's head"):
        joining.check_head(silent)


def test_an_address_where_nobody_listens_is_an_error_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=f"no Ray cluster answers at {address}: .*refused"):
        joining.check_head(address)


def test_a_web_server_is_no_head() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                time.sleep(0.5)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ResourceError, match=r"no Ray cluster answers at .*is this its head's port"):
            joining.check_head(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_the_url_of_a_jobs_api_leads_to_kd_ray_submit(address: str) -> None:
    with pytest.raises(ConfigError, match="from outside, give kd-ray submit the URL"):
        joining.check_head(address)


@pytest.mark.parametrize("version", ["2.9.3", "2.53.0", "1.13.0"])
def test_a_ray_with_known_holes_is_refused(version: str) -> None:
    with pytest.raises(UserError, match=f"ray: must be 2.55 or newer; {version} lets strangers run code"):
        joining.check_safe(version)


@pytest.mark.parametrize("version", ["2.55.0", "2.60.0", "3.0.0rc1"])
def test_a_ray_without_is_not(version: str) -> None:
    joining.check_safe(version)
