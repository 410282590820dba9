"""The request's body, from bytes that come in pieces."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.http.body import Body, LengthReader
from support.gunicorn_server import Server

from llm_proxy.errors import ClientGone, MalformedBody, RequestTimeout
from llm_proxy.server.body import BoundedChunks, RequestBody
from llm_proxy.server.unreader import Unreader


@pytest.fixture
def pair() -> Iterator[Any]:
    """The client's and the server's end."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def sized(server: Server, length: Any, send_continue: Any = None) -> Any:
    """A body with a Content-Length."""
    unreader = Unreader(server, 8190)
    unreader.silence_s = 5.0
    return RequestBody(Body(LengthReader(unreader, length)), unreader, send_continue), unreader


def chunked(server: Server) -> Any:
    """A body in chunks."""
    unreader = Unreader(server, 8190)
    unreader.silence_s = 5.0
    req = type("Req", (), {"limit_request_field_size": 8190, "max_buffer_headers": 65536})()
    return RequestBody(Body(BoundedChunks(req, unreader)), unreader, None), unreader


def test_read1_leaves_the_next_request_alone(pair: Any) -> None:
    """The surplus goes back."""
    client, server = pair
    client.sendall(b"helloGET /")
    body, unreader = sized(server, 5)
    assert body.read1(3) == b"hel"
    assert body.read1() == b"lo"
    assert body.read1() == b""
    assert body.is_whole
    assert unreader.read() == b"GET /"


def test_read1_and_read_and_lines_can_be_mixed(pair: Any) -> None:
    """Nothing is lost between gunicorn's buffers."""
    client, server = pair
    client.sendall(b"one\ntwo\nthree")
    body, _ = sized(server, 13)
    assert body.readline() == b"one\n"
    assert body.read1(2) == b"tw"
    assert body.read(3) == b"o\nt"
    assert list(body) == [b"hree"]


def test_chunks_arrive_one_by_one(pair: Any) -> None:
    """A piece larger than asked for is kept, an empty one is not the end."""
    client, server = pair
    body, unreader = chunked(server)
    client.sendall(b"5\r\n")
    sender = threading.Timer(0.1, lambda: client.sendall(b"hello\r\n0\r\n\r\nGET"))
    sender.start()
    assert body.read1(2) == b"he"
    sender.join()
    assert body.read1(2) == b"ll"
    assert body.read1(9) == b"o"
    assert body.read1(9) == b""
    assert body.is_whole
    assert unreader.read() == b"GET"


def _exhaust(read: Any) -> None:
    while read():
        pass


@pytest.mark.parametrize("make", [lambda server: sized(server, 10)[0], lambda server: chunked(server)[0]])
def test_an_early_end_is_raised_by_every_read(pair: Any, make: Any) -> None:
    """It must not pass for the end of the body at the second look."""
    client, server = pair
    client.sendall(b"a\r\nabc")
    client.shutdown(socket.SHUT_WR)
    body = make(server)
    for read in (body.read, body.read1, body.readline, body.read):
        with pytest.raises(ClientGone):
            _exhaust(read)
    assert not body.is_whole
    assert not body.drain()


SIZES = {
    "no hexadecimal number": b"zz",
    "a sign": b"+3",
    "a prefix": b"0x3",
    "64 bits": b"FFFFFFFFFFFFFFFF",
    "63 bits": b"7FFFFFFFFFFFFFFF",
    "17 digits": b"10000000000000000",
    "8000 digits": b"F" * 8000,
    "an extension without end": b"3;" + b"e" * 100_000,
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_broken_chunks_are_malformed(pair: Any, size: bytes) -> None:
    """At once, as a ClientConnectionError too, so that the transport lets it through."""
    client, server = pair
    client.sendall(size + b"\r\nabc")
    body, _ = chunked(server)
    for _ in range(2):
        with pytest.raises(MalformedBody):
            body.read1()


def test_silence_is_a_timeout(pair: Any) -> None:
    """The limit is between two bytes."""
    _, server = pair
    body, unreader = sized(server, 10)
    unreader.silence_s = 0.05
    with pytest.raises(RequestTimeout):
        body.read()


def test_a_small_rest_is_read_away_and_a_large_one_is_not(pair: Any) -> None:
    """What is left must be known to be little, and on its way."""
    client, server = pair
    client.sendall(b"x" * 100)
    body, _ = sized(server, 100)
    assert body.is_drainable
    assert body.drain()
    assert not sized(server, 100_000)[0].is_drainable
    assert not chunked(server)[0].is_drainable
    assert not sized(server, 5, send_continue=lambda: None)[0].is_drainable
    assert sized(server, 0, send_continue=lambda: None)[0].is_drainable


def test_the_client_is_asked_to_go_on_once(pair: Any) -> None:
    """At the first read."""
    client, server = pair
    client.sendall(b"hello")
    asked = []
    body, _ = sized(server, 5, send_continue=lambda: asked.append(1))
    assert asked == []
    assert (body.read(2), body.read()) == (b"he", b"llo")
    assert asked == [1]
