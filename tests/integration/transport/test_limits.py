"""Time limits: each ends what it is for, at its time, as what it is; and nothing that merely takes long."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from integration.transport.scripted import OK, Connection, FullBacklog, Script, once
from integration.transport.transport_lab import Lab

from llm_proxy import errors
from llm_proxy.transport import Timeouts

pytestmark = pytest.mark.times

LATE_S = 0.5  # a sweep is 0.05 s here; the rest is for a busy machine
START = b"HTTP/1.1 200 OK\r\n"


def limits(**some: float) -> Timeouts:
    """Five seconds for what the case is not about."""
    return Timeouts(**{"connect_s": 5, "first_byte_s": 5, "idle_s": 5, "total_s": math.inf} | some)


@contextmanager
def expect_timeout(after_s: float, phase: str, *, is_sent: bool = True) -> Iterator[None]:
    """The block ends in UpstreamTimeout, not before `after_s` and not much later."""
    started = time.monotonic()
    with pytest.raises(errors.UpstreamTimeout) as caught:
        yield
    took_s = time.monotonic() - started
    assert after_s - 0.02 <= took_s <= after_s + LATE_S
    assert (caught.value.phase, caught.value.is_sent) == (phase, is_sent)


def silent(c: Connection) -> None:
    c.request()
    c.wait_for_end()


# -- connect ----------------------------------------------------------------------------------------------------------


class Slow:
    """A body of so many bytes, each of which takes its time, as does the end."""

    def __init__(self, left: int, pause_s: float) -> None:
        self.left, self.pause_s = left, pause_s

    def read1(self, n: int) -> bytes:
        """Return the next byte."""
        gevent.sleep(self.pause_s)
        self.left -= 1
        return b"x" if self.left >= 0 else b""


def test_slow_look_up(make_lab: Any) -> None:
    """A look-up counts for the connect limit."""
    lab = make_lab("plain", look_up=lambda host, port: gevent.sleep(3))
    with expect_timeout(0.2, "connect", is_sent=False):
        lab.send(timeouts=limits(connect_s=0.2))


@pytest.mark.parametrize("addresses", [1, 2])
def test_full_backlog(make_lab: Any, addresses: int) -> None:
    """So does a TCP connection that is never accepted, with one address and with several."""
    full = FullBacklog()
    lab = make_lab("plain", look_up=lambda host, port: [(2, 1, 6, "", (f"127.0.0.{n}", full.port)) for n in (1, 1)])
    try:
        with expect_timeout(0.2, "connect", is_sent=False):
            lab.send(timeouts=limits(connect_s=0.2))
    finally:
        full.close()


def test_black_hole_leaves_time_for_the_next(make_lab: Any) -> None:
    """An address that swallows everything costs its share of the limit only."""
    full = FullBacklog()

    def look_up(host: str, port: int) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", full.port)), (2, 1, 6, "", ("127.0.0.1", port))]

    lab = make_lab("plain", look_up=look_up)
    lab.respond(OK)
    try:
        assert lab.fetch(timeouts=limits(connect_s=0.6)) == (200, b"ok")
    finally:
        full.close()


@pytest.mark.parametrize("mode", ["tls", "tunnel"])
def test_hanging_handshake(make_lab: Any, mode: str) -> None:
    """And a TLS handshake that the other side never takes part in."""
    lab = make_lab(mode)
    lab.server.speak_plain()
    lab.script(lambda c: c.wait_for_end())
    with expect_timeout(0.2, "connect", is_sent=False):
        lab.send(timeouts=limits(connect_s=0.2))


def test_silent_proxy(make_lab: Any) -> None:
    """And a proxy that does not answer CONNECT."""
    lab = make_lab("tunnel")
    lab.proxy.scripts = [lambda c: c.wait_for_end()]
    with expect_timeout(0.2, "connect", is_sent=False):
        lab.send(timeouts=limits(connect_s=0.2))


# -- the head ---------------------------------------------------------------------------------------------------------


def test_no_first_byte(lab: Lab) -> None:
    """Silence after the request ends at the first-byte limit."""
    lab.script(silent)
    with expect_timeout(0.2, "head"):
        lab.send("POST", body=b"x", timeouts=limits(first_byte_s=0.2))


@pytest.mark.parametrize("dripped", [START + b"A: b\r\n" * 100, b"HTTP/1.1 103 Hint\r\n\r\n" * 16])
def test_dripped_head(lab: Lab, dripped: bytes) -> None:
    """The limit is for the whole head: neither single bytes nor interim responses extend it."""

    def script(c: Connection) -> None:
        c.request()
        for n in range(len(dripped)):
            c.send(dripped[n : n + 1])
            gevent.sleep(0.02)

    lab.script(script)
    with expect_timeout(0.4, "head"):
        lab.send("POST", body=b"x", timeouts=limits(first_byte_s=0.4, idle_s=0.2))


def test_first_byte_counts_from_the_requests_end(lab: Lab) -> None:
    """An upload that takes longer than the first-byte limit is not ended by it."""
    lab.respond(OK)
    response = lab.send(
        "POST",
        fields=[(b"Transfer-Encoding", b"chunked")],
        body=Slow(4, 0.1),
        timeouts=limits(first_byte_s=0.3, idle_s=0.3),
    )
    assert response.status == 200


# -- silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"\r\n"])
def test_stall_in_the_content(lab: Lab, head: bytes) -> None:
    """An upstream that stops in the middle of its content is late after the idle limit."""

    def script(c: Connection) -> None:
        c.request()
        c.send(START + head + b"hello")
        c.wait_for_end()

    lab.script(script)
    chunks = lab.send(timeouts=limits(idle_s=0.2)).chunks()
    assert next(chunks) == b"hello"
    with expect_timeout(0.2, "body"):
        next(chunks)
    assert lab.connections[0].ended.wait(1)


def test_blocked_send(lab: Lab) -> None:
    """An upstream that takes no byte of an upload for so long is late too."""

    def script(c: Connection) -> None:
        c.head()
        gevent.sleep(5)

    lab.script(script)
    with expect_timeout(0.2, "send"):
        lab.send("POST", body=bytes(50_000_000), timeouts=limits(idle_s=0.2))


def drip(count: int, pause_s: float) -> Script:
    """Send a response of so many bytes, one at a time."""

    def script(c: Connection) -> None:
        c.request()
        c.send(START + b"\r\n")
        for _ in range(count):
            c.send(b"x")
            gevent.sleep(pause_s)

    return script


def test_slow_steady_stream_is_not_cut(lab: Lab) -> None:
    """A response may take many times the idle limit, as long as it is never silent for so long."""

    lab.script(drip(12, 0.05))
    assert lab.fetch(timeouts=limits(idle_s=0.4, first_byte_s=0.4, connect_s=0.4))[1] == b"x" * 12


def test_pausing_client_is_not_the_upstreams_silence(lab: Lab) -> None:
    """A client that takes its time with the response uses up no limit of the upstream's."""

    def script(c: Connection) -> None:
        c.request()
        c.send(START + b"Content-Length: 6\r\n\r\n")
        gevent.sleep(0.02)
        c.send(b"one")
        gevent.sleep(0.6)
        c.send(b"end")

    lab.script(script)
    chunks = lab.send(timeouts=limits(idle_s=0.3, total_s=0.3, first_byte_s=0.3)).chunks()
    gevent.sleep(0.45)
    assert next(chunks) == b"one"
    assert next(chunks) == b"end"  # after a wait that a total limit without the client's time would not allow


def test_pausing_uploader_is_not_the_upstreams_silence(lab: Lab) -> None:
    """Nor does one that takes its time with the request's body."""

    def script(c: Connection) -> None:
        c.request()
        gevent.sleep(0.15)
        c.send(OK)

    lab.script(script)
    fields = [(b"Transfer-Encoding", b"chunked")]
    tight = limits(connect_s=0.3, idle_s=0.3, total_s=0.3)
    assert lab.fetch("POST", fields=fields, body=Slow(1, 0.45), timeouts=tight) == (200, b"ok")


# -- the total --------------------------------------------------------------------------------------------------------


def endless(c: Connection) -> None:
    c.request()
    c.send(START + b"\r\n")
    while True:
        c.send(b"x")
        gevent.sleep(0.02)


def test_total_limit_ends_a_steady_stream(lab: Lab) -> None:
    """A total limit, where one is set, ends a response that would go on."""
    lab.script(endless)
    with expect_timeout(0.5, "body"):
        lab.fetch(timeouts=limits(total_s=0.5))


def test_total_limit_holds_for_the_head(lab: Lab) -> None:
    """It also ends the wait for a head whose own limit is longer."""
    lab.script(silent)
    with expect_timeout(0.2, "head"):
        lab.send("POST", body=b"x", timeouts=limits(total_s=0.2))


def test_total_limit_can_be_lifted(lab: Lab) -> None:
    """After `no_total_limit` the stream goes on past it."""

    lab.script(drip(20, 0.025))
    response = lab.send(timeouts=limits(total_s=0.3))
    response.no_total_limit()
    assert b"".join(response.chunks()) == b"x" * 20


def test_no_limit_at_all(lab: Lab) -> None:
    """Infinity is no limit, in each of them."""
    inf = math.inf
    lab.script(once(START + b"Content-Length: 5\r\n\r\nhel", b"lo"))
    assert lab.fetch(timeouts=Timeouts(inf, inf, inf, inf)) == (200, b"hello")
