"""Cases of WebSocket conformance after the families of Autobahn's test suite, as bytes of a client, and an echo server.

Each case is what a client sends after the handshake. What it gets back is the server's business: it is recorded.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

_MASK: Final = b"\x37\xfa\x21\x3d"  # of the examples in RFC 6455 §5.7
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
KOSME: Final = "κόσμε"


def sent(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, mask: bytes = _MASK) -> bytes:
    """Return a client's frame, right or wrong."""
    size = len(payload)
    first, bit = (0x80 if fin else 0) | reserved << 4 | opcode, 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack(">BBH", first, bit | 126, size)
    else:
        head = struct.pack(">BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    repeated = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + masked.to_bytes(size, "big")


def closing(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """Return a client's close frame."""
    return sent(_CLOSE, b"" if code is None else struct.pack(">H", code) + reason)


def fragments(payload: bytes, size: int, opcode: int = _TEXT, between: bytes = b"") -> bytes:
    """Return a message in fragments of `size` bytes, with other frames between them."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    last = len(parts) - 1
    return between.join(sent(opcode if not n else 0, part, fin=n == last) for n, part in enumerate(parts))


def _sizes() -> Iterator[tuple[str, bytes]]:
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536):
        yield f"text of {size}", sent(_TEXT, b"*" * size)
        yield f"binary of {size}", sent(_BINARY, b"\xfe" * size)
    for size in (262_144, 1_048_576):
        yield f"text of {size}", sent(_TEXT, b"*" * size)
        yield f"text of {size} in fragments", fragments(b"*" * size, 4096)
        yield f"binary of {size} in fragments", fragments(b"\0" * size, 65536, _BINARY)
    yield "text of 65536 in frames of 1300", fragments(b"*" * 65536, 1300)
    yield "length of 16 bits for 5", b"\x81\xfe\x00\x05" + sent(_TEXT, b"hello")[2:]


def _control() -> Iterator[tuple[str, bytes]]:
    for size in (0, 5, 125, 126):
        yield f"ping of {size}", sent(_PING, b"\x00\xff\xfe\xfd\xfc"[:1] * size)
        yield f"pong of {size}", sent(_PONG, b"p" * size) + sent(_TEXT, b"after")
    yield "ten pings", b"".join(sent(_PING, b"%d" % n) for n in range(10))
    yield "pong, then ping", sent(_PONG, b"unasked") + sent(_PING, b"asked")


def _bits() -> Iterator[tuple[str, bytes]]:
    good = sent(_TEXT, b"good")
    for reserved in range(1, 8):
        yield f"text with reserved bits {reserved}", good + sent(_TEXT, b"bad", reserved=reserved) + sent(_PING)
    yield "ping with a reserved bit", sent(_PING, b"bad", reserved=5)
    yield "close with a reserved bit", sent(_CLOSE, reserved=2)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"opcode {opcode}", good + sent(opcode, b"bad" if opcode % 2 else b"") + sent(_PING)
    yield "no mask", good + sent(_TEXT, b"bare", mask=b"")


def _fragmented() -> Iterator[tuple[str, bytes]]:
    yield "fragmented ping", sent(_PING, b"a", fin=False) + sent(0, b"b")
    yield "fragmented pong", sent(_PONG, b"a", fin=False) + sent(0, b"b")
    yield "two fragments", fragments(b"fragment1fragment2", 9)
    yield "a ping between", fragments(b"fragment1fragment2", 9, between=sent(_PING, b"between"))
    yield "two pings between", fragments(b"one--two--", 5, between=sent(_PING, b"1") + sent(_PING, b"2"))
    yield "a pong between", fragments(b"one--two--", 5, _BINARY, between=sent(_PONG, b"1"))
    yield "five fragments with pings", fragments(b"abcdefghij", 2, between=sent(_PING, b"p"))
    yield "empty fragments", sent(_TEXT, fin=False) + sent(0, fin=False) + sent(0)
    yield "empty first and last", sent(_TEXT, fin=False) + sent(0, b"middle", fin=False) + sent(0)
    yield "continuation of nothing", sent(0, b"nothing", fin=False) + sent(_TEXT, b"good")
    yield "last continuation of nothing", sent(0, b"nothing") + sent(_TEXT, b"good")
    yield "continuation after a message", sent(_TEXT, b"good") + sent(0, b"nothing")
    yield "message in a message", sent(_TEXT, b"a", fin=False) + sent(_TEXT, b"b")
    yield "binary in a text", sent(_TEXT, b"a", fin=False) + sent(_BINARY, b"b", fin=False) + sent(0, b"c")
    yield "two messages", fragments(b"first", 2) + fragments(b"second", 4, _BINARY)
    yield "never ended", sent(_TEXT, b"a", fin=False) + sent(0, b"b", fin=False) + sent(_PING, b"p")


_VALID = {
    "kosme": KOSME.encode(),
    "four bytes": "\U0001f600\U0010ffff".encode(),
    "noncharacters": "\ufffe\uffff\ufdd0".encode(),
    "boundaries": "\x00\x7f\x80\u07ff\u0800\uffff\U00010000".encode(),
}
_INVALID = {
    "surrogate": KOSME.encode() + b"\xed\xa0\x80edited",
    "overlong slash": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "beyond unicode": KOSME.encode() + b"\xf4\x90\x80\x80edited",
    "lone continuation": b"\x80",
    "truncated": "\U0001f600".encode()[:3],
    "fe": b"\xfe",
    "five bytes": b"\xf8\x88\x80\x80\x80",
}


def _utf8() -> Iterator[tuple[str, bytes]]:
    for name, text in (*_VALID.items(), *_INVALID.items()):
        yield f"utf-8, {name}", sent(_TEXT, text)
        yield f"utf-8, {name}, byte by byte", fragments(text, 1)
        yield f"utf-8, {name}, with pings", fragments(text, 2, between=sent(_PING, b"p"))
    yield "binary needs no utf-8", sent(_BINARY, b"\xed\xa0\x80")


def _closes() -> Iterator[tuple[str, bytes]]:
    yield "close without a code", closing(None)
    yield "close of one byte", sent(_CLOSE, b"\x03")
    yield "close with a reason", closing(1000, b"Hello World!")
    yield "close with 123 bytes", closing(1000, b"*" * 123)
    yield "close with 124 bytes", closing(1000, b"*" * 124)
    yield "close with a broken reason", closing(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80")
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield f"close {code}", closing(code)
    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"close {code}, which is none", closing(code, b"why")
    yield "text, then close", sent(_TEXT, b"hello") + closing()
    yield "two closes", closing() + closing()
    yield "ping after close", closing() + sent(_PING)
    yield "text after close", closing() + sent(_TEXT, b"late")
    yield "close in a message", sent(_TEXT, b"frag", fin=False) + closing() + sent(0, b"ment")


CASES: Final = {
    name: data
    for family in (_sizes, _control, _bits, _fragmented, _utf8, _closes)
    for name, data in family()
}  # fmt: skip


# -- the server -------------------------------------------------------------------------------------------------------


def _byte_by_byte(data: bytes) -> Iterator[bytes]:
    """Yield the last bytes one by one, so that a message is answered before the close that came with it is read."""
    most = len(data) if len(data) <= 4096 else 64
    if len(data) > most:
        yield data[:-most]
    for byte in data[-most:]:
        yield bytes((byte,))


class _Session:
    """One connection of the echo server: messages come back as they came."""

    def __init__(self, sock: socket.socket, received: list[bytes]) -> None:
        self._sock, self._received = sock, received
        self._protocol = ServerProtocol(max_size=None)
        self._kind, self._parts = Opcode.TEXT, list[bytes]()
        self._is_open = False

    def run(self) -> None:
        while True:
            data = self._sock.recv(65536)
            if self._is_open:
                self._received.append(data)
            for piece in _byte_by_byte(data):
                self._protocol.receive_data(piece)
                self._response()
            if not data:
                self._protocol.receive_eof()
                self._response()
                return

    def _response(self) -> None:
        for event in self._protocol.events_received():
            self._take(event)
        self._send()

    def _take(self, event: object) -> None:
        if isinstance(event, Request):
            self._protocol.send_response(self._protocol.accept(event))
            self._is_open = True
        elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._kind = self._kind if event.opcode is Opcode.CONT else event.opcode
            self._parts.append(bytes(event.data))
            if event.fin and self._protocol.state is OPEN:
                self._echo()

    def _echo(self) -> None:
        message, self._parts = b"".join(self._parts), []
        if self._kind is Opcode.BINARY:
            self._protocol.send_binary(message)
            return
        try:
            message.decode()
        except UnicodeDecodeError:
            self._protocol.fail(1007, "invalid UTF-8")
        else:
            self._protocol.send_text(message)

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._sock.sendall(data)
            else:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)


class Echo:
    """A server of the `websockets` library's protocol; `received` holds the bytes after each handshake, in order."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.received: list[list[bytes]] = []

    def serve(self) -> None:
        """Accept until it is closed; a connection at a time is enough."""
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        received: list[bytes] = []
        self.received.append(received)
        sock.settimeout(10)
        with sock, suppress(OSError):
            _Session(sock, received).run()

    def close(self) -> None:
        """Stop to accept."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def running_echo() -> Iterator[Echo]:
    """Serve until the block ends."""
    echo = Echo()
    thread = threading.Thread(target=echo.serve, daemon=True)
    thread.start()
    try:
        yield echo
    finally:
        echo.close()
        thread.join(5)
