"""Content codings undone, whole or piece by piece, with a bound on what comes out (RFC 9110 §8.4).

Nothing here raises: data end anywhere, and may be none of what their field says.
"""

import re
import zlib
from typing import Any, Protocol

import brotli
import zstandard

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
_MAX_WINDOW_BYTES = 8 * 1024 * 1024  # of zstd: RFC 9659
_MAX_CODINGS = 5  # one after another; more are no honest body
_PIECE_BYTES = 64 * 1024
_LOOKS_PLAIN = re.compile(rb"\s*(?:[\[{\"]|data:|event:)")


class Decoder:
    """A body's content codings, undone as its pieces come.

    Args:
        encoding: `Content-Encoding`, several codings separated by commas.

    Attributes:
        has_failed: An unknown coding, data that are none of it, or more than the bound: what follows is lost.
    """

    def __init__(self, encoding: str) -> None:
        names = codings(encoding)
        self._steps: list[_Step] = [_STEPS[name]() for name in reversed(names) if name in _STEPS]
        self.has_failed = len(self._steps) < len(names) or len(names) > _MAX_CODINGS

    def feed(self, data: bytes, limit: int = MAX_EXPANDED_BYTES) -> bytes:
        """Return what the next piece stands for, at most `limit` bytes of it."""
        if self.has_failed:
            return b""
        for step in self._steps:
            try:
                data = step.feed(data, limit)
            except _Stopped as stopped:
                data, self.has_failed = stopped.data, True
        return data


def decoded(body: bytes, encoding: str, limit: int = MAX_EXPANDED_BYTES) -> bytes | None:
    """Return the body without its codings, as far as it goes when it was cut; at most `limit` bytes.

    None when they cannot be undone. Plain text that only claims a coding is taken as it is.
    """
    if not codings(encoding):
        return body
    found = Decoder(encoding).feed(body, limit)
    return found or (body if looks_plain(body) else None)


def codings(encoding: str) -> list[str]:
    """Return the names of the codings, in the order in which they were applied."""
    names = [name.strip().lower() for name in encoding.split(",")] if encoding else []
    return [name for name in names if name not in ("", "identity")]


def looks_plain(body: bytes) -> bool:
    """Return whether a body begins as JSON or an event stream does, whatever coding its fields claim."""
    return _LOOKS_PLAIN.match(body[:64]) is not None


class _Stopped(Exception):
    """The data stop making sense, or are too many; `data` is what came out before."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class _Step(Protocol):
    def feed(self, data: bytes, limit: int) -> bytes:
        """Undo one coding. Raise _Stopped with what came out so far."""


class _Inflate:
    """zlib's formats, several members one behind the other."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._inflater = zlib.decompressobj(window_bits)
        self._members, self._is_over = 0, False

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what the data decode to, as `_Step` says; a member after the first is decoded as well."""
        found = bytearray()
        while data and not self._is_over:
            if self._inflater.eof:
                self._inflater = zlib.decompressobj(self._window_bits)
                self._members += 1
            if len(found) >= limit:
                raise _Stopped(bytes(found))
            try:
                found += self._inflater.decompress(data, limit - len(found))
            except zlib.error:
                if not self._members:
                    raise _Stopped(bytes(found)) from None
                self._is_over = True  # padding behind the last member
                break
            if self._inflater.unconsumed_tail:
                raise _Stopped(bytes(found))
            data = self._inflater.unused_data if self._inflater.eof else b""
        return bytes(found)


class _Deflate:
    """RFC 9110's `deflate`: zlib's format; some servers send it bare, which the first bytes show."""

    def __init__(self) -> None:
        self._start = b""
        self._inflate: _Inflate | None = None

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what the data decode to; the first two bytes say whether there is a zlib header."""
        if self._inflate is None:
            self._start += data
            if len(self._start) < 2:
                return b""
            first, second = self._start[0], self._start[1]
            is_wrapped = first & 0x0F == 8 and first >> 4 <= 7 and (first << 8 | second) % 31 == 0  # RFC 1950 §2.2
            self._inflate = _Inflate(zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)
            data, self._start = self._start, b""
        return self._inflate.feed(data, limit)


class _Brotli:
    def __init__(self) -> None:
        self._decoder: Any = brotli.Decompressor()

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what the data decode to, as `_Step` says."""
        found, piece = bytearray(), data
        if self._decoder.is_finished():
            return b""
        try:
            while got := self._decoder.process(piece, output_buffer_limit=_PIECE_BYTES):
                found += got
                if len(found) > limit:
                    break
                piece = b""
        except brotli.error:
            raise _Stopped(bytes(found[:limit])) from None
        if len(found) > limit:
            raise _Stopped(bytes(found[:limit]))
        return bytes(found)


class _Zstandard:
    """Frames one behind the other. Output comes in pieces, so that few bytes cannot become gigabytes at once."""

    def __init__(self) -> None:
        self._found, self._limit = bytearray(), 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        sink: Any = self
        self._writer: Any = decompressor.stream_writer(sink, write_size=_PIECE_BYTES, closefd=False)

    def write(self, data: bytes) -> int:
        """Take a piece from the decompressor."""
        self._found += data
        if len(self._found) > self._limit:
            raise _Stopped(b"")
        return len(data)

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what the data decode to, as `_Step` says."""
        self._limit = limit
        try:
            self._writer.write(data)
        except (zstandard.ZstdError, _Stopped):
            raise _Stopped(self._taken()) from None
        return self._taken()

    def _taken(self) -> bytes:
        found = bytes(self._found[: self._limit])
        self._found.clear()
        return found


_STEPS: dict[str, Any] = {
    "gzip": lambda: _Inflate(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Inflate(16 + zlib.MAX_WBITS),
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstandard,
}
