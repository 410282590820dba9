"""Towards the upstream: what was asked for, byte for byte, and nothing that is not one request."""

import time
from typing import Any

import gevent
import pytest
from gevent.event import Event
from integration.transport.scripted import OK, Connection, responding
from integration.transport.transport_lab import PATIENT, Lab, wait_until

from llm_proxy import errors

BIG = bytes(range(256)) * 1024  # 256 KiB: no small body any more


class Reader:
    """A client's body: pieces one by one, as they arrive."""

    def __init__(self, *pieces: bytes, pause_s: float = 0.0, error: BaseException | None = None) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.pause_s = pause_s
        self.error = error
        self.reads = 0

    def read1(self, n: int) -> bytes:
        self.reads += 1
        gevent.sleep(self.pause_s)
        if not self.pieces:
            if self.error is not None:
                raise self.error
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > n:
            self.pieces.insert(0, piece[n:])
        return piece[:n]


class Endless:
    """A body of `size` bytes that is never in memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read1(self, n: int) -> bytes:
        n = min(n, self.left)
        self.left -= n
        return bytes(n)


def length(n: int) -> list[tuple[bytes, bytes]]:
    return [(b"Content-Length", b"%d" % n)]


CHUNKED = [(b"Transfer-Encoding", b"chunked")]


def test_request_is_written_byte_for_byte(lab: Lab) -> None:
    """Target, order, case and repetition of fields arrive as given, and no field is added."""
    lab.respond(OK)
    fields = [(b"X-A", b"1"), (b"x-a", b"2"), (b"X-A", b"\xe4 \t3"), (b"Empty", b"")]
    lab.fetch("GET", b'//a%2f?q="{}&b=%zz', fields)
    assert lab.connections[0].received == (
        b'GET //a%2f?q="{}&b=%zz HTTP/1.1\r\n'
        b"Host: upstream.test\r\nX-A: 1\r\nx-a: 2\r\nX-A: \xe4 \t3\r\nEmpty: \r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "target", "fields", "body"),
    [
        pytest.param("GET", b"/", [(b"X", b"a\r\nB: c")], None, id="CRLF in a value"),
        pytest.param("GET", b"/", [(b"X", b"a\nb")], None, id="LF in a value"),
        pytest.param("GET", b"/", [(b"X", b"a\rb")], None, id="CR in a value"),
        pytest.param("GET", b"/", [(b"X", b"a\0b")], None, id="NUL in a value"),
        pytest.param("GET", b"/", [(b"X\r\nY", b"a")], None, id="CRLF in a name"),
        pytest.param("GET", b"/", [(b"X ", b"a")], None, id="blank in a name"),
        pytest.param("GET", b"/", [(b"", b"a")], None, id="empty name"),
        pytest.param("GET", b"/a b", [], None, id="blank in the target"),
        pytest.param("GET", b"/a\r\nX: y", [], None, id="CRLF in the target"),
        pytest.param("GET", b"/\xe4", [], None, id="obs-text in the target"),
        pytest.param("GET", b"", [], None, id="empty target"),
        pytest.param("GE T", b"/", [], None, id="blank in the method"),
        pytest.param("POST", b"/", [*CHUNKED, (b"content-length", b"2")], Reader(b"ab"), id="both framings"),
        pytest.param("POST", b"/", [(b"Content-Length", b"2")], b"ab", id="two Content-Lengths"),
        pytest.param("POST", b"/", [*CHUNKED, *CHUNKED], Reader(b"ab"), id="two codings"),
        pytest.param("POST", b"/", [(b"Transfer-Encoding", b"gzip")], Reader(b"ab"), id="another coding"),
        pytest.param("POST", b"/", length(3), None, id="no body at all for a length"),
        pytest.param("POST", b"/", [(b"Content-Length", b"+2")], Reader(b"ab"), id="a length that is no number"),
        pytest.param("POST", b"/", [(b"Content-Length", b"9" * 19)], Reader(b"ab"), id="a length of 19 digits"),
        pytest.param("POST", b"/", [], Reader(b"ab"), id="a body without framing"),
    ],
)
def test_what_is_no_single_request_is_refused(plain: Lab, method: str, target: bytes, fields: Any, body: Any) -> None:
    """Nothing of it is sent, not even a connection made."""
    plain.respond(OK)
    with pytest.raises(errors.UpstreamRequestInvalid) as caught:
        plain.send(method, target, fields, body)
    assert not plain.connections
    assert caught.value.is_sent is False


def test_wrong_length_of_bytes_is_refused(plain: Lab) -> None:
    """A body of bytes that is not as long as its Content-Length goes nowhere."""
    plain.respond(OK)
    request = plain.forward("POST", body=b"abc")
    request.body = b"abcd"
    with pytest.raises(errors.UpstreamRequestInvalid):
        plain.upstream.send(request, timeouts=PATIENT)
    assert not plain.connections


@pytest.mark.parametrize("body", [b"", b"{}", BIG], ids=["empty", "small", "large"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bytes_keep_their_framing(lab: Lab, framing: str, body: bytes) -> None:
    """A body in memory arrives whole, by Content-Length or chunked as it came."""
    contents: list[tuple[bytes, bytes]] = []

    def script(c: Connection) -> None:
        while True:
            contents.append(c.request())
            c.send(OK)

    lab.script(script)
    assert lab.fetch("POST", fields=CHUNKED if framing == "chunked" else (), body=body) == (200, b"ok")
    head, content = contents[0]
    assert content == body
    assert (b"Transfer-Encoding: chunked" in head) == (framing == "chunked")
    assert (b"Content-Length" in head) == (framing == "length")
    assert lab.upstream.idle_count == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_streamed_body_keeps_its_framing(lab: Lab, framing: str) -> None:
    """A body that streams arrives whole, on a fresh connection that is pooled afterwards."""
    contents: list[bytes] = []

    def script(c: Connection) -> None:
        while True:
            contents.append(c.request()[1])
            c.send(OK)

    lab.script(script)
    lab.fetch()
    pieces = [b"a", b"bc" * 5000, BIG]
    fields = CHUNKED if framing == "chunked" else length(sum(map(len, pieces)))
    assert lab.fetch("POST", fields=fields, body=Reader(*pieces, pause_s=0.001)) == (200, b"ok")
    assert contents[1] == b"".join(pieces)
    assert len(lab.connections) == 2
    assert lab.upstream.idle_count == 2


def test_pieces_go_out_as_they_come(lab: Lab) -> None:
    """A piece of a streamed body is not held back until the next one."""
    seen: list[bytes] = []

    def script(c: Connection) -> None:
        c.head()
        seen.append(c.read(3))
        first.set()
        seen.append(c.read(3))
        c.send(OK)

    first = Event()

    class Waiting(Reader):
        def read1(self, n: int) -> bytes:
            if len(self.pieces) == 1:
                assert first.wait(2)
            return super().read1(n)

    lab.script(script)
    assert lab.fetch("POST", fields=length(6), body=Waiting(b"abc", b"def"))[0] == 200
    assert seen == [b"abc", b"def"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_upload_needs_little_memory(plain: Lab, framing: str) -> None:
    """200 MB by either framing raise the resident set by less than 20 MB."""
    size = 200_000_000

    def script(c: Connection) -> None:
        _, total, last = c.head(), 0, b""
        while total < size or (framing == "chunked" and last != b"0\r\n\r\n"):
            data = c.read_some()
            total += len(data)
            last = (last + data)[-5:]
        c.send(OK)

    plain.script(script)
    before = resident_kib()
    fields = CHUNKED if framing == "chunked" else length(size)
    response = plain.send("POST", fields=fields, body=Endless(size))
    assert response.status == 200
    assert resident_kib() - before < 20_000


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_short_client_body_is_never_completed(lab: Lab) -> None:
    """A body that ends before its Content-Length: the upstream sees the connection end, the caller ClientGone."""
    lab.respond(OK)
    with pytest.raises(errors.ClientGone):
        lab.send("POST", fields=length(10), body=Reader(b"abc"))
    wait_until(lab.connections[0].ended.is_set)
    assert lab.connections[0].received.endswith(b"abc")
    assert lab.upstream.open_count == 0


def test_long_client_body_is_cut_to_its_length(lab: Lab) -> None:
    """No byte beyond the Content-Length is asked for or sent."""
    lab.respond(OK)
    reader = Reader(b"abcdef")
    assert lab.fetch("POST", fields=length(3), body=reader) == (200, b"ok")
    assert lab.connections[0].received.endswith(b"\r\n\r\nabc")
    assert reader.pieces == [b"def"]


@pytest.mark.parametrize(
    "error", [errors.ClientGone("gone"), errors.RequestTimeout(), OSError("disk"), ValueError("tap")], ids=repr
)
def test_error_of_the_body_comes_through(lab: Lab, error: Exception) -> None:
    """What the body's reader raises is raised, whatever it is, and the upstream's connection is closed."""
    lab.respond(OK)
    with pytest.raises(type(error)) as caught:
        lab.send("POST", fields=CHUNKED, body=Reader(b"abc", error=error))
    assert caught.value is error
    wait_until(lab.connections[0].ended.is_set)
    assert b"0\r\n\r\n" not in lab.connections[0].received
    assert lab.upstream.open_count == 0


# -- responses that come before the upload's end -----------------------------------------------------------------------

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"


def hold(c: Connection) -> None:
    gevent.sleep(3)


@pytest.mark.times
@pytest.mark.parametrize("client", ["fast", "slow", "silent"])
@pytest.mark.parametrize("ending", [hold, Connection.close, Connection.reset], ids=["holds", "closes", "resets"])
def test_early_refusal_reaches_the_caller(lab: Lab, ending: Any, client: str) -> None:
    """413 after 100 KB of an upload of 50 MB is delivered within a second, and the connection is not kept."""

    def script(c: Connection) -> None:
        c.head()
        c.read(100_000 if client == "fast" else 10)
        gevent.sleep(0.1 if client == "silent" else 0)  # by then we wait for the client, and nothing else
        c.send(TOO_LARGE)
        gevent.sleep(0.05)
        ending(c)

    class Slow(Reader):
        def read1(self, n: int) -> bytes:
            piece = super().read1(n)
            if client == "silent" and self.reads > 2:
                gevent.sleep(30)
            return piece

    lab.script(script)
    body: Any = Endless(50_000_000) if client == "fast" else Slow(*[b"x" * 100] * 500_000, pause_s=0.005)
    started = time.monotonic()
    assert lab.fetch("POST", fields=length(50_000_000), body=body) == (413, b"big")
    assert time.monotonic() - started < 1
    assert lab.upstream.idle_count == 0


def test_early_refusal_behind_an_interim_response(lab: Lab) -> None:
    """A 413 is noticed behind a 100 and a 103, too."""

    def script(c: Connection) -> None:
        c.head()
        c.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hint\r\nA", b": b\r\n\r\n" + TOO_LARGE)
        c.wait_for_end()

    lab.script(script)
    body = Reader(*[b"x"] * 5000, pause_s=0.005)
    assert lab.fetch("POST", fields=length(5000), body=body) == (413, b"big")
    assert body.reads < 200
    assert lab.upstream.idle_count == 0


def test_early_success_lets_the_upload_go_on(lab: Lab) -> None:
    """A 200 that comes early is delivered after the whole body has been sent."""
    content: list[bytes] = []

    def script(c: Connection) -> None:
        c.head()
        c.send(OK)
        content.append(c.read(30))
        c.wait_for_end()

    lab.script(script)
    assert lab.fetch("POST", fields=length(30), body=Reader(*[b"x" * 10] * 3, pause_s=0.02)) == (200, b"ok")
    wait_until(lambda: content)
    assert content == [b"x" * 30]
    assert lab.upstream.idle_count == 1


def test_end_during_the_upload_is_an_error(lab: Lab) -> None:
    """An upstream that goes away in the middle of an upload is UpstreamBroken, and soon."""

    def script(c: Connection) -> None:
        c.head()
        c.read(10)

    lab.script(script)
    with pytest.raises(errors.UpstreamBroken) as caught:
        lab.send("POST", fields=length(50_000_000), body=Endless(50_000_000))
    assert caught.value.is_sent


# -- Expect: 100-continue ----------------------------------------------------------------------------------------------

EXPECT = (b"Expect", b"100-continue")


@pytest.mark.times
@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b""], ids=["after 100", "after silence"])
def test_expecting_request_sends_its_body_after(lab: Lab, interim: bytes) -> None:
    """The body follows a 100, or a second of silence; the field itself is forwarded."""

    def script(c: Connection) -> None:
        assert b"Expect: 100-continue" in c.head()
        with gevent.Timeout(0.3, False):
            c.read(1)
            raise AssertionError("the body did not wait")
        c.send(interim)
        assert c.read(3) == b"abc"
        c.send(OK)

    lab.script(script)
    started = time.monotonic()
    assert lab.fetch("POST", fields=[*length(3), EXPECT], body=Reader(b"abc")) == (200, b"ok")
    assert (time.monotonic() - started < 0.9) == bool(interim)


@pytest.mark.parametrize("status", [b"401 No", b"200 OK", b"307 Elsewhere"])
def test_refused_expectation_leaves_the_body_unread(lab: Lab, status: bytes) -> None:
    """A final response is handed on at once; the client's body is never read, the connection not kept."""

    def script(c: Connection) -> None:
        c.head()
        c.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno")
        c.wait_for_end()

    lab.script(script)
    body = Reader(b"abc")
    assert lab.fetch("POST", fields=[*length(3), EXPECT], body=body) == (int(status[:3]), b"no")
    assert body.reads == 0
    assert lab.upstream.open_count == 0


@pytest.mark.times
def test_expecting_request_with_bytes_does_not_wait(plain: Lab) -> None:
    """A body that is in memory goes out with the head."""
    plain.script(responding(b"HTTP/1.1 100 Continue\r\n\r\n" + OK))
    started = time.monotonic()
    assert plain.fetch("POST", fields=[EXPECT], body=b"abc") == (200, b"ok")
    assert time.monotonic() - started < 0.9
