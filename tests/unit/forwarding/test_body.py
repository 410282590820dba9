"""Bodies that are streamed, and bodies that are held."""

import errno
import io
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.errors import ClientGone, InsufficientStorage, MalformedBody, Overloaded, RequestTimeout, RequestTooLarge
from llm_proxy.forwarding.body import MEMORY_BYTES, HeldBody, Limit, Plain, Room, StreamedBody, Timed, hold, open_body


class Pieces:
    """A client that sends these pieces, one a read."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = list(pieces)
        self.reads = 0

    def read1(self, n: int, /) -> bytes:
        self.reads += 1
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > n:
            self._pieces.insert(0, piece[n:])
        return piece[:n]


def whole(body: Any, n: int = 7000) -> bytes:
    """Everything that `read1` gives."""
    return b"".join(iter(lambda: body.read1(n), b""))


def test_a_body_that_is_here_is_plain_bytes() -> None:
    """Head and body can then leave in one piece."""
    assert open_body(Pieces([b"abc"]), 3) == b"abc"


def test_a_body_that_is_not_here_yet_is_streamed_from_its_beginning() -> None:
    """What was read already comes first, and a small read takes a small part of it."""
    body = open_body(Pieces([b"ab", b"cd", b"e"]), 5)
    assert isinstance(body, StreamedBody)
    assert [body.read1(1), body.read1(9), body.read1(9), body.read1(9), body.read1(9)] == [b"a", b"b", b"cd", b"e", b""]
    assert body.received_bytes == 5


@pytest.mark.parametrize("length", [None, 3], ids=["chunked", "sized"])
def test_nothing_is_read_ahead_where_the_client_waits(length: int | None) -> None:
    """Reading would make the server layer answer 100 before the provider had its say."""
    source = Pieces([b"abc"])
    body = open_body(source, length, waits=True)
    assert source.reads == 0
    assert whole(body) == b"abc"


def test_a_chunked_body_is_opened_with_its_first_piece() -> None:
    """A first chunk that is malformed is refused before anything is dispatched."""
    with pytest.raises(MalformedBody):
        open_body(Pieces([MalformedBody()]), None)
    source = Pieces([b"abc", b"d"])
    body = open_body(source, None)
    assert source.reads == 1
    assert whole(body) == b"abcd"


def test_a_declared_size_beyond_the_limit_is_refused_unread() -> None:
    """413 before a byte was read."""
    source = Pieces([b"abc"])
    with pytest.raises(RequestTooLarge):
        open_body(source, 3, limit=Limit(2))
    assert source.reads == 0


def test_a_chunked_body_is_cut_off_when_it_passes_the_limit() -> None:
    """The byte too many is never handed on."""
    body = StreamedBody(Pieces([b"ab", b"cd"]), limit=Limit(3))
    assert body.read1(9) == b"ab"
    with pytest.raises(RequestTooLarge):
        body.read1(9)


def test_a_client_that_leaves_is_not_an_end() -> None:
    """Its error passes through, streamed or held."""
    with pytest.raises(ClientGone):
        whole(StreamedBody(Pieces([b"ab", ClientGone()])))
    with pytest.raises(ClientGone):
        hold(Pieces([b"ab", ClientGone()]), 5)


@pytest.mark.parametrize("size", [0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES])
def test_a_held_body_can_be_sent_twice(size: int) -> None:
    """Exact length, the very bytes, any number of times; beyond 1 MiB from a file."""
    data = os.urandom(size)
    body = hold(Pieces([data]), size)
    assert body.length == body.received_bytes == size
    assert body.is_in_memory == (size <= MEMORY_BYTES)
    for _ in range(2):
        body.rewind()
        assert whole(body) == data
    assert b"".join(body.pieces()) == data
    sendable = body.sendable()
    assert (sendable if isinstance(sendable, bytes) else whole(sendable)) == data
    body.close()
    body.close()


@pytest.mark.parametrize("length", [None, 100])
def test_a_held_body_is_bounded(length: int | None) -> None:
    """Declared or not, beyond `max_bytes` it is 413."""
    with pytest.raises(RequestTooLarge):
        hold(Pieces([b"x" * 50, b"x" * 50]), length, limit=Limit(99))


def test_a_full_disk_is_507(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder has no room: the client is told so, the file is given back."""

    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    file = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: file)
    with pytest.raises(InsufficientStorage):
        hold(Pieces([b"x" * (MEMORY_BYTES + 1)]), None)
    assert file.closed


def test_no_temporary_folder_is_507(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same response where no file can be made at all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InsufficientStorage):
        HeldBody().write(b"x" * (MEMORY_BYTES + 1))


def test_plain_input_is_never_read_beyond_its_length() -> None:
    """A development server's input has no end: the next read would wait permanently."""
    reading = io.BytesIO(b"abcdef-the next request")
    assert whole(Plain(reading, 6), 4) == b"abcdef"
    assert reading.read(1) == b"-"


def test_held_bodies_share_a_room() -> None:
    """Taken before a body is read; memory first, then the folder; 503 beyond, 413 for one body alone; given back."""
    room = Room(16 * MEMORY_BYTES)
    first = HeldBody(room, MEMORY_BYTES)
    assert (room.memory_bytes, room.file_bytes) == (MEMORY_BYTES, 0)
    second = HeldBody(room)
    second.write(b"x" * 1000)  # no memory is left
    assert (second.is_in_memory, room.file_bytes) == (False, 1000)
    with pytest.raises(Overloaded):
        HeldBody(room, 16 * MEMORY_BYTES)
    third = HeldBody(room, 8 * MEMORY_BYTES)
    with pytest.raises(Overloaded):
        second.write(b"x" * 9 * MEMORY_BYTES)
    with pytest.raises(RequestTooLarge):
        second.write(b"x" * 16 * MEMORY_BYTES)
    for body in (first, second, third, first):
        body.close()
    assert (room.memory_bytes, room.file_bytes) == (0, 0)


def test_a_body_that_outgrows_memory_gives_it_back() -> None:
    """Its content is whole, and counts as a file's."""
    room = Room(16 * MEMORY_BYTES)
    body = HeldBody(room)
    for _ in range(3):
        body.write(b"ab" * (MEMORY_BYTES // 4))
    assert (room.memory_bytes, room.file_bytes, body.length) == (0, body.length, MEMORY_BYTES * 3 // 2)
    assert b"".join(body.pieces()) == b"ab" * (body.length // 2)
    body.close()


def test_a_held_body_comes_within_its_time() -> None:
    """However small the silences are."""
    source = Timed(io.BytesIO(b"abc"), 0.000001)
    time.sleep(0.001)
    with pytest.raises(RequestTimeout):
        source.read1(1)
    assert Timed(io.BytesIO(b"abc"), 0).read1(1) == b"a"
