"""Connections that are kept: which, for how long, in what order, and what a dead one costs."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from integration.transport.scripted import OK, Connection, Script, responding
from integration.transport.transport_lab import PATIENT, Lab, wait_until

from llm_proxy import errors

# -- re-sending -----------------------------------------------------------------------------------------------


def dies_at_second(how: str) -> Script:
    """Answer one request; the second one meets the end of the connection in some way."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        if how == "half read, closed":
            c.read(10)
            c.fin()
            return
        head = c.head()
        assert head
        if how == "read, part of a head":
            c.send(b"HTTP/1.1 200 OK\r\nA: b\r\n")
        c.reset() if how == "read, reset" else c.fin()

    return script


WAYS = ["read, closed", "read, reset", "half read, closed"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_on_a_dying_connection_is_sent_once_more(lab: Lab, method: str, how: str) -> None:
    """A GET or HEAD whose kept connection ends without a byte of a response is sent again, on a fresh one."""
    lab.script(dies_at_second(how), responding(OK.removesuffix(b"ok") if method == "HEAD" else OK))
    lab.fetch()
    assert lab.fetch(method)[0] == 200
    assert len(lab.connections) == 2


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_others_are_never_sent_twice(lab: Lab, method: str, how: str) -> None:
    """Any other method fails then, and was sent once."""
    lab.script(dies_at_second(how), responding(OK))
    lab.fetch()
    with pytest.raises(errors.UpstreamBroken) as caught:
        lab.fetch(method, body=b"{}")
    assert caught.value.is_sent
    assert len(lab.connections) == 1
    assert lab.connections[0].received.count(method.encode() + b" ") <= 1


def test_get_is_not_sent_again_after_a_byte(lab: Lab) -> None:
    """A part of a response is a response: nothing is sent again."""
    lab.script(dies_at_second("read, part of a head"), responding(OK))
    lab.fetch()
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert len(lab.connections) == 1


def test_second_failure_is_final(lab: Lab) -> None:
    """The re-sent GET fails too: that is the response."""
    lab.script(dies_at_second("read, closed"), lambda c: c.head(), responding(OK))
    lab.fetch()
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert len(lab.connections) == 2


def test_second_connection_that_fails_still_counts_as_sent(plain: Lab) -> None:
    """The first try handed bytes over: no later failure makes that undone."""
    plain.script(dies_at_second("read, closed"))
    plain.fetch()
    plain.server.stop_listening()
    with pytest.raises(errors.UpstreamConnectError) as caught:
        plain.fetch()
    assert (caught.value.phase, caught.value.is_sent) == ("connect", True)


def test_fresh_connection_is_never_tried_twice(lab: Lab) -> None:
    """A GET whose fresh connection ends unanswered is not repeated."""
    lab.script(lambda c: c.head(), responding(OK))
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert len(lab.connections) == 1


def test_late_kept_connection_is_not_a_reason_to_repeat(plain: Lab) -> None:
    """A GET that was cut or late on a kept connection is not sent again."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        c.wait_for_end()

    plain.script(script)
    plain.fetch()
    with pytest.raises(errors.UpstreamCut):
        plain.send(begun=lambda x: gevent.spawn_later(0.05, x.cut, "drain"))
    assert len(plain.connections) == 1


# -- idle connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Connection.close, Connection.fin, Connection.reset], ids=["close", "fin", "reset"])
def test_connection_closed_while_idle_is_not_used(lab: Lab, end: Callable[[Connection], None]) -> None:
    """The end is noticed before anything is sent on it: even a POST succeeds."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        gevent.sleep(0.01)
        end(c)

    lab.script(script, responding(OK))
    lab.fetch()
    wait_until(lab.connections[0].ended.is_set)
    gevent.sleep(0.02)
    assert lab.fetch("POST", body=b"x") == (200, b"ok")
    assert len(lab.connections) == 2


def test_bytes_into_an_idle_connection_are_no_response(lab: Lab) -> None:
    """A 408 sent into the idle connection is not taken for the next request's response."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        gevent.sleep(0.01)
        c.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        c.wait_for_end()

    lab.script(script, responding(OK))
    lab.fetch()
    gevent.sleep(0.05)
    assert lab.fetch("POST", body=b"x") == (200, b"ok")
    assert len(lab.connections) == 2


def test_last_in_is_first_out(lab: Lab) -> None:
    """Of three idle connections the one that came back last is used next, so that the others can grow old."""
    go = [Event() for _ in range(3)]

    def numbered(number: int) -> Script:
        def script(c: Connection) -> None:
            c.request()
            c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            go[number].wait(5)
            c.send(b"%d" % number)
            c.request()
            c.send(b"HTTP/1.1 200 OK\r\nN: %d\r\n\r\n" % number)
            c.wait_for_end()

        return script

    lab.script(*(numbered(number) for number in range(3)))
    streams = [lab.send() for _ in range(3)]
    for number in (2, 0, 1):
        go[number].set()
        assert list(streams[number].chunks()) == [b"%d" % number]
    assert [lab.send().fields for _ in range(3)] == [[(b"N", b"1")], [(b"N", b"0")], [(b"N", b"2")]]


def hold_responses(lab: Lab) -> Event:
    """Have every connection wait with its response until the event is set."""
    go = Event()

    def script(c: Connection) -> None:
        c.request()
        go.wait(5)
        c.send(OK)
        c.wait_for_end()

    lab.script(script)
    return go


def test_connections_in_use_are_not_bounded(make_lab: Any) -> None:
    """Sixty requests run at once on sixty connections; soon after, the bound on idle ones holds."""
    plain = make_lab("plain", spare_s=0.1)
    go = hold_responses(plain)
    jobs = [gevent.spawn(plain.fetch) for _ in range(60)]
    wait_until(lambda: len(plain.connections) == 60)
    assert (plain.upstream.live_count, plain.upstream.open_count, plain.upstream.idle_count) == (60, 60, 0)
    go.set()
    assert [job.get() for job in jobs] == [(200, b"ok")] * 60
    assert plain.upstream.live_count == 0
    wait_until(lambda: plain.upstream.open_count == plain.upstream.idle_count == 20)


def test_requests_in_turns_of_many_open_no_new_connections(make_lab: Any) -> None:
    """Thirty at once, again and again, need thirty connections, although two are kept for longer."""
    lab = make_lab("plain", max_idle_per_origin=2, spare_s=0.3)
    lab.respond(OK)
    for _ in range(4):
        jobs = [gevent.spawn(lab.fetch) for _ in range(30)]
        assert [job.get() for job in jobs] == [(200, b"ok")] * 30
        lab.upstream._adapter()._sweep()
    assert len(lab.connections) <= 30
    wait_until(lambda: lab.upstream.idle_count == 2)


def test_idle_connections_are_bounded_over_all_origins(make_lab: Any) -> None:
    """Beyond `max_idle` the connection that has been idle longest goes, whichever origin's it is."""
    lab = make_lab("plain", max_idle=3, max_idle_per_origin=2)
    go = hold_responses(lab)

    def fetch(origin: str) -> None:
        request = lab.forward()
        request.origin = f"http://{origin}:{lab.server.port}"
        response = lab.upstream.send(request, timeouts=PATIENT)
        assert b"".join(response.chunks()) == b"ok"

    jobs = [gevent.spawn(fetch, origin) for origin in ("a.test", "a.test", "b.test", "b.test")]
    wait_until(lambda: len(lab.connections) == 4)
    go.set()
    gevent.joinall(jobs, raise_error=True)
    wait_until(lambda: lab.upstream.idle_count == 3)


def test_idle_connections_grow_old(make_lab: Any) -> None:
    """After `idle_s` an idle connection is closed without any request."""
    lab = make_lab("plain", idle_s=0.2)
    lab.respond(OK)
    lab.fetch()
    assert lab.upstream.idle_count == 1
    assert lab.connections[0].ended.wait(2)
    assert lab.upstream.open_count == 0


@pytest.mark.parametrize("read", [0, 1], ids=["unread", "begun"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_abandoned_response_costs_the_connection(lab: Lab, framing: str, read: int) -> None:
    """`close()` before the end of the content closes the connection, and at once."""
    head = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nhello",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "close": b"HTTP/1.1 200 OK\r\n\r\nhello",
    }[framing]

    def script(c: Connection) -> None:
        c.request()
        c.send(head)
        c.wait_for_end()

    lab.script(script)
    response = lab.send()
    if read:
        assert next(response.chunks()) == b"hello"
    response.close()
    assert lab.upstream.open_count == 0
    assert lab.connections[0].ended.wait(1)
    response.close()


def test_close_ends_everything(lab: Lab) -> None:
    """`Upstream.close` cuts what runs and closes what is idle."""

    def script(c: Connection) -> None:
        c.request()
        c.send(OK)
        c.request()
        c.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        c.wait_for_end()

    lab.script(script)
    lab.fetch()
    stream = lab.send()
    assert b"".join(lab.send().chunks()) == b"ok"
    assert lab.upstream.open_count == 2
    chunks = stream.chunks()
    assert next(chunks) == b"hello"
    lab.upstream.close()
    assert lab.upstream.open_count == 0
    with pytest.raises(errors.UpstreamCut) as caught:
        next(chunks)
    assert caught.value.reason == "closed"
    for connection in lab.connections:
        assert connection.ended.wait(1)


# -- addresses ---------------------------------------------------------------------------------------------------------


def refusing_port() -> int:
    """A port without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_addresses_are_tried_in_turn(make_lab: Any) -> None:
    """A refused ::1, then a refused IPv4, then a good one: answered; the good one is first next time."""
    looked_up: list[str] = []

    def look_up(host: str, port: int) -> list[Any]:
        looked_up.append(host)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", bad, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", bad)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    bad = refusing_port()
    lab = make_lab("plain", look_up=look_up)
    lab.script(responding(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    assert lab.fetch() == (200, b"ok")
    assert lab.fetch() == (200, b"ok")
    assert looked_up == ["upstream.test"]
    origin = lab.upstream._adapter()._origins[lab.origin]
    assert origin._book._known[0][1][1] == lab.server.port


def test_no_address_at_all(make_lab: Any) -> None:
    """Every address refuses: a connect error, nothing was sent."""
    bad = refusing_port()
    lab = make_lab("plain", look_up=lambda host, port: [(2, 1, 6, "", ("127.0.0.1", bad))] * 2)
    lab.respond(OK)
    with pytest.raises(errors.UpstreamConnectError) as caught:
        lab.fetch()
    assert (caught.value.phase, caught.value.is_sent) == ("connect", False)


def test_unknown_name(make_lab: Any) -> None:
    """A name that does not resolve is a connect error, and is looked up again next time."""
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    lab = make_lab("plain", look_up=look_up)
    for _ in range(2):
        with pytest.raises(errors.UpstreamConnectError):
            lab.fetch()
    assert len(asked) == 2


def test_one_look_up_serves_all_that_wait(make_lab: Any) -> None:
    """Ten requests at once ask for the addresses once."""
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[Any]:
        asked.append(host)
        gevent.sleep(0.05)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    lab = make_lab("plain", look_up=look_up)
    lab.respond(OK)
    jobs = [gevent.spawn(lab.fetch) for _ in range(10)]
    assert [job.get() for job in jobs] == [(200, b"ok")] * 10
    assert len(asked) == 1


def test_nothing_is_delayed_by_nagle(plain: Lab) -> None:
    """TCP_NODELAY and SO_KEEPALIVE are on."""
    plain.respond(OK)
    response = plain.send()
    origin = plain.upstream._adapter()._origins[plain.origin]
    sock = origin.idle[0][0]
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert response.status == 200
