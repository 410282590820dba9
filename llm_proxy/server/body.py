"""`wsgi.input`: a request's body as it arrives."""

from collections.abc import Callable, Iterator
from typing import Any

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidChunkSize, NoMoreData, ParseException

from llm_proxy.errors import ClientConnectionError, ClientGone, MalformedBody
from llm_proxy.server.unreader import Unreader

DRAINABLE_BYTES = 65536  # an unread rest up to this is read away, so that the connection can be kept
LENGTH_DIGITS = 18  # of a Content-Length: what fits into 63 bits; gunicorn takes any number
MAX_CHUNK_BYTES = 10**LENGTH_DIGITS - 1  # of a chunk's size: the same (RFC 9112 §7.1)


class BoundedChunks(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """Chunks of a possible size. gunicorn would wait for as many bytes as a size of any length says."""

    def parse_chunk_size(self, unreader: Unreader, data: bytes | None = None) -> tuple[int, bytes | None]:
        """Read a line with a size. Raises InvalidChunkSize, and the parser's other errors."""
        size, rest = super().parse_chunk_size(unreader, data)
        if size > MAX_CHUNK_BYTES:
            raise InvalidChunkSize(b"too large")
        return size, rest


def abandon(reader: ChunkedReader) -> None:
    """Read no more chunks. Until then the reader, its generator and its request form a circle of references."""
    reader.parser = reader.req = None


def bounded(body: Body, unreader: Unreader) -> Body:
    """Return the body that gunicorn has made, with chunks of a possible size only."""
    first = body.reader
    if not isinstance(first, ChunkedReader):
        return body
    made = Body(BoundedChunks(first.req, unreader))
    abandon(first)
    return made


class RequestBody:
    """Reads gunicorn's `Body`; asks a client that waits for it to go on (RFC 9110 §10.1.1) at the first read.

    What goes wrong while reading is a `ClientConnectionError`, and is raised again by every later read.

    Args:
        send_continue: Writes the interim response; None when the client does not expect one. Raises ClientGone.
    """

    def __init__(self, body: Any, unreader: Unreader, send_continue: Callable[[], None] | None) -> None:
        self._body, self._reader, self._unreader = body, body.reader, unreader
        self._send_continue = send_continue
        self._is_sized = isinstance(body.reader, LengthReader)
        self._error: ClientConnectionError | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the client's bytes of it have all been taken off the connection."""
        if self._error is not None:
            return False
        return not self._reader.length if self._is_sized else self._reader.parser is None

    @property
    def is_drainable(self) -> bool:
        """Whether what is left is known to be little and on its way."""
        if self._error is not None or (self._send_continue is not None and not self.is_whole):
            return False
        return self._reader.length <= DRAINABLE_BYTES if self._is_sized else self._reader.parser is None

    def drain(self) -> bool:
        """Read away what is left. False when the next request's begin can't be found."""
        if not self.is_whole:
            if not self.is_drainable:
                return False
            try:
                while self.read1(DRAINABLE_BYTES):
                    pass
            except ClientConnectionError:
                return False
        return True

    def close(self) -> None:
        """Read no more of it."""
        if not self._is_sized:
            self._error = self._error or ClientGone()
            abandon(self._reader)

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, waiting for them; fewer only at the end. All of it without a size."""
        data: bytes = self._guarded(lambda: self._body.read(size))
        return data

    def read1(self, size: int = 65536) -> bytes:
        """Return what has arrived, at most `size` bytes, waiting for the first one only; b"" at the end."""
        data: bytes = self._guarded(lambda: self._arrived(size))
        return data

    def readline(self, size: int | None = -1) -> bytes:
        """One line."""
        line: bytes = self._guarded(lambda: self._body.readline(size))
        return line

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """All lines."""
        lines: list[bytes] = self._guarded(lambda: self._body.readlines(hint))
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _guarded(self, read: Callable[[], Any]) -> Any:
        if self._error is not None:
            raise self._error
        try:
            if self._send_continue is not None:
                send, self._send_continue = self._send_continue, None
                send()
            return read()
        except ClientConnectionError as exc:
            self._error = exc
            raise
        except NoMoreData as exc:
            self._error = ClientGone()
            raise self._error from exc
        except ParseException as exc:
            self._error = MalformedBody()
            raise self._error from exc

    def _arrived(self, size: int) -> bytes:
        held = self._body.buf.tell()
        if held:  # left over by readline
            data: bytes = self._body.read(min(size, held))
            return data
        return self._arrived_sized(size) if self._is_sized else self._arrived_chunked(size)

    def _arrived_sized(self, size: int) -> bytes:
        size = min(size, self._reader.length)
        if size <= 0:
            return b""
        data: bytes = self._unreader.read(None, read_ahead=size)
        if len(data) > size:  # the next request may be in it
            self._unreader.unread(data[size:])
            data = data[:size]
        self._reader.length -= len(data)
        return data

    def _arrived_chunked(self, size: int) -> bytes:
        reader = self._reader
        if held := reader.buf.tell():
            data: bytes = reader.read(min(size, held))
            return data
        while reader.parser is not None:
            piece: bytes | None = next(reader.parser, None)
            if piece is None:
                reader.parser = None
            elif piece:  # a chunk's size without any of its bytes yields b""
                if len(piece) > size:
                    reader.buf.write(piece[size:])
                return piece[:size]
        return b""
