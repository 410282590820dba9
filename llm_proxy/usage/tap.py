"""A tap on an exchange that keeps enough of both bodies to tell what it used.

A piece costs an append. Past 64 KiB of them they are folded into a head and a tail, so that memory is bounded; the
content coding of a longer body is undone while folding, because its end means nothing without its beginning.
"""

from collections.abc import Iterable

from llm_proxy.formats.body import Body
from llm_proxy.formats.content_coding import Decoder, looks_plain

HEAD_BYTES = TAIL_BYTES = FOLD_BYTES = 65536
REQUEST_BYTES = 262_144  # of a request: its model, and text to count where the provider counts nothing
_CODED_BYTES = 16384  # decoded at once, for a millisecond at worst
_MAX_EXPANDED_BYTES = 1024 * 1024  # of them: a bomb ends the reading
_SIZES = frozenset((12, 16))  # of the names Content-Type and Content-Encoding


class Tap:
    """One body as it passes.

    Args:
        encoding: `Content-Encoding`; empty for none.
    """

    __slots__ = ("_decoder", "_encoding", "_head", "_pieces", "_size", "_tail", "_total", "received_bytes")

    def __init__(self, encoding: str = "") -> None:
        self._encoding = encoding
        self._pieces: list[bytes] = []
        self._size = self._total = self.received_bytes = 0
        self._head = self._tail = b""
        self._decoder: Decoder | None = None

    def __call__(self, piece: bytes) -> None:
        """Take the next piece."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > (_CODED_BYTES if self._encoding else FOLD_BYTES):
            self._fold()

    def finish(self) -> Body:
        """Return what there is, once, after the last piece. Never raises."""
        self._fold()
        missing = max(0, self._total - len(self._head) - len(self._tail))
        if missing:
            return Body(self._head, self._tail, missing, self._is_readable)
        return Body(self._head + self._tail, is_readable=self._is_readable)

    @property
    def _is_readable(self) -> bool:
        return self._decoder is None or not self._decoder.has_failed

    def _fold(self) -> None:
        data, self._pieces = b"".join(self._pieces), []
        self.received_bytes += self._size
        self._size = 0
        if not self._encoding:
            self._keep(data)
            return
        for start in range(0, len(data), _CODED_BYTES):
            self._keep(self._decoded(data[start : start + _CODED_BYTES]))

    def _keep(self, data: bytes) -> None:
        self._total += len(data)
        room = HEAD_BYTES - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail = (self._tail + data)[-TAIL_BYTES:]

    def _decoded(self, data: bytes) -> bytes:
        if self._decoder is None:
            self._decoder = Decoder(self._encoding)
            found = self._decoder.feed(data, _MAX_EXPANDED_BYTES)
            if found or not (self._decoder.has_failed and looks_plain(data)):
                return found
            self._encoding, self._decoder = "", None  # plain text that only claims a coding
            return data
        return self._decoder.feed(data, _MAX_EXPANDED_BYTES)


def type_and_coding(fields: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return Content-Type and Content-Encoding; empty where there is none."""
    media_type = encoding = ""
    for name, value in [field for field in fields if len(field[0]) in _SIZES]:  # cheaper than a look at each name
        lower = name.lower()
        if lower == "content-type":
            media_type = value
        elif lower == "content-encoding":
            encoding = f"{encoding}, {value}" if encoding else value
    return media_type, encoding
