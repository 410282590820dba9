"""Why a connection to the provider was not made, in words for log and event."""

import socket

import pytest
from integration.transport.scripted import HOST
from integration.transport.transport_lab import Lab

from llm_proxy import errors
from llm_proxy.transport import Options, Timeouts, Upstream, UpstreamRequest


def test_a_refused_connection_names_host_and_cause(plain: Lab) -> None:
    """Host and port as they were asked for."""
    plain.server.close()
    with pytest.raises(errors.UpstreamConnectError) as caught:
        plain.fetch()
    assert caught.value.cause == f"connect to {HOST}:{plain.server.port}: connection refused"
    assert caught.value.description == caught.value.cause  # the caller reads it, too


def test_an_unknown_host_is_told_from_a_refusal() -> None:
    """The system's resolver does not know it."""

    def look_up(host: str, port: int) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    upstream = Upstream(Options(look_up=look_up))
    forward = UpstreamRequest("GET", b"/v1", [(b"Host", b"nosuchhost.invalid")], "https://nosuchhost.invalid")
    with pytest.raises(errors.UpstreamConnectError) as caught:
        upstream.send(forward, timeouts=Timeouts())
    assert caught.value.cause == "connect to nosuchhost.invalid:443: unknown host"
