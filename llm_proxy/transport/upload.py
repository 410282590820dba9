"""Writing the request: a small one in one piece, a larger or streamed one while an eye is kept on the way back."""

from contextlib import suppress
from time import monotonic
from typing import Any

from gevent import get_hub
from gevent import socket as gsocket
from gevent.event import Event
from gevent.ssl import SSLSocket, SSLWantReadError, SSLWantWriteError

from llm_proxy.errors import ClientGone
from llm_proxy.runtime.short_turns import TURN_S, pause
from llm_proxy.transport.exchange import RECV_BYTES, Exchange, end_watcher
from llm_proxy.transport.request import UpstreamRequest

ONE_PIECE_BYTES = 65536
CONTINUE_WAIT_S = 1.0  # RFC 9110 §10.1.1: a client must not wait permanently
EARLY_BYTES = 65536
_PENDING = (BlockingIOError, SSLWantReadError, SSLWantWriteError)


def write(x: Exchange, data: bytes | memoryview) -> None:
    """Hand all of `data` to the kernel; `x.is_sent` turns True with the first byte that it may hold."""
    sock = x.sock
    if x.is_sent:
        sock.sendall(data)
        return
    sent = 0
    if not isinstance(sock, SSLSocket):
        while not sent:
            sent = sock.send(data)  # raises only where nothing was taken
    else:
        # On a wait a part of the first record may be out: sendall goes on with the same bytes, as OpenSSL asks.
        with suppress(SSLWantReadError, SSLWantWriteError):
            sent = sock._sslobj.write(data)
    x.is_sent = True
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def send_whole(x: Exchange, head: bytes, body: bytes) -> OSError | None:
    """Head and small body in one piece.

    Returns:
        The error after which a response may still be waiting in the receive buffer; None when all went well.
    """
    x.phase = "send"
    deadline = monotonic() + x.timeouts.idle_s
    x.deadline = deadline if deadline < x.end else x.end
    try:
        write(x, head + body if body else head)
    except OSError as exc:
        if x.cut_reason is not None or not x.is_sent:
            raise
        return exc
    return None


class Upload:
    """A body that takes time to send. Ends early for a response of 4xx or 5xx, an EOF, or a final response to Expect.

    Attributes:
        early: What arrived meanwhile; the response's first bytes.
        is_stopped: The request was not sent to its end, so the connection is of no further use.
    """

    def __init__(self, exchange: Exchange, request: UpstreamRequest) -> None:
        self._x = exchange
        self._request = request
        self._watcher: Any = None
        self._arrival: Event | None = None
        self._waits_for_continue = False
        self._turn_began_s = monotonic()
        self.early = b""
        self.is_stopped = False

    def run(self, head: bytes) -> OSError | None:
        """Send head and body as far as the upstream wants them.

        Returns:
            As `send_whole`.

        Raises:
            ClientGone: The client's body ended before its Content-Length.
            Exception: Whatever the body's reader raises.
        """
        x = self._x
        x.phase = "send"
        self._watch()
        try:
            self._send(head)
            if self._request.expects_continue and self._request.is_streamed:
                self._wait_for_continue()
            if not self.is_stopped:
                self._send_body()
        except OSError as exc:
            if exc is x.foreign or x.cut_reason is not None or not x.is_sent:
                raise
            self.is_stopped = True
            return exc
        finally:
            self._unwatch()
        return None

    # -- sending ----------------------------------------------------------------------------------------------------

    def _send(self, data: bytes | memoryview) -> None:
        x, now = self._x, monotonic()
        if now - self._turn_began_s > TURN_S:
            pause()
            self._turn_began_s = now = monotonic()
        x.deadline = min(now + x.timeouts.idle_s, x.end)
        write(x, data)

    def _send_body(self) -> None:
        request = self._request
        body = request.body
        if isinstance(body, bytes):
            view = memoryview(request.framed())
            for start in range(0, len(view), ONE_PIECE_BYTES):
                if self.is_stopped:
                    return
                self._send(view[start : start + ONE_PIECE_BYTES])
        elif request.is_chunked:
            while piece := self._read(ONE_PIECE_BYTES):
                self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if not self.is_stopped:
                self._send(b"0\r\n\r\n")
        else:
            self._send_counted(request.content_length)

    def _send_counted(self, left: int) -> None:
        while left > 0:
            piece = self._read(min(left, ONE_PIECE_BYTES))
            if not piece:
                if self.is_stopped:
                    return
                self._x.foreign = gone = ClientGone("the request body ended before its Content-Length")
                raise gone
            left -= len(piece)
            if left < 0:
                raise ValueError("the body's reader brought more than was asked for")
            self._send(piece)

    def _read(self, n: int) -> bytes:
        """Return the client's next piece; b"" at its end, and when there is no more need of it."""
        x = self._x
        if self.is_stopped:
            return b""
        x.check()
        before = monotonic()
        x.deadline = float("inf")  # the client's silence is the server's business
        piece: bytes | None = x.wait_interruptibly(self._request.body.read1, n)  # type: ignore[union-attr]
        x.end += monotonic() - before
        if piece is None:
            x.check()
            return b""
        return b"" if self.is_stopped else piece

    # -- the way back -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._watcher = get_hub().loop.io(self._x.sock.fileno(), 1)
        self._watcher.start(self._arrived)

    def _unwatch(self) -> None:
        watcher, self._watcher = self._watcher, None
        end_watcher(watcher)

    def _arrived(self) -> None:
        """In the hub: take what is there without waiting, and stop the sending if that is a response that ends it."""
        x = self._x
        sock = x.sock
        if x.cut_reason is not None or sock is None:
            self._unwatch()
            return
        try:
            native = sock._sslobj.read if isinstance(sock, SSLSocket) else sock._sock.recv
            data = native(RECV_BYTES)
        except _PENDING:
            return  # over TLS a readable descriptor may be a session ticket
        except OSError:
            data = b""  # the reading of the head meets the same error
        self.early += data
        if not data or self._is_final():
            self._stop()
        elif len(self.early) >= EARLY_BYTES:
            self._unwatch()
        if self._arrival is not None:
            self._arrival.set()

    def _is_final(self) -> bool:
        """Return whether a response makes the rest of the body pointless, be it behind interim ones."""
        early, start = self.early, 0
        while early.startswith(b"HTTP/1.", start):
            status = early[start + 9 : start + 10]
            if status != b"1":
                return status in (b"4", b"5") or (self._waits_for_continue and status != b"")
            end = early.find(b"\r\n\r\n", start)
            if end < 0:
                return False
            start = end + 4
        return False

    def _stop(self) -> None:
        self._unwatch()
        self.is_stopped = True
        x = self._x
        with suppress(OSError):  # ENOTCONN after a reset: the writer is awake by then
            # Wakes a writer. Not the TLS object's own method: that forgets the TLS state, and the response with it.
            gsocket.socket.shutdown(x.sock, gsocket.SHUT_WR)
        x.wake()

    def _wait_for_continue(self) -> None:
        """At most a second for 100 (or any interim response), silence, or the final response."""
        x = self._x
        x.deadline = x.end
        self._waits_for_continue = True
        arrival = self._arrival = Event()
        until = monotonic() + CONTINUE_WAIT_S
        while not self.is_stopped and len(self.early) < 10 and (left := until - monotonic()) > 0:
            x.check()
            x.wait_interruptibly(arrival.wait, left)
            arrival.clear()
        self._waits_for_continue = False
        self._arrival = None
        x.check()
