"""Heads in small pieces: bounded, and looked at a bounded number of times."""

import time
from importlib.util import find_spec
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders

from llm_proxy.server.connection import Parser
from llm_proxy.server.unreader import MAX_HEAD_BYTES, Unreader

PARSERS = ["python", *(["fast"] if find_spec("gunicorn_h1c") else [])]


class Pieces:
    """A socket that gives so many bytes at once."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._at, self._size = data, 0, size

    def recv(self, _size: int) -> bytes:
        self._at += self._size
        return self._data[self._at - self._size : self._at]

    def settimeout(self, _seconds: float | None) -> None:
        pass

    def getpeername(self) -> None:
        pass


def read(head: bytes, size: int, parser: str) -> Any:
    """The request as the server reads it."""
    cfg = Config()
    cfg.set("http_parser", parser)
    sock = Pieces(head, size)
    requests = Parser(cfg, sock, ("127.0.0.1", 1))
    requests.unreader = unreader = Unreader(sock, cfg.limit_request_line)
    unreader.append(sock.recv(size))
    unreader.begin_head(time.monotonic() + 600)
    return next(requests)


def head_of(size: int) -> bytes:
    """A head of about so many bytes."""
    field = b"X-F: " + b"a" * 993 + b"\r\n"
    return b"GET / HTTP/1.1\r\nHost: h\r\n" + field * (size // len(field)) + b"\r\n"


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("size", [1, 7, 100, 8192])
def test_heads_are_read_however_they_are_cut(size: int, parser: str) -> None:
    """Up to the limit; what follows them stays."""
    request = read(head_of(40_000) + b"next", size, parser)
    assert len(request.headers) == 41


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("size", [100, 8192])
def test_a_long_head_is_refused(size: int, parser: str) -> None:
    """Beyond 64 KiB in all."""
    with pytest.raises(LimitRequestHeaders):
        read(head_of(2 * MAX_HEAD_BYTES), size, parser)


@pytest.mark.parametrize("parser", PARSERS)
def test_time_grows_with_the_head(parser: str) -> None:
    """Four times the head, in small pieces, takes no more than eight times the CPU time."""

    def best_s(size: int) -> float:
        head = head_of(size)
        times = []
        for _ in range(3):
            began = time.thread_time()
            read(head, 16, parser)
            times.append(time.thread_time() - began)
        return min(times)

    assert best_s(60_000) <= max(best_s(15_000), 0.0005) * 8
