"""Bytes from the client, with the two time limits that gunicorn lacks."""

import io
import re
from time import monotonic

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.http.unreader import SocketUnreader

from llm_proxy.errors import ClientGone, RequestTimeout

MAX_HEAD_BYTES = 65536
_FREE_BYTES = 4096  # of a head that are handed on as they come
_END = b"\r\n\r\n"
_EMPTY_LINES = re.compile(rb"(?:\r\n)*")


class Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads for gunicorn's parser.

    `deadline` (monotonic) bounds the whole header section; while it is set, an early end is the parser's business. Once
    it is None the body is being read: `silence_s` bounds each wait, and an early end is `ClientGone`. gunicorn alone
    would hand a body that ends early to the application as if it were whole.
    """

    buf: io.BytesIO
    max_body_chunk = 65536  # 1 MiB at once, gunicorn's default, costs eight times the CPU when read in such steps

    def __init__(self, sock: object, line_limit: int) -> None:
        super().__init__(sock)
        self._line_limit = line_limit
        self._open_line_bytes = 0  # of a request line that has not ended so far
        self._head_bytes, self._head_tail = 0, b""  # of the header section that is being read
        self.deadline: float | None = None
        self.silence_s: float | None = None
        self.write_silence_s: float | None = None  # the socket's time limit between reads: writing has its own one

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been read ahead."""
        return not self.buf.getbuffer().nbytes

    def take(self) -> bytes:
        """Return what has been read ahead, and hold it no more."""
        held = self.buf.getvalue()
        self.buf = io.BytesIO()
        return held

    def replace(self, rest: bytes) -> None:
        """Have only `rest` left of what has been read ahead."""
        self.buf = io.BytesIO(rest)

    def append(self, data: bytes) -> None:
        """Put bytes behind what has been read ahead."""
        self.buf.seek(0, io.SEEK_END)
        self.buf.write(data)

    def skip_empty_lines(self) -> bool:
        """Drop empty lines in front of a request (RFC 9112 §2.2). True: a request's first byte has been read."""
        held = self.buf.getvalue()
        if not held.startswith(b"\r"):
            return bool(held)
        start = _EMPTY_LINES.match(held).end()  # type: ignore[union-attr]  # matches nothing, too
        self.buf = io.BytesIO()
        self.buf.write(held[start:])
        return held[start:] not in (b"", b"\r")

    def begin_head(self, deadline: float) -> None:
        """Begin a header section whose first bytes have been read ahead; it must end by `deadline`."""
        self.deadline = deadline
        first = self.buf.getbuffer()
        self._open_line_bytes = 0 if b"\n" in bytes(first) else first.nbytes
        self._head_bytes, self._head_tail = first.nbytes, bytes(first[-3:])

    def _note_line(self, data: bytes) -> None:
        """Note a request line: the C parser looks at its length when it has ended, and would wait for that."""
        if b"\n" in data:
            self._open_line_bytes = 0
        else:
            self._open_line_bytes += len(data)
            if self._open_line_bytes > self._line_limit + len("\r\n\r\n"):
                raise LimitRequestLine(self._open_line_bytes, self._line_limit)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes. Raises RequestTimeout, LimitRequestHeaders, and ClientGone inside a body."""
        data = self._received(size_hint)
        return data if self.deadline is None or not data else self._head_piece(data)

    def _head_piece(self, data: bytes) -> bytes:
        """Gather small pieces of a long head: a parser looks at all of it again with each piece that it gets."""
        piece, ends = bytearray(data), _END in self._head_tail + data
        while not ends and self._head_bytes + len(piece) > _FREE_BYTES and len(piece) < self._head_bytes // 2 and data:
            before = bytes(piece[-3:])
            data = self._received(None)
            piece += data
            ends = _END in before + data
        self._head_bytes += len(piece)
        if self._head_bytes > MAX_HEAD_BYTES and not ends:
            raise LimitRequestHeaders("the header section is too long")
        self._head_tail = (self._head_tail + piece)[-3:]
        return bytes(piece)

    def _received(self, size_hint: int | None) -> bytes:
        left = self.silence_s if self.deadline is None else self.deadline - monotonic()
        if left is not None and left <= 0:
            raise RequestTimeout
        self.sock.settimeout(left)
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError:
            raise RequestTimeout from None
        except OSError as exc:
            raise ClientGone from exc
        finally:
            self.sock.settimeout(self.write_silence_s)
        if self.deadline is None:
            if not data:
                raise ClientGone
        elif self._open_line_bytes:
            self._note_line(data)
        return data
