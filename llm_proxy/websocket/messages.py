"""Messages: fragments put together, within a bound."""

from llm_proxy.websocket.frames import Piece


class MessageTooLong(Exception):
    """A message has more bytes than WS_MAX_MESSAGE."""


class Assembler:
    """Puts the messages of one direction together.

    Args:
        max_bytes: Longest payload.
        keeps_raw: Whether the frames are kept, too, as they came.
    """

    __slots__ = ("_keeps_raw", "_max_bytes", "_payload", "_raw", "_size")

    def __init__(self, max_bytes: int, *, keeps_raw: bool = False) -> None:
        self._max_bytes, self._keeps_raw = max_bytes, keeps_raw
        self._payload: list[bytes] = []
        self._raw: list[bytes] = []
        self._size = 0

    def add(self, piece: Piece) -> bytes | None:
        """Take the next piece of a data frame; return the message that it ends. Raises MessageTooLong."""
        self._size += len(piece.payload)
        if self._size > self._max_bytes:
            raise MessageTooLong
        self._payload.append(piece.payload)
        if self._keeps_raw:
            self._raw.append(piece.raw)
        if not piece.ends_message:
            return None
        message, self._payload, self._size = b"".join(self._payload), [], 0
        return message

    def raw(self) -> bytes:
        """Return, once, the frames that are held."""
        held, self._raw = b"".join(self._raw), []
        return held
