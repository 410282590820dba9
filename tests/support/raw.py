"""A client that sends exactly the bytes it is given, and tells how a response ended."""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

Address = tuple[str, int] | str

LIMIT_S = 15.0  # for any single wait: a hang fails the test


class Closed(Exception):
    """The server closed before a head was whole; `how` is `eof` or `reset`, `data` what had come."""

    def __init__(self, how: str, data: bytes) -> None:
        super().__init__(f"{how} after {data!r}")
        self.how, self.data = how, data


@dataclass(frozen=True)
class Response:
    """One response as it arrived.

    `end`: `whole`; `eof`: closed before the body's end; `reset`. A body without framing ends `whole` with the close.
    """

    status: int
    reason: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes
    end: str
    chunks: list[bytes] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The only value of a field; None without one."""
        found = self.values(name)
        assert len(found) <= 1, (name, found)
        return found[0] if found else None


class Client:
    """One connection; a context manager. `address` is a host and port, or the path of a Unix socket."""

    def __init__(
        self, address: Address, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> None:
        family = (
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT_S)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.sock.connect(address)
        except OSError:
            self.sock.close()
            raise
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost", suppress_ragged_eofs=False)
        self.held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        """Send all of it; returns itself for chaining."""
        self.sock.sendall(data)
        return self

    def get(self, target: str = "/", *fields: str, method: str = "GET", body: bytes | None = None) -> Response:
        """Send one simple request and read its response."""
        self.send(request(target, *fields, method=method, body=body))
        return self.response(method)

    def more(self) -> bytes:
        """What comes next; b"" at the end. Raises ConnectionResetError, TimeoutError.

        Over TLS the end is the server's close_notify; anything else is a reset.
        """
        try:
            return self.sock.recv(65536)
        except ssl.SSLEOFError as exc:
            raise ConnectionResetError from exc

    def until(self, mark: bytes) -> bytes:
        """All that came up to and including `mark`."""
        while mark not in self.held:
            self._hold_more()
        found, mark, self.held = self.held.partition(mark)
        return found + mark

    def rest(self) -> tuple[bytes, str]:
        """All bytes until the server closes, and how: `eof` or `reset`."""
        data, self.held = self.held, b""
        try:
            while piece := self.more():
                data += piece
        except ConnectionResetError:
            return data, "reset"
        return data, "eof"

    def response(self, method: str = "GET") -> Response:
        """Read one response, interim ones skipped. Raises Closed before its head is whole."""
        while True:
            head = self.until(b"\r\n\r\n").decode("latin-1")
            line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            version, status, reason = (line + "  ").split(" ", 2)
            if not status.startswith("1"):
                break
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        named = {name.lower(): value for name, value in fields}
        chunks: list[bytes] = []
        body, end = b"", "whole"
        try:
            if method == "HEAD" or status in ("204", "304"):
                pass
            elif named.get("transfer-encoding") == "chunked":
                while size := int(self.until(b"\r\n"), 16):
                    chunks.append(self._exactly(size))
                    self._exactly(2)
                self.until(b"\r\n")
            elif "content-length" in named:
                body = self._exactly(int(named["content-length"]))
            else:
                body, how = self.rest()
                end = "whole" if how == "eof" else how
        except Closed as closed:
            end, body = closed.how, closed.data
        return Response(int(status), reason.strip(), version, fields, b"".join(chunks) or body, end, chunks)

    def _exactly(self, size: int) -> bytes:
        while len(self.held) < size:
            self._hold_more()
        found, self.held = self.held[:size], self.held[size:]
        return found

    def _hold_more(self) -> None:
        try:
            data = self.more()
        except ConnectionResetError:
            raise Closed("reset", self.held) from None
        if not data:
            raise Closed("eof", self.held)
        self.held += data

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent; go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def closed_within(self, limit_s: float) -> float:
        """Seconds until the server closes. Fails past the limit."""
        begin = time.monotonic()
        self.sock.settimeout(limit_s)
        try:
            while self.more():
                pass
        except ConnectionResetError:
            pass
        return time.monotonic() - begin


def request(target: str = "/", *fields: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """A simple request: Host is added, and Content-Length where there is a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def exchange(address: Address, data: bytes, method: str = "GET") -> Response:
    """Send `data` on its own connection and read one response."""
    with Client(address) as client:
        return client.send(data).response(method)


def wait_for(condition: Callable[[], Any], limit_s: float = 10.0, what: str = "") -> Any:
    """The first true value of `condition`; fails past the limit."""
    until = time.monotonic() + limit_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, what or "the condition did not come true"
        time.sleep(0.01)
