"""What the upstream sends: taken exactly, or refused; a clean end is one, everything else is an error."""

from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from integration.transport.scripted import OK, Connection, once
from integration.transport.transport_lab import Lab, wait_until

from llm_proxy import errors

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def test_fields_come_as_sent(lab: Lab) -> None:
    """Order, case, repetition, obs-text, inner blanks and empty values are kept; outer blanks belong to no value."""
    lab.respond(
        b"HTTP/1.1 299 Really \xe4 fine\r\nSet-Cookie: a\r\nset-cookie: b\r\nX: \t a  b\t \r\nE:\r\nO: \xe4\r\n"
        b"Set-Cookie: c\r\nContent-Length: 2\r\n\r\nok"
    )
    response = lab.send()
    assert (response.status, response.reason, response.http_version) == (299, b"Really \xe4 fine", "HTTP/1.1")
    assert response.fields == [
        (b"Set-Cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"X", b"a  b"),
        (b"E", b""),
        (b"O", b"\xe4"),
        (b"Set-Cookie", b"c"),
        (b"Content-Length", b"2"),
    ]
    assert list(response.chunks()) == [b"ok"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_cut_into_packets_at_every_offset(plain: Lab, framing: str) -> None:
    """A response behind a 103, cut in two at any byte, comes out the same, and the connection is kept each time."""
    body = (
        b"Content-Length: 5\r\n\r\nhello"
        if framing == "length"
        else (b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: t\r\n\r\n")
    )
    whole = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 Fine\r\nA: b \r\n" + body

    def script(c: Connection) -> None:
        for cut in range(1, len(whole)):
            c.request()
            c.send(whole[:cut], whole[cut:], pause_s=0.001)

    plain.script(script)
    for _ in range(1, len(whole)):
        response = plain.send()
        assert (response.status, response.reason, response.fields[0]) == (200, b"Fine", (b"A", b"b"))
        assert b"".join(response.chunks()) == b"hello"
    assert len(plain.connections) == 1


def test_cut_at_every_offset_over_tls(lab: Lab) -> None:
    """Byte by byte, each in a packet (and record) of its own, it is the same response."""
    whole = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    lab.script(once(*(whole[n : n + 1] for n in range(len(whole)))))
    assert lab.fetch() == (200, b"hello")


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_each_event_is_handed_on_at_once(lab: Lab, framing: str) -> None:
    """An event comes out before the next one is sent, also when the first one arrives alone."""
    go = Event()
    events = [b"data: %d\n\n" % n for n in range(3)]
    head = {
        "chunked": CHUNKED,
        "length": START + b"Content-Length: %d\r\n\r\n" % sum(map(len, events)),
        "close": START + b"\r\n",
    }[framing]

    def script(c: Connection) -> None:
        c.request()
        c.send(head)
        for event in events:
            assert go.wait(5)
            go.clear()
            c.send(b"%x\r\n%b\r\n" % (len(event), event) if framing == "chunked" else event)
        c.send(b"0\r\n\r\n" if framing == "chunked" else b"")

    lab.script(script)
    response = lab.send()
    chunks = response.chunks()
    for event in events:
        go.set()
        assert next(chunks) == event
    assert list(chunks) == []
    assert lab.upstream.idle_count == (framing != "close")


def test_large_content_is_whole(lab: Lab) -> None:
    """8 MB by chunks of odd sizes and by Content-Length arrive byte for byte."""
    content = bytes(range(251)) * 32000
    pieces = [content[n : n + 7001] for n in range(0, len(content), 7001)]
    lab.respond(
        CHUNKED + b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n",
        START + b"Content-Length: %d\r\n\r\n" % len(content) + content,
    )
    assert lab.fetch() == (200, content)
    assert lab.fetch() == (200, content)
    assert len(lab.connections) == 1


# -- ends that are none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Connection.close, Connection.fin, Connection.reset], ids=["close", "fin", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(START + b"Content-Length: 10\r\n\r\nhello", id="short of its length"),
        pytest.param(START + b"Content-Length: 10\r\n\r\n", id="no content at all"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"5\r\nhel", id="inside a chunk"),
        pytest.param(CHUNKED + b"5\r\nhello", id="before a chunk's CRLF"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n0\r\n", id="inside the last chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n", id="inside the trailers"),
        pytest.param(CHUNKED, id="no chunk at all"),
    ],
)
def test_early_end_is_an_error(lab: Lab, sent: bytes, end: Callable[[Connection], None]) -> None:
    """After the head an early end of any kind raises UpstreamBroken, and what had come was handed on before."""

    def script(c: Connection) -> None:
        c.request()
        c.send(sent)
        gevent.sleep(0.01)
        end(c)

    lab.script(script)
    response = lab.send()
    got = b""
    with pytest.raises(errors.UpstreamBroken) as caught:  # noqa: PT012  # what came before the error counts too
        for chunk in response.chunks():
            got += chunk
    assert (caught.value.phase, caught.value.is_sent) == ("body", True)
    assert b"hello".startswith(got)
    assert (got == b"") == (b"hel" not in sent)
    assert lab.upstream.open_count == 0
    assert list(response.chunks()) == []


@pytest.mark.parametrize("sent", [b"", b"HT", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n", START[:-1]])
@pytest.mark.parametrize("end", [Connection.close, Connection.fin, Connection.reset], ids=["close", "fin", "reset"])
def test_end_inside_the_head_is_an_error(lab: Lab, sent: bytes, end: Callable[[Connection], None]) -> None:
    """A connection that ends before the head does is UpstreamBroken in the phase `head`."""

    def script(c: Connection) -> None:
        c.request()
        c.send(sent)
        end(c)

    lab.script(script)
    with pytest.raises(errors.UpstreamBroken) as caught:
        lab.send("POST", body=b"x")
    assert (caught.value.phase, caught.value.is_sent) == ("head", True)
    assert lab.upstream.open_count == 0


def test_read_until_close_ends_with_the_connection(lab: Lab) -> None:
    """Without any framing the content ends where the upstream closes cleanly."""
    lab.script(once(START + b"A: b\r\n\r\nhel", b"lo"))
    assert lab.fetch() == (200, b"hello")
    assert lab.upstream.open_count == 0


@pytest.mark.parametrize("mode", ["tls", "tunnel"])
def test_until_close_over_tls_wants_close_notify(make_lab: Callable[[str], Lab], mode: str) -> None:
    """A bare FIN is no end over TLS: an attacker on the way can forge one."""
    lab = make_lab(mode)

    def script(c: Connection) -> None:
        c.request()
        c.send(START + b"\r\nhello")
        gevent.sleep(0.01)
        c.fin()

    lab.script(script)
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert lab.upstream.open_count == 0


# -- what is refused ---------------------------------------------------------------------------------------------------

_LENGTH_2 = b"Content-Length: 2\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        _LENGTH_2 + b"Transfer-Encoding: chunked\r\n",
        _LENGTH_2 + _LENGTH_2,
        b"Content-Length: 2, 2\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 0x2\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 1000000000000000000\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"X: a\r\n b\r\n" + _LENGTH_2,
        b"X: a\nY: b\r\n" + _LENGTH_2,
        b"X: a\rb\r\n" + _LENGTH_2,
        b"X: a\0b\r\n" + _LENGTH_2,
        b"X: a\x07b\r\n" + _LENGTH_2,
        b"X : a\r\n" + _LENGTH_2,
        b"X(: a\r\n" + _LENGTH_2,
        b": a\r\n" + _LENGTH_2,
        b"nonsense\r\n" + _LENGTH_2,
    ],
)
def test_bad_fields_are_refused(lab: Lab, fields: bytes) -> None:
    """Ambiguous framing and malformed lines end the exchange and the connection."""
    lab.respond(START + fields + b"\r\nok")
    expect_refusal(lab)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.2 200 OK",
        b"RTSP/1.0 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\x07K",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade",
        b"HTTP/1.1200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"SSH-2.0-OpenSSH_9.2",
    ],
)
def test_bad_start_lines_are_refused(lab: Lab, line: bytes) -> None:
    """Only HTTP/1.0 and 1.1 with a status of 100 to 999 is a response."""
    lab.respond(line + b"\r\n" + _LENGTH_2 + b"\r\nok")
    expect_refusal(lab)


def test_switching_protocols_is_no_interim_response(lab: Lab) -> None:
    """After a 101 the connection would be another protocol's: what follows is not read as a response."""
    lab.respond(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK)
    expect_refusal(lab)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\nA: b\n\nhello", b"\x16\x03\x01", b"<html>"])
def test_garbage_is_refused_at_once(lab: Lab, garbage: bytes) -> None:
    """What can never become a head is not waited on."""

    def script(c: Connection) -> None:
        c.request()
        c.send(garbage)
        c.wait_for_end()

    lab.script(script)
    with gevent.Timeout(2):
        expect_refusal(lab)


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x2\r\nok\r\n0\r\n\r\n",
        b"2 \r\nok\r\n0\r\n\r\n",
        b"+2\r\nok\r\n0\r\n\r\n",
        b"2\nok\n0\n\n",
        b"2\r\nokk\r\n0\r\n\r\n",
        b"10000000000000002\r\nok\r\n0\r\n\r\n",
        b"\r\nok\r\n0\r\n\r\n",
        b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_bad_chunks_are_refused(lab: Lab, chunks: bytes) -> None:
    """A chunk size that others may read differently ends the exchange."""
    lab.respond(CHUNKED + chunks)
    with pytest.raises(errors.UpstreamBroken) as caught:
        lab.fetch()
    assert caught.value.phase == "body"
    assert lab.upstream.open_count == 0


def test_chunked_in_http_1_0_is_refused(lab: Lab) -> None:
    """HTTP/1.0 knows no transfer codings."""
    lab.respond(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    expect_refusal(lab)


def expect_refusal(lab: Lab) -> None:
    with pytest.raises(errors.UpstreamBroken) as caught:
        lab.fetch("POST", body=b"x")
    assert (caught.value.phase, caught.value.is_sent) == ("head", True)
    assert lab.upstream.open_count == 0
    wait_until(lab.connections[0].ended.is_set)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(START + b"A: " + b"x" * 200_000 + b"\r\n\r\n", id="a head of 200 KB"),
        pytest.param(START + b"A: b\r\n" * 2000 + b"\r\n", id="2,000 fields"),
        pytest.param(b"HTTP/1.1 103 Hint\r\n\r\n" * 1000 + OK, id="1,000 interim responses"),
    ],
)
def test_heads_are_bounded(lab: Lab, response: bytes) -> None:
    """A head without end, too many fields or too many interim responses are an error."""
    lab.respond(response)
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert lab.upstream.open_count == 0


def test_bounds_are_not_narrower_than_said(lab: Lab) -> None:
    """256 fields in 64 KB behind 16 interim responses are fine."""
    fields = b"".join(b"A%03d: %b\r\n" % (n, b"x" * 240) for n in range(255)) + _LENGTH_2
    lab.respond(b"HTTP/1.1 103 Hint\r\n\r\n" * 16 + START + fields + b"\r\nok")
    response = lab.send()
    assert len(response.fields) == 256
    assert b"".join(response.chunks()) == b"ok"


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        pytest.param(b"2;a=", b"x" * 1000, id="an extension"),
        pytest.param(b"0\r\nA: ", b"x" * 1000, id="a trailer's value"),
        pytest.param(b"0\r\n", b"A: b\r\n" * 200, id="trailers"),
    ],
)
def test_framing_without_end_is_an_error(lab: Lab, beginning: bytes, more: bytes) -> None:
    """After 64 KiB of framing without a byte of content it is over."""
    sent = 0

    def script(c: Connection) -> None:
        nonlocal sent
        c.request()
        c.send(CHUNKED + beginning)
        while True:
            c.send(more)
            sent += len(more)
            gevent.sleep(0)

    lab.script(script)
    with pytest.raises(errors.UpstreamBroken):
        lab.fetch()
    assert sent < 4_000_000
    assert lab.upstream.open_count == 0


def test_requests_own_reading_works_too(plain: Lab) -> None:
    """`content`, `headers` and `ok` of the library's Response are there, for programs that mount the adapter."""
    plain.respond(START + b"A: b\r\nContent-Length: 2\r\n\r\nok")
    response = plain.send()
    assert (response.ok, response.headers["a"], response.content) == (True, "b", b"ok")
