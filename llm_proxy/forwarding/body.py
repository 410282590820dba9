"""A request's body on its way to the provider: streamed through, or held so that it can be looked at first.

Data-plane decision 3 and DP-86. Whatever becomes of it, the bytes that leave are the bytes that came. A body object has
`read1(n)`, `close()` and `received_bytes`; plain `bytes` are a whole body that was here at once.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from llm_proxy.errors import InsufficientStorage, RequestTooLarge

PIECE_BYTES = 65536
MEMORY_BYTES = 1024 * 1024  # what is held beyond it goes to a temporary file


class Source(Protocol):
    """The client's body as it arrives."""

    def read1(self, n: int, /) -> bytes:
        """At least one and at most `n` bytes; b"" at the end. Raises errors.ClientConnectionError."""


class Reading(Protocol):
    """`wsgi.input` of any server."""

    def read(self, n: int, /) -> bytes:
        """`n` bytes, fewer only at the end."""


class Plain:
    """`read1` for a `wsgi.input` that has none and may know no end: never reads beyond the declared length."""

    def __init__(self, reading: Reading, length: int) -> None:
        self._reading, self._left = reading, length

    def read1(self, n: int, /) -> bytes:
        data = self._reading.read(min(n, self._left))
        self._left -= len(data)
        return data


def check_declared(length: int | None, max_bytes: int) -> None:
    """Step 7 of the pipeline. `max_bytes` 0 is no limit. Raises RequestTooLarge."""
    if max_bytes and length is not None and length > max_bytes:
        raise RequestTooLarge


class StreamedBody:
    """A body that is still with the client; it is counted while it passes and never kept.

    Args:
        first: What has been read of it already.
        max_bytes: Raises RequestTooLarge from `read1` once more have come; 0 is no limit.
    """

    __slots__ = ("_first", "_max_bytes", "_source", "received_bytes")

    def __init__(self, source: Source, *, first: bytes = b"", max_bytes: int = 0) -> None:
        self._source, self._first, self._max_bytes = source, first, max_bytes
        self.received_bytes = len(first)

    def read1(self, n: int, /) -> bytes:
        """What has arrived, at most `n` bytes; b"" at the end. Raises RequestTooLarge, ClientConnectionError."""
        if self._first:
            data, self._first = self._first[:n], self._first[n:]
            return data
        data = self._source.read1(n)
        self.received_bytes += len(data)
        if self._max_bytes and self.received_bytes > self._max_bytes:
            raise RequestTooLarge
        return data

    def close(self) -> None:
        """Nothing is held."""


def open_body(source: Source, length: int | None, *, max_bytes: int = 0, waits: bool = False) -> bytes | StreamedBody:
    """A body that nobody needs to look at.

    `bytes` when all of it came with the first read: head and body can then leave in one piece. Without a byte of it
    nothing is dispatched, so a client that stops behind its head is charged nothing.

    Args:
        length: Content-Length; None when chunked.
        waits: The client asked to be told when to go on (Expect), so reading is left to whoever forwards that.
    """
    check_declared(length, max_bytes)
    if length is None or waits:
        return StreamedBody(source, max_bytes=max_bytes)
    first = source.read1(min(length, PIECE_BYTES))
    return first if len(first) == length else StreamedBody(source, first=first, max_bytes=max_bytes)


class HeldBody:
    """A whole body, in memory up to MEMORY_BYTES and in a temporary file beyond; can be sent any number of times.

    `length` is exact. `write` raises InsufficientStorage when the temporary folder is full.
    """

    __slots__ = ("_file", "_memory", "_position", "length")

    def __init__(self) -> None:
        self.length = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._position = 0

    @property
    def received_bytes(self) -> int:
        return self.length

    @property
    def is_in_memory(self) -> bool:
        return self._file is None

    def write(self, data: bytes) -> None:
        """Put more at the end; not while it is being read."""
        self.length += len(data)
        if self._file is None:
            self._memory += data
            if self.length <= MEMORY_BYTES:
                return
            with _room():
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed with the body)
            data, self._memory = bytes(self._memory), bytearray()
        with _room():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def content(self) -> bytes:
        """All of it, in memory; bounded by whoever filled it."""
        if self._file is None:
            return bytes(self._memory)
        self._file.seek(0)
        return self._file.read(self.length)

    def sendable(self) -> "bytes | HeldBody":
        """What to give to the transport: plain bytes when they are in memory, else this, from its beginning."""
        if self._file is None:
            return bytes(self._memory)
        self.rewind()
        return self

    def rewind(self) -> None:
        """Let `read1` begin again."""
        self._position = 0
        if self._file is not None:
            self._file.seek(0)

    def read1(self, n: int, /) -> bytes:
        """The next bytes, at most `n`; b"" at the end."""
        if self._file is not None:
            return self._file.read(n)
        data = bytes(self._memory[self._position : self._position + n])
        self._position += len(data)
        return data

    def close(self) -> None:
        """Give memory and file back; more than once does no harm."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as exc:  # disk full, quota, no folder to write to: for the client all the same
        raise InsufficientStorage from exc


def hold(source: Source, length: int | None, *, max_bytes: int) -> HeldBody:
    """Read all of a body before anything is forwarded. `max_bytes` 0 is no limit. Raises RequestTooLarge."""
    check_declared(length, max_bytes)
    held = HeldBody()
    try:
        while data := source.read1(PIECE_BYTES):
            if max_bytes and held.length + len(data) > max_bytes:
                raise RequestTooLarge
            held.write(data)
    except BaseException:
        held.close()
        raise
    return held
