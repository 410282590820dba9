"""A tap on an exchange that keeps enough of both bodies to tell what it used.

A piece costs an append. Past 64 KiB of them they are folded into a head and a tail, so that memory is bounded; the
content coding of a longer body is undone while folding, because its end means nothing without its beginning.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brotli
import zstandard

HEAD_BYTES = TAIL_BYTES = FOLD_BYTES = 65536
REQUEST_BYTES = 262_144  # of a request: its model, and text to count where the provider counts nothing
_MOST_EXPANDED = 4 * 1024 * 1024  # of one fold: a bomb ends the reading

Undo = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Body:
    """What is left of a body, its content coding undone.

    Attributes:
        head: Its beginning; all of it when `missing` is 0.
        tail: Its end, where something is missing between the two.
        missing: Bytes between head and tail.
        is_readable: False where the coding could not be undone.
    """

    head: bytes
    tail: bytes = b""
    missing: int = 0
    is_readable: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def scale(self) -> float:
        """The whole's length over that of what is kept."""
        kept = len(self.head) + len(self.tail)
        return (kept + self.missing) / kept if kept else 1.0


class Tap:
    """One body as it passes.

    Args:
        encoding: `Content-Encoding`; empty for none.
    """

    __slots__ = ("_encoding", "_head", "_pieces", "_size", "_tail", "_total", "_undo")

    def __init__(self, encoding: str = "") -> None:
        self._encoding = encoding
        self._pieces: list[bytes] = []
        self._size = self._total = 0
        self._head = self._tail = b""
        self._undo: Undo | None = None

    def __call__(self, piece: bytes) -> None:
        """The next piece."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > FOLD_BYTES:
            self._fold()

    def finish(self) -> Body:
        """What there is, once, after the last piece. Never raises."""
        if not self._total and self._undo is None:
            whole, is_readable = b"".join(self._pieces), True
            self._pieces = []
            if self._encoding and whole:
                self._undo = undoer(self._encoding)
                whole, is_readable = self._undone(whole)
            return Body(whole, is_readable=is_readable)
        self._fold()
        missing = max(0, self._total - len(self._head) - len(self._tail))
        is_readable = self._undo is not _lost
        return Body(self._head, self._tail, missing, is_readable) if missing else Body(
            self._head + self._tail, is_readable=is_readable
        )  # fmt: skip

    def _fold(self) -> None:
        data, self._pieces, self._size = b"".join(self._pieces), [], 0
        if self._encoding:
            if self._undo is None:
                self._undo = undoer(self._encoding)
            data, _ = self._undone(data)
        self._total += len(data)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def _undone(self, data: bytes) -> tuple[bytes, bool]:
        assert self._undo is not None
        try:
            return self._undo(data), self._undo is not _lost
        except Exception:  # zlib, brotli and zstandard each have errors of their own
            self._undo = _lost
            return b"", False


def _lost(data: bytes) -> bytes:
    """In place of a decoder that failed, or that there is none of."""
    return b""


def undoer(encoding: str) -> Undo:
    """Undoes a content coding piece by piece (RFC 9110 §8.4); several, or an unknown one, give nothing."""
    match encoding.strip().lower():
        case "" | "identity":
            return bytes
        case "gzip" | "x-gzip":
            inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
            return _bounded(inflater)
        case "deflate":
            return _deflate()
        case "br":
            unbrotli = brotli.Decompressor()
            return lambda data: unbrotli.process(data, output_buffer_limit=_MOST_EXPANDED)
        case "zstd":
            unzstd = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).decompressobj()
            return unzstd.decompress
    return _lost


def _bounded(inflater: Any) -> Undo:
    def undo(data: bytes) -> bytes:
        found: bytes = inflater.decompress(data, _MOST_EXPANDED)
        if inflater.unconsumed_tail:
            raise ValueError("expands too much")
        return found

    return undo


def _deflate() -> Undo:
    """RFC 9110's `deflate` is zlib's format; some servers send it bare, which the first byte shows."""
    chosen: list[Undo] = []

    def undo(data: bytes) -> bytes:
        if not chosen:
            chosen.append(_bounded(zlib.decompressobj(zlib.MAX_WBITS if data[:1] == b"\x78" else -zlib.MAX_WBITS)))
        return chosen[0](data)

    return undo
