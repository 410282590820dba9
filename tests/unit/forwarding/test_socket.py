"""One relayed WebSocket between two socket pairs: sides that take nothing, close frames, what waits for a message."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import gevent
import pytest
from gevent import socket

from llm_proxy.forwarding.exchange import REVOKED
from llm_proxy.forwarding.socket import Socket
from llm_proxy.forwarding.socket_limits import SocketLimits
from llm_proxy.forwarding.turns import Refused, SocketTurns
from llm_proxy.websocket import frames
from llm_proxy.websocket.frames import close_frame, frame


class Turns:
    """No turn runs; messages that begin with `!` are refused."""

    is_running = False
    ender: Any = None
    count = 0

    def on_client(self, message: bytes, upstream: Any) -> None:
        """Refuse or pass."""
        if message.startswith(b"!"):
            raise Refused(b"no")

    def on_server(self, message: bytes, upstream: Any) -> None:
        """Pass."""

    def end(self, failure: BaseException) -> None:
        """Nothing runs."""


class Response:
    """The provider's 101."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def switched(self) -> tuple[Any, bytes]:
        """Return the connection."""
        return self.connection, b""

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):  # it has ended
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Line:
    """A relayed WebSocket, with its client and its provider in the test's hands."""

    def __init__(self) -> None:
        self.client, inner = socket.socketpair()
        provider, self.provider = socket.socketpair()
        self.ends: list[int] = []
        self.socket = Socket(
            Response(provider),
            cast("SocketTurns", Turns()),
            SocketLimits(),
            must_read=False,
            ended=lambda _, code: self.ends.append(code),
        )
        self.inner = inner
        self.rest: bytes | None = None  # what was read of the client afterwards
        self.carrier = gevent.spawn(self._serve)
        for side in (self.client, self.provider):
            side.settimeout(5)

    def _serve(self) -> None:
        """Do what the server layer does: read the client's connection to its end."""
        self.socket.take_over(self.inner, b"")
        self.inner.settimeout(1)
        with suppress(OSError):
            self.rest = self.inner.recv(10)


@pytest.fixture
def line() -> Iterator[Line]:
    """A fresh one."""
    made = Line()
    yield made
    for side in (made.client, made.provider):
        side.close()
    made.carrier.join(3)
    assert made.carrier.dead
    made.inner.close()


def fill(side: socket.socket, *, is_masked: bool = False) -> int:
    """Send until nothing more is taken for a moment; returns about how many bytes were."""
    sent, data = 0, frame(frames.BINARY, bytes(60_000), is_masked=is_masked)
    side.settimeout(0.3)
    with suppress(TimeoutError):
        while True:
            side.sendall(data)
            sent += len(data)
    return sent


def test_a_client_that_takes_nothing_is_cut(line: Line) -> None:
    """The provider is held back; an end from this side breaks the write that waits for the client."""
    assert fill(line.provider) < 4_000_000
    assert line.socket.stuck_s is not None
    line.socket.cut(REVOKED)
    line.carrier.join(3)
    assert line.carrier.dead
    assert line.ends == [1008]


def test_a_provider_that_takes_nothing_is_cut(line: Line) -> None:
    """The client is held back, and an end from this side still ends it."""
    assert fill(line.client, is_masked=True) < 4_000_000
    line.socket.cut(REVOKED)
    line.carrier.join(3)
    assert line.carrier.dead
    assert line.ends == [1008]


def test_a_refusal_waits_for_the_end_of_a_message(line: Line) -> None:
    """It is said between two messages of the provider, never inside a fragmented one."""
    first, last = b"\x01\x03abc", b"\x80\x03def"
    line.provider.sendall(first)
    assert line.client.recv(100) == first
    line.client.sendall(frame(frames.TEXT, b"!", is_masked=True))
    gevent.sleep(0.05)
    line.provider.sendall(last)
    found = b""
    while len(found) < len(last) + 4:
        found += line.client.recv(100)
    assert found == last + frame(frames.TEXT, b"no")


def test_refusals_that_wait_are_bounded(line: Line) -> None:
    """Past a thousand of them the WebSocket ends."""
    line.provider.sendall(b"\x01\x03abc")
    assert line.client.recv(100)
    line.client.sendall(frame(frames.TEXT, b"!", is_masked=True) * 1001)
    line.carrier.join(5)
    assert line.ends == [1008]


def test_both_sides_are_told_and_the_providers_response_is_awaited(line: Line) -> None:
    """Each gets the close frame; the connection ends when the provider has answered."""
    line.socket.end(frames.GOING_AWAY, "why", OSError())
    assert line.client.recv(100) == close_frame(1001, "why")
    assert line.provider.recv(100)[:2] == b"\x88\x85"
    line.provider.close()
    gevent.sleep(0.15)
    assert line.ends == [1001]


def test_nothing_reads_the_client_when_it_is_over(line: Line) -> None:
    """The server layer may then read the connection to its end."""
    gevent.sleep(0.05)  # both directions have begun
    line.provider.sendall(close_frame(1000, ""))
    line.provider.shutdown(socket.SHUT_WR)
    gevent.sleep(0.1)
    line.client.sendall(b"late")
    line.carrier.join(3)
    assert line.rest == b"late"
