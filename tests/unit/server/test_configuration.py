"""From settings to gunicorn's."""

import socket
from typing import Any

import pytest

from llm_proxy.server import configuration
from llm_proxy.server.configuration import binds, busy_address, few_connections, stop_limit_s, worker_connections
from llm_proxy.settings import ServerSettings
from llm_proxy.settings.variable import address


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:80", ["127.0.0.1:80"]),
        ("[::1]:80", ["[::1]:80"]),
        ("localhost:80", ["localhost:80"]),
        ("unix:/run/s", ["unix:/run/s"]),
    ],
)
def test_an_address_is_listened_on_as_written(text: Any, bind: Any) -> None:
    """Hosts of both versions, and paths."""
    assert binds(address(text)) == bind


@pytest.mark.parametrize(
    ("has_v6", "v6_only", "bind"),
    [
        (True, False, ["[::]:80"]),
        (True, True, ["[::]:80", "0.0.0.0:80"]),
        (False, False, ["0.0.0.0:80"]),
    ],
)
def test_no_host_means_all_addresses(monkeypatch: pytest.MonkeyPatch, has_v6: Any, v6_only: Any, bind: Any) -> None:
    """One socket for both versions, two where the system keeps them apart, one where there is no IPv6."""
    monkeypatch.setattr(configuration, "_has_ipv6", lambda: has_v6)
    monkeypatch.setattr(configuration, "_is_v6_only_by_default", lambda: v6_only)
    assert binds(address(":80")) == bind


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(1024, 412), (20_000, 9_900), (65_536, 20_000), (10**6, 20_000), (50, 10)]
)
def test_two_descriptors_a_connection(descriptors: Any, connections: Any) -> None:
    """A connection needs two descriptors."""
    assert worker_connections(descriptors) == connections


def test_the_master_waits_longer_than_the_workers() -> None:
    """A whole number, or gunicorn does not start."""
    limit = stop_limit_s(ServerSettings(shutdown_grace_s=0.5, drain_timeout_s=120.2))
    assert (limit, type(limit)) == (133, int)


def test_a_busy_address_is_found_and_a_free_one_is_not() -> None:
    """TCP, and nothing for descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert busy_address(other.getsockname()) == "address already in use"
    assert busy_address(("127.0.0.1", 0)) is None
    assert busy_address(7) is None


def test_few_connections_are_told() -> None:
    """With the limit and what it leaves; the usual limits say nothing."""
    told = "RLIMIT_NOFILE is 256, which leaves 28 connections for each worker; further clients wait"
    assert few_connections(256) == told
    assert few_connections(65_536) is None
