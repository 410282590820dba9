"""Heads that are read in one pass, beside gunicorn's parser: what is taken is the same, all else is left to it."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from llm_proxy.runtime import known_names
from llm_proxy.server import usual_head
from llm_proxy.server.request_checks import check
from llm_proxy.server.unreader import Unreader
from llm_proxy.server.usual_head import UsualHead, UsualHeads

HOST = b"Host: h:8080\r\n"
TAKEN = {
    "get": b"GET /v1/models?a=1&b=%20? HTTP/1.1\r\n" + HOST + b"\r\n",
    "post": b"POST //v1/%2f HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Type: a/b\r\n\r\nabcGET / HT",
    "values": b"PUT / HTTP/1.1\r\n"
    + HOST
    + b"X-A:  b\tc \r\nx-empty:\r\nX-Obs: \xe9\r\nConnection: Keep-Alive\r\n\r\n",
    "close": b"DELETE / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    "listed": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: x-a, Close\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}
LEFT = {
    "no host": b"GET / HTTP/1.1\r\nX-A: 1\r\n\r\n",
    "bad host": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "repeated": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: 1\r\nx-a: 2\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "signed length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na",
    "long length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"0" * 18 + b"1\r\n\r\na",
    "length of other digits": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \xb2\r\n\r\na",
    "empty length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\na",
    "chunked": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "expects": b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    "underscore": b"GET / HTTP/1.1\r\n" + HOST + b"Content_Length: 3\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n" + HOST + b"\r\n",
    "later": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "tunnel": b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "other method": b"PURGE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "absolute": b"GET http://a/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n",
    "target": b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "folded": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n b\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "NUL": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: \0\r\n\r\n",
    "blank before colon": b"GET / HTTP/1.1\r\n" + HOST + b"X-A : 1\r\n\r\n",
    "half": b"GET / HTTP/1.1\r\n" + HOST,
    "no colon": b"GET / HTTP/1.1\r\n" + HOST + b"X-A\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n" + HOST + b": 1\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: 1\r2\r\n\r\n",
    "LF for CRLF": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: 1\nX-B: 2\r\n\r\n",
    "DEL": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: \x7f\r\n\r\n",
    "quotes in a name": b"GET / HTTP/1.1\r\n" + HOST + b'X"A: 1\r\n\r\n',
    "name beyond ASCII": b"GET / HTTP/1.1\r\n" + HOST + b"X-\xb5: 1\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "empty line before": b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "long head": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 5000 + b"\r\nX-B: " + b"b" * 5000 + b"\r\n\r\n",
    "long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long name": b"GET / HTTP/1.1\r\n" + HOST + b"X" * 200 + b": 1\r\n\r\n",
    "long field": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
}


@pytest.fixture(autouse=True)
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of names."""
    monkeypatch.setattr(usual_head, "_names", {})


def config(**settings: Any) -> Config:
    """The server's."""
    cfg = Config()
    for name, value in (
        {"header_map": "drop", "forwarded_allow_ips": "", "limit_request_line": 8190} | settings
    ).items():
        cfg.set(name, value)
    return cfg


def read(data: bytes, **settings: Any) -> tuple[UsualHead | None, Unreader]:
    """The head, and what is left."""
    unreader = Unreader(None, 8190)
    unreader.append(data)
    return UsualHeads(config(**settings), has_addresses=True).read(unreader), unreader


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN.keys())
def test_a_usual_head_is_what_gunicorn_makes_of_it(data: bytes) -> None:
    """Every attribute that the server layer reads; twice, as names are remembered."""
    theirs = next(RequestParser(config(), iter([data]), ("127.0.0.1", 1)))
    check(theirs)
    for _ in range(2):
        ours, unreader = read(data)
        assert ours is not None
        for name in ("method", "uri", "path", "query", "headers", "version", "scheme", "proxy_protocol_info"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.should_close() == theirs.should_close()
        assert ours.body.reader.length == theirs.body.reader.length
        assert ours.values == dict(theirs.headers)
        assert unreader.take() == data.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("data", LEFT.values(), ids=LEFT.keys())
def test_whatever_else_comes_is_left_to_gunicorn_s_parser(data: bytes) -> None:
    """Nothing is taken off what was read ahead; the second time neither."""
    for _ in range(2):
        found, unreader = read(data)
        assert found is None
        assert unreader.take() == data


@pytest.mark.parametrize(
    "settings",
    [
        {"proxy_protocol": "auto"},
        {"limit_request_line": 0},
        {"casefold_http_method": True},
        {"limit_request_fields": 1},
    ],
    ids=["PROXY protocol", "no limit", "casefold", "few fields"],
)
def test_with_another_configuration_all_is_left(settings: dict[str, Any]) -> None:
    """gunicorn has its own meanings for these."""
    assert read(TAKEN["post"], **settings)[0] is None


def test_a_body_is_read_behind_its_head_and_no_further() -> None:
    """The next request stays."""
    found, unreader = read(TAKEN["post"])
    assert found is not None
    assert found.body.read(100) == b"abc"
    assert unreader.take() == b"GET / HT"


def test_names_are_not_remembered_without_end() -> None:
    """Beyond the bound heads with new names are gunicorn's."""
    for number in range(known_names.MOST):
        read(b"GET / HTTP/1.1\r\n" + HOST + b"X-N%d: 1\r\n\r\n" % number)
    assert len(usual_head._names) == known_names.MOST
    assert read(b"GET / HTTP/1.1\r\n" + HOST + b"X-Late: 1\r\n\r\n")[0] is None
    assert read(b"GET / HTTP/1.1\r\n" + HOST + b"X-N1: 1\r\n\r\n")[0] is not None
