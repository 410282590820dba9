"""A request's body on its way to the provider: streamed through, or held so that it can be looked at first.

Bodies pass unread where no rule needs them, else they are held within limits. The bytes never change. A body object has
`read1(n)`, `close()` and `received_bytes`; plain `bytes` are a whole body that was here at once.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import IO, NamedTuple, Protocol

from llm_proxy.errors import InsufficientStorage, Overloaded, RequestTimeout, RequestTooLarge

PIECE_BYTES = 65536
MEMORY_BYTES = 1024 * 1024  # what is held beyond it goes to a temporary file
MEMORY_SHARE = 16  # of what bodies may take in all, one part may be memory


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
        """Return at most `n` bytes; none at the declared end."""
        data = self._reading.read(min(n, self._left))
        self._left -= len(data)
        return data


class Limit(NamedTuple):
    """The most bytes that a body may have, and the setting that says so. `max_bytes` 0 is no limit."""

    max_bytes: int
    name: str = "MAX_REQUEST_SIZE"

    def check(self, length: int | None) -> None:
        """Check a length, declared or received; None is not known yet. Raises RequestTooLarge."""
        if self.max_bytes and length is not None and length > self.max_bytes:
            raise RequestTooLarge.of_limit(self.name, self.max_bytes)

    def stricter(self, other: "Limit") -> "Limit":
        """Return the one of both that allows less."""
        limits = [limit for limit in (self, other) if limit.max_bytes]
        return min(limits, default=self, key=lambda limit: limit.max_bytes)


NO_LIMIT = Limit(0)


class StreamedBody:
    """A body that is still with the client; it is counted while it passes and never kept.

    Args:
        first: What has been read of it already.
        limit: Raises RequestTooLarge from `read1` once more have come.
    """

    __slots__ = ("_limit", "_source", "first", "received_bytes")

    def __init__(self, source: Source, *, first: bytes = b"", limit: Limit = NO_LIMIT) -> None:
        self._source, self.first, self._limit = source, first, limit
        self.received_bytes = len(first)

    def read1(self, n: int, /) -> bytes:
        """Return what has arrived, at most `n` bytes; b"" at the end. Raises RequestTooLarge, ClientConnectionError."""
        if self.first:
            data, self.first = self.first[:n], self.first[n:]
            return data
        data = self._source.read1(n)
        self.received_bytes += len(data)
        self._limit.check(self.received_bytes)
        return data

    def close(self) -> None:
        """Nothing is held."""


def open_body(
    source: Source, length: int | None, *, limit: Limit = NO_LIMIT, waits: bool = False
) -> bytes | StreamedBody:
    """Open a body that no rule needs to read.

    `bytes` when all of it came with the first read: head and body can then leave in one piece. Without a byte of it
    nothing is dispatched: a client that stops behind its head, or whose first chunk is malformed, is charged nothing.

    Args:
        length: Content-Length; None when chunked.
        waits: The client asked to be told when to go on (Expect), so reading is left to the part that forwards that.
    """
    limit.check(length)
    if waits:
        return StreamedBody(source, limit=limit)
    first = source.read1(PIECE_BYTES if length is None else min(length, PIECE_BYTES))
    return first if len(first) == length else StreamedBody(source, first=first, limit=limit)


class Room:
    """What a worker may hold of request bodies in all: in its temporary folder, and a sixteenth of that in memory.

    Args:
        max_bytes: MAX_HELD_BODIES; 0 = no limit.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.limit = Limit(max_bytes, "MAX_HELD_BODIES")
        self._max_memory_bytes = max(max_bytes // MEMORY_SHARE, MEMORY_BYTES)
        self.file_bytes = self.memory_bytes = 0

    def take_memory(self, n: int) -> bool:
        """Take memory; False where there is none left, and a file has to do."""
        if self.limit.max_bytes and self.memory_bytes + n > self._max_memory_bytes:
            return False
        self.memory_bytes += n
        return True

    def take_file(self, n: int) -> None:
        """Take room in the temporary folder. Raises Overloaded where other bodies have it."""
        if self.limit.max_bytes and self.file_bytes + n > self.limit.max_bytes:
            raise Overloaded("Request bodies that are being held use all of MAX_HELD_BODIES")
        self.file_bytes += n

    def give(self, memory: int, file: int) -> None:
        """Give back what was taken."""
        self.memory_bytes -= memory
        self.file_bytes -= file


class HeldBody:
    """A whole body, in memory up to MEMORY_BYTES and in a temporary file beyond; can be sent any number of times.

    `length` is exact. `write` raises InsufficientStorage when the temporary folder is full, RequestTooLarge when this
    body alone is more than the worker may hold, and Overloaded when it is so together with those of other requests.

    Args:
        room: What it takes its room from; None: there is no limit.
        expected: The declared length, for which room is taken at once.
    """

    __slots__ = ("_file", "_memory", "_position", "_room", "_taken_file", "_taken_memory", "length")

    def __init__(self, room: Room | None = None, expected: int | None = None) -> None:
        self.length = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._position = 0
        self._room = room or Room()
        self._taken_memory = self._taken_file = 0
        self._room.limit.check(expected)
        if expected and not (expected <= MEMORY_BYTES and self._fits_memory(expected)):
            self._take_file(expected)

    def _fits_memory(self, length: int) -> bool:
        """Take memory for so many bytes of this body; False where it has to be a file."""
        if length > MEMORY_BYTES:
            return False
        if length > self._taken_memory:
            if not self._room.take_memory(length - self._taken_memory):
                return False
            self._taken_memory = length
        return True

    def _take_file(self, length: int) -> None:
        if length > self._taken_file:
            self._room.take_file(length - self._taken_file)
            self._taken_file = length

    @property
    def received_bytes(self) -> int:
        """The body's length so far."""
        return self.length

    @property
    def is_in_memory(self) -> bool:
        """Whether no file is used."""
        return self._file is None

    def write(self, data: bytes) -> None:
        """Put more at the end; not while it is being read."""
        self.length += len(data)
        self._room.limit.check(self.length)
        if self._file is None:
            self._memory += data
            if self._fits_memory(self.length):
                return
            self._take_file(self.length)
            with _disk():
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed with the body)
            data, self._memory = bytes(self._memory), bytearray()
            self._room.give(self._taken_memory, 0)
            self._taken_memory = 0
        self._take_file(self.length)
        with _disk():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it from its beginning, piece by piece."""
        self.rewind()
        return iter(lambda: self.read1(PIECE_BYTES), b"")

    def sendable(self) -> "bytes | HeldBody":
        """Return what to give to the transport: plain bytes when they are in memory, else this, from its beginning."""
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
        """Return the next bytes, at most `n`; b"" at the end."""
        if self._file is not None:
            return self._file.read(n)
        data = bytes(self._memory[self._position : self._position + n])
        self._position += len(data)
        return data

    def close(self) -> None:
        """Give memory and file back; more than once does no harm."""
        self._memory = bytearray()
        self._room.give(self._taken_memory, self._taken_file)
        self._taken_memory = self._taken_file = 0
        if self._file is not None:
            self._file.close()


class Timed:
    """A source that must give all of a body in so many seconds; the server bounds the silence between pieces.

    Args:
        limit_s: 0 = no limit.
    """

    def __init__(self, source: Source, limit_s: float) -> None:
        self._source = source
        self._until = monotonic() + limit_s if limit_s else float("inf")

    def read1(self, n: int, /) -> bytes:
        """Return the next bytes. Raises RequestTimeout, and what the source raises."""
        if monotonic() > self._until:
            raise RequestTimeout
        return self._source.read1(n)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as exc:  # disk full, quota, no folder to write to: for the client all the same
        raise InsufficientStorage from exc


def hold(
    source: Source,
    length: int | None,
    *,
    limit: Limit = NO_LIMIT,
    room: Room | None = None,
    look: Callable[[bytes], None] | None = None,
) -> HeldBody:
    """Read all of a body before it is forwarded. Raises RequestTooLarge, Overloaded.

    Args:
        look: Shown each piece before it is held, and b"" at the end; what it raises ends the reading.
    """
    limit.check(length)
    held = HeldBody(room, length)
    try:
        while data := source.read1(PIECE_BYTES):
            limit.check(held.length + len(data))
            if look is not None:
                look(data)
            held.write(data)
        if look is not None:
            look(b"")
    except BaseException:
        held.close()
        raise
    return held
