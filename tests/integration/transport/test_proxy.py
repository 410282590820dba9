"""HTTP proxies from the environment: tunnels for https, absolute form for http, and no more."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from integration.transport.scripted import OK, Connection, responding
from integration.transport.transport_lab import PATIENT, Lab

from llm_proxy import errors

CREDENTIALS = b"Proxy-Authorization: Basic " + b64encode(b"user:p@ss")


@pytest.fixture
def tunnel(make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab("tunnel")


def test_connect_carries_host_and_credentials(tunnel: Lab) -> None:
    """CONNECT names the origin and brings the unquoted credentials; the provider sees neither."""
    tunnel.respond(OK)
    assert tunnel.fetch() == (200, b"ok")
    assert tunnel.proxy is not None
    authority = f"upstream.test:{tunnel.server.port}".encode()
    assert tunnel.proxy.asked == [
        b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (authority, authority, CREDENTIALS)
    ]
    assert b"roxy" not in tunnel.connections[0].received
    assert tunnel.connections[0].received.startswith(b"GET /v1 HTTP/1.1\r\n")


def test_idle_tunnel_is_used_again(tunnel: Lab) -> None:
    """One CONNECT for two requests."""
    tunnel.respond(OK)
    tunnel.fetch()
    tunnel.fetch()
    assert tunnel.proxy is not None
    assert len(tunnel.proxy.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 6\r\n\r\nsecret",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\nsecret",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nbytes behind",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("end", [Connection.close, Connection.reset], ids=["close", "reset"])
def test_unwilling_proxy_is_a_connect_error(tunnel: Lab, said: bytes, end: Any) -> None:
    """Whatever but a bare 2xx: nothing was sent, nothing of the proxy's response is shown, nothing stays open."""

    def script(c: Connection) -> None:
        c.head()
        c.send(said)
        end(c)

    assert tunnel.proxy is not None
    tunnel.proxy.scripts = [script]
    with pytest.raises(errors.UpstreamConnectError) as caught:
        tunnel.fetch()
    assert (caught.value.phase, caught.value.is_sent) == ("connect", False)
    assert "secret" not in f"{caught.value} {caught.value.__cause__!r}"
    assert tunnel.upstream.open_count == 0


def test_refusing_proxy_port_is_a_connect_error(tunnel: Lab) -> None:
    """A proxy that is not there is one too."""
    assert tunnel.proxy is not None
    tunnel.proxy.stop_listening()
    with pytest.raises(errors.UpstreamConnectError) as caught:
        tunnel.fetch()
    assert caught.value.is_sent is False


def test_plain_origin_gets_absolute_form(plain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy a plain request names its origin and carries the credentials each time, on kept connections."""
    monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{plain.server.port}")
    plain.respond(OK)
    request = plain.forward("GET", b"/v1?x", [(b"A", b"b")])
    request.origin = "http://api.test:8000"
    for _ in range(2):
        response = plain.upstream.send(request, timeouts=PATIENT)
        assert b"".join(response.chunks()) == b"ok"
    assert len(plain.connections) == 1
    assert plain.connections[0].received == 2 * (
        b"GET http://api.test:8000/v1?x HTTP/1.1\r\nHost: upstream.test\r\nA: b\r\n" + CREDENTIALS + b"\r\n\r\n"
    )


def test_asterisk_through_a_proxy_is_the_bare_origin(plain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OPTIONS *` has no path in absolute form (RFC 9112 §3.2.4)."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{plain.server.port}")
    plain.respond(OK)
    request = plain.forward("OPTIONS", b"*")
    request.origin = "http://api.test:8000"
    plain.upstream.send(request, timeouts=PATIENT).close()
    assert plain.connections[0].received.startswith(b"OPTIONS http://api.test:8000 HTTP/1.1\r\n")


@pytest.mark.parametrize("exempt", ["upstream.test", ".test", "*"])
def test_no_proxy_is_heeded(make_lab: Callable[[str], Lab], exempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Origins that NO_PROXY names are reached directly."""
    lab = make_lab("tunnel")
    monkeypatch.setenv("NO_PROXY", exempt)
    lab.script(responding(OK))
    assert lab.fetch() == (200, b"ok")
    assert lab.proxy is not None
    assert lab.proxy.asked == []


def test_environment_is_read_once(tunnel: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is set later does not matter to an origin in use."""
    tunnel.respond(OK.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"))
    tunnel.fetch()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert tunnel.fetch() == (200, b"ok")


@pytest.mark.parametrize("url", ["https://proxy.test:3128", "socks5://user:secret@proxy.test:1080"])
def test_other_proxies_are_refused(plain: Lab, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start would have refused them; a request still does, without a connection or a secret shown."""
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(errors.UpstreamConnectError) as caught:
        plain.fetch()
    assert caught.value.is_sent is False
    assert "secret" not in str(caught.value.__cause__)
    assert not plain.connections
