"""TLS: always verified, resumed where the upstream can, and never an excuse to hang."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gevent import ssl
from integration.transport.scripted import HOST, OK, Authority, responding
from integration.transport.transport_lab import Lab

from llm_proxy import errors
from llm_proxy.transport import check_certificates

CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

pytestmark = pytest.mark.parametrize("mode", ["tls", "tunnel"])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param(HOST, {"days": -1}, id="expired"),
        pytest.param("other.test", {}, id="another name"),
        pytest.param(HOST, {"self_signed": True}, id="self-signed"),
    ],
)
def test_bad_certificates_are_refused(
    make_lab: Callable[..., Lab], authority: Authority, mode: str, name: str, more: dict[str, Any]
) -> None:
    """A connect error before a byte of the request; no connection is left."""
    lab = make_lab(mode, context=authority.context(name, **more))
    lab.respond(OK)
    with pytest.raises(errors.UpstreamConnectError) as caught:
        lab.fetch("POST", body=b"secret")
    assert (caught.value.phase, caught.value.is_sent) == ("connect", False)
    assert "certificate verify failed" in str(caught.value.__cause__)
    assert f"connect to {HOST}:{lab.server.port}" in str(caught.value.cause)
    assert "certificate not trusted (" in str(caught.value.cause)
    assert lab.upstream.open_count == 0
    assert all(b"secret" not in connection.received for connection in lab.connections)


def test_http_1_1_is_chosen(make_lab: Callable[..., Lab], mode: str) -> None:
    """An upstream that would rather speak h2 gets HTTP/1.1."""
    lab = make_lab(mode)
    lab.respond(OK)
    lab.fetch()
    assert lab.connections[0].alpn == "http/1.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_sessions_are_resumed(make_lab: Callable[..., Lab], authority: Authority, mode: str, version: Any) -> None:
    """The second connection is no full handshake."""
    context = authority.context()
    context.maximum_version = version
    lab = make_lab(mode, context=context)
    lab.script(responding(CLOSING))
    for _ in range(3):
        assert lab.fetch() == (200, b"ok")
    assert [c.was_resumed for c in lab.connections] == [False, True, True]


def test_plain_speaker_is_refused(make_lab: Callable[..., Lab], mode: str) -> None:
    """An upstream that speaks no TLS is a connect error."""
    lab = make_lab(mode)
    lab.server.speak_plain()
    lab.script(lambda c: c.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(errors.UpstreamConnectError) as caught:
        lab.fetch()
    assert (caught.value.phase, caught.value.is_sent) == ("connect", False)


def test_folder_of_authorities(
    make_lab: Callable[..., Lab], authority: Authority, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE may be a folder, as OpenSSL knows them."""
    lab = make_lab(mode)
    (tmp_path / f"{authority.hashed_name()}.0").write_bytes(authority.bundle.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    lab.respond(OK)
    assert lab.fetch() == (200, b"ok")


def test_other_variable_of_the_bundle(
    make_lab: Callable[..., Lab], authority: Authority, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CURL_CA_BUNDLE is read where REQUESTS_CA_BUNDLE is not set; without either the authority is unknown."""
    lab = make_lab(mode)
    lab.respond(OK)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(errors.UpstreamConnectError):
        lab.fetch()
    lab.renew()
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.bundle))
    assert lab.fetch() == (200, b"ok")


def test_unreadable_bundle(make_lab: Callable[..., Lab], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is not there is named by its variable at the start, and a connect error of each request."""
    lab = make_lab(mode)
    assert check_certificates() == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    assert check_certificates() == ["REQUESTS_CA_BUNDLE: expected a readable file or folder of CA certificates"]
    with pytest.raises(errors.UpstreamConnectError) as caught:
        lab.fetch()
    assert caught.value.is_sent is False
    with pytest.raises(errors.UpstreamConnectError):
        lab.upstream.prepare(lab.origin)


def test_expiry_is_warned_of_once_a_day(
    make_lab: Callable[..., Lab], authority: Authority, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate with less than 14 days left is named in one warning."""
    lab = make_lab(mode, context=authority.context(days=5))
    lab.script(responding(CLOSING))
    with caplog.at_level(logging.WARNING):
        lab.fetch()
        lab.fetch()
    assert len(caplog.messages) == 1
    assert "commonName=upstream.test" in caplog.messages[0]
