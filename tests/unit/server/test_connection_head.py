"""Our heads beside gunicorn's: the same fields, from the same texts."""

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ExpectationFailed, InvalidHeader
from gunicorn.http.parser import RequestParser

from llm_proxy.runtime import known_names
from llm_proxy.server import connection
from llm_proxy.server.connection import Parser

CLIENT = ("127.0.0.1", 4711)


def headers(parser: type, head: bytes) -> list[tuple[str, str]]:
    """The fields as they are kept."""
    cfg = Config()
    cfg.set("header_map", "drop")
    cfg.set("forwarded_allow_ips", "")
    found: list[tuple[str, str]] = next(parser(cfg, iter([head]), CLIENT)).headers
    return found


@pytest.mark.parametrize(
    "fields",
    [
        b"X-A: 1\r\nx-a: 2\r\nX-A:\r\n",
        b"X_Under: 1\r\nX-B: 2\r\n",
        b"Expect: 100-continue\r\n",
        b"X-Forwarded-Proto: https\r\n",
    ],
)
def test_fields_are_kept_as_gunicorn_keeps_them(fields: bytes) -> None:
    """The second time too, when the names are known."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n"
    for _ in range(2):
        assert headers(Parser, head) == headers(RequestParser, head)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (b"Host: h\r\nHost: i\r\n", InvalidHeader),
        (b"Host: h\r\nExpect: tea\r\n", ExpectationFailed),
        (b"Host: h\r\nContent-Type: a\r\nContent-Type: a\r\n", InvalidHeader),
    ],
    ids=["host", "expect", "content-type"],
)
def test_refusals_of_known_names_stay(fields: bytes, error: type[Exception]) -> None:
    """A name that gunicorn looks at is never remembered."""
    for _ in range(2):
        with pytest.raises(error):
            headers(Parser, b"GET / HTTP/1.1\r\n" + fields + b"\r\n")


def test_names_are_one_text_for_all_requests_and_not_remembered_without_end() -> None:
    """Within the bound they are shared; beyond it they still pass."""
    first, second = (headers(Parser, b"GET / HTTP/1.1\r\nHost: h\r\nX-Shared: 1\r\n\r\n")[1][0] for _ in range(2))
    assert first is second
    for number in range(known_names.MOST + 10):
        headers(Parser, b"GET / HTTP/1.1\r\nHost: h\r\nX-N%d: 1\r\n\r\n" % number)
    assert len(connection._names) <= known_names.MOST
    assert headers(Parser, b"GET / HTTP/1.1\r\nX-Late: 1\r\n\r\n") == [("X-LATE", "1")]
