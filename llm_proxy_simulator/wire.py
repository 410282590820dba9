"""HTTP/1.1 over one connection, with nothing hidden: the raw target, the field lines in order, the body's pieces."""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.socket import wait_read

_HEAD_LIMIT_BYTES = 256 * 1024
_READ_BYTES = 65536
_WATCHED_PAUSE_S = 0.1  # shorter ones are not worth a watcher: the next write tells
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class BrokenRequest(Exception):
    """What came is no request; the connection can only be closed."""


class BrokenBody(Exception):
    """The body ended before its framing said so."""


@dataclass(slots=True)
class Request:
    """One request as it came: `fields` in order, names in the case they had, repetitions kept."""

    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    number: int = 0
    connection: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def value(self, name: str) -> str | None:
        """Return the first field of that name, in any case."""
        name = name.lower()
        return next((value for key, value in self.fields if key.lower() == name), None)

    @property
    def is_chunked(self) -> bool:
        """Whether the body is framed by chunks."""
        return (self.value("transfer-encoding") or "").lower().endswith("chunked")

    @property
    def wants_close(self) -> bool:
        """Whether the connection ends with this exchange."""
        options = [option.strip().lower() for option in (self.value("connection") or "").split(",")]
        return "close" in options or (self.version == "HTTP/1.0" and "keep-alive" not in options)


class Wire:
    """A connected socket with a read buffer."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> Request | None:
        """Return the next request's head; None when the peer is done. Raises BrokenRequest."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT_BYTES:
                raise BrokenRequest("head too large")
            if not self._fill():
                if self._buffer.strip():
                    raise BrokenRequest("connection ended inside a head")
                return None
        head = bytes(self._buffer[:end]).decode("latin-1").lstrip("\r\n")
        del self._buffer[: end + 4]
        first, *lines = head.split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise BrokenRequest("request line")
        fields = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise BrokenRequest("field line")
            fields.append((name, value.strip(" \t")))
        return Request(parts[0], parts[1], parts[2], fields)

    def body(self, request: Request) -> Iterator[bytes]:
        """Yield the body's pieces as they arrive. Raises BrokenBody when the peer ends too early."""
        if request.is_chunked:
            yield from self._chunks()
            return
        yield from self._pieces(int(request.value("content-length") or 0))

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left > 0:
            if not self._buffer and not self._fill():
                raise BrokenBody
            piece = self._take(left)
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                left = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise BrokenBody from None
            if left == 0:
                while self._line():  # trailers
                    pass
                return
            yield from self._pieces(left)
            if self._line():
                raise BrokenBody

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT_BYTES or not self._fill():
                raise BrokenBody
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, most: int) -> bytes:
        piece = bytes(self._buffer[:most])
        del self._buffer[:most]
        return piece

    def _fill(self) -> bool:
        data = self._sock.recv(_READ_BYTES)
        self._buffer += data
        return bool(data)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes. Raises ConnectionResetError when the peer ends before."""
        while len(self._buffer) < size:
            if not self._fill():
                raise ConnectionResetError
        return self._take(size)

    def send(self, data: bytes) -> None:
        """Hand everything to the kernel. Raises OSError when the peer is gone."""
        self._sock.sendall(data)

    def pause(self, seconds: float) -> None:
        """Sleep, but notice a peer that goes away meanwhile. Raises ConnectionResetError then."""
        if seconds < _WATCHED_PAUSE_S or self._buffer or hasattr(self._sock, "getpeercert"):
            gevent.sleep(seconds)
            return
        began = time.monotonic()
        try:
            wait_read(self._sock.fileno(), timeout=seconds)
        except TimeoutError:
            return
        if not self._sock.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError
        gevent.sleep(max(0.0, seconds - (time.monotonic() - began)))

    def wait_for_end(self) -> None:
        """Return when the peer closes; what it still sends is thrown away."""
        while self._fill():
            self._buffer.clear()

    def close_notify(self) -> None:
        """Over TLS, say that nothing was cut off (RFC 8446 §6.1); the peer's own alert is not waited for."""
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # want-read is the normal end
                self._sock._sslobj.shutdown()  # type: ignore[attr-defined]  # unwrap would wait

    def close(self, *, reset: bool = False) -> None:
        """End the connection: FIN, or RST when `reset`."""
        try:
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster
        self._sock.close()
