"""`exchange.cut`: from the hub, in any phase, at once, as often as it is called."""

import time
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event
from gevent.pool import Pool
from integration.transport.scripted import OK, Connection, FullBacklog, found, responding
from integration.transport.transport_lab import Lab, wait_until

from llm_proxy import errors

pytestmark = pytest.mark.times

SOON_S = 0.3  # 0.1 on a quiet machine
START = b"HTTP/1.1 200 OK\r\n"


class Cutter:
    """Cuts an exchange from a hub timer, as a watch on the client's socket does."""

    def __init__(self, after_s: float = 0.05) -> None:
        self.after_s = after_s
        self.at = 0.0
        self.exchange: Any = None

    def begun(self, exchange: Any) -> None:
        self.exchange = exchange
        self.timer = get_hub().loop.timer(self.after_s)
        self.timer.start(self.cut, update=True)

    def cut(self) -> None:
        self.at = time.monotonic()
        self.exchange.cut("client gone")
        self.exchange.cut("drain")
        self.timer.close()


def expect_cut(lab: Lab, phase: str, *args: Any, is_sent: bool, **more: Any) -> None:
    """The call ends in UpstreamCut right after the cut, by the first reason, and holds nothing any more."""
    cutter = Cutter()
    with pytest.raises(errors.UpstreamCut) as caught:
        lab.fetch(*args, begun=cutter.begun, **more)
    assert cutter.at
    assert time.monotonic() - cutter.at < SOON_S
    assert (caught.value.reason, caught.value.phase, caught.value.is_sent) == ("client gone", phase, is_sent)
    assert (lab.upstream.live_count, lab.upstream.open_count) == (0, 0)
    cutter.exchange.cut("late")


def test_in_the_look_up(make_lab: Any) -> None:
    """A running look-up is left to itself, and its response serves the next request."""

    def look_up(host: str, port: int) -> list[Any]:
        gevent.sleep(0.4)
        return found(host, port)

    lab = make_lab("plain", look_up=look_up)
    lab.respond(OK)
    expect_cut(lab, "connect", is_sent=False)
    assert not lab.connections
    assert lab.fetch() == (200, b"ok")


def test_in_tcp(make_lab: Any) -> None:
    """A connection attempt that hangs is given up."""
    full = FullBacklog()
    lab = make_lab("plain", look_up=lambda host, port: [(2, 1, 6, "", ("127.0.0.1", full.port))] * 2)
    try:
        expect_cut(lab, "connect", is_sent=False)
    finally:
        full.close()


def test_in_connect(make_lab: Any) -> None:
    """So is a proxy that does not answer; it sees the connection end."""
    lab = make_lab("tunnel")
    lab.proxy.scripts = [lambda c: c.wait_for_end()]
    expect_cut(lab, "connect", is_sent=False)
    assert lab.proxy.connections[0].ended.wait(1)


@pytest.mark.parametrize("mode", ["tls", "tunnel"])
def test_in_the_handshake(make_lab: Any, mode: str) -> None:
    """So is a TLS handshake: the wrapped socket is the one that is closed."""
    lab = make_lab(mode)
    lab.server.speak_plain()
    lab.script(lambda c: c.wait_for_end())
    expect_cut(lab, "connect", is_sent=False)
    assert lab.connections[0].ended.wait(1)


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_while_sending(lab: Lab, kind: str) -> None:
    """A send that the upstream does not take is ended."""

    class Endless:
        def read1(self, n: int) -> bytes:
            return bytes(n)

    def script(c: Connection) -> None:
        c.head()
        gevent.sleep(0.3)
        while c.read_some():
            pass

    lab.script(script)
    if kind == "bytes":
        expect_cut(lab, "send", "POST", body=bytes(20_000_000), is_sent=True)
    else:
        fields = [(b"Content-Length", b"20000000")]
        expect_cut(lab, "send", "POST", fields=fields, body=Endless(), is_sent=True)
    assert lab.connections[0].ended.wait(2)


def test_while_the_client_is_read(lab: Lab) -> None:
    """A wait for the client's body is ended as well."""

    class Silent:
        def read1(self, n: int) -> bytes:
            gevent.sleep(30)
            return b""

    lab.respond(OK)
    expect_cut(lab, "send", "POST", fields=[(b"Transfer-Encoding", b"chunked")], body=Silent(), is_sent=True)
    assert lab.connections[0].ended.wait(1)


def test_while_100_is_waited_for(lab: Lab) -> None:
    """And the wait for a response to Expect; the body stays unread."""

    class Untouched:
        def read1(self, n: int) -> bytes:
            raise AssertionError

    lab.script(lambda c: c.wait_for_end())
    fields = [(b"Content-Length", b"3"), (b"Expect", b"100-continue")]
    started = time.monotonic()
    expect_cut(lab, "send", "POST", fields=fields, body=Untouched(), is_sent=True)
    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nA: b", b"HTTP/1.1 103 Hint\r\n\r\n"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_while_the_head_is_waited_for(lab: Lab, method: str, sent: bytes) -> None:
    """A silent upstream sees the connection end; what had come of a head makes no difference."""

    def script(c: Connection) -> None:
        c.head()
        c.send(sent)
        c.wait_for_end()

    lab.script(script)
    expect_cut(lab, "head", method, is_sent=True)
    assert lab.connections[0].ended.wait(1)
    assert len(lab.connections) == 1


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"\r\n"])
def test_in_the_content(lab: Lab, head: bytes, kept: bool) -> None:
    """A stream is ended in the middle, on a fresh and on a kept connection."""

    def script(c: Connection) -> None:
        if kept:
            c.request()
            c.send(OK)
        c.request()
        c.send(START + head + b"hello")
        c.wait_for_end()

    lab.script(script)
    if kept:
        lab.fetch()
    expect_cut(lab, "body", is_sent=True)
    assert lab.connections[0].ended.wait(1)
    assert len(lab.connections) == 1


def test_between_two_reads(lab: Lab) -> None:
    """A cut while the client is written to shows at the next read, even where more had arrived with the head."""

    def script(c: Connection) -> None:
        c.request()
        c.send(START + b"Content-Length: 100\r\n\r\nhello", b"more")
        c.wait_for_end()

    lab.script(script)
    response = lab.send()
    response.exchange.cut("drain")
    with pytest.raises(errors.UpstreamCut) as caught:
        next(response.chunks())
    assert (caught.value.reason, caught.value.phase) == ("drain", "body")


def test_before_anything(lab: Lab) -> None:
    """A cut in `begun` itself: nothing is connected."""
    lab.respond(OK)
    with pytest.raises(errors.UpstreamCut) as caught:
        lab.send(begun=lambda exchange: exchange.cut("client gone"))
    assert (caught.value.phase, caught.value.is_sent) == ("connect", False)
    assert not lab.connections


def test_after_the_end_spares_the_pooled_connection(lab: Lab) -> None:
    """A late cut must not end a connection that is another request's by now."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        c.request()
        c.send(START + b"Content-Length: 5\r\n\r\nhel")
        go.wait(5)
        c.send(b"lo")
        c.wait_for_end()

    go = Event()
    lab.script(script)
    exchanges: list[Any] = []
    lab.fetch(begun=exchanges.append)
    response = lab.send()
    exchanges[0].cut("client gone")
    gevent.sleep(0.02)
    go.set()
    assert b"".join(response.chunks()) == b"hello"
    assert len(lab.connections) == 1


def test_killed_greenlet_leaves_nothing(lab: Lab) -> None:
    """GreenletExit in the wait for the head closes the connection and passes on."""
    lab.script(lambda c: c.wait_for_end())
    job = gevent.spawn(lab.fetch)
    wait_until(lambda: lab.connections and lab.connections[0].received)
    job.kill()
    assert isinstance(job.value, gevent.GreenletExit)
    assert (lab.upstream.live_count, lab.upstream.open_count) == (0, 0)
    assert lab.connections[0].ended.wait(1)


def test_nothing_leaks(make_lab: Any) -> None:
    """600 mixed exchanges, 30 at a time, cut at 0 to 30 ms: afterwards nothing is open but the pool."""
    lab = make_lab("plain")
    number = 0

    def script(c: Connection) -> None:
        nonlocal number
        number += 1
        kind = number % 6
        c.head()
        if kind == 0:
            c.wait_for_end()
        elif kind == 1:
            c.send(b"HTTP/1.1 200 OK\r\nA: ")
            c.wait_for_end()
        elif kind == 2:
            c.reset()
        elif kind == 3:
            c.send(b"garbage")
        elif kind == 4:
            c.send(OK + b"surplus")
            c.wait_for_end()
        else:
            c.send(OK)
            responding(OK)(c)

    lab.script(script)
    outcomes: dict[str, int] = {}

    def job(n: int) -> None:
        body = bytes(3_000_000) if n % 10 == 0 else None
        try:
            lab.fetch("POST" if body else "GET", body=body, begun=Cutter((n % 31) / 1000).begun)
            outcome = "whole"
        except errors.UpstreamError as exc:
            outcome = type(exc).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    pool = Pool(30)
    pool.map(job, range(600))
    assert set(outcomes) == {"whole", "UpstreamCut", "UpstreamBroken"}, outcomes
    assert lab.upstream.live_count == 0
    assert lab.upstream.open_count == lab.upstream.idle_count
    gevent.sleep(0.05)
    alive = [c for c in lab.connections if not c.ended.is_set()]
    wait_until(lambda: len([c for c in alive if not c.ended.is_set()]) <= lab.upstream.idle_count)
