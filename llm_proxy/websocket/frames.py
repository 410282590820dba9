"""Frames of RFC 6455: an incremental, linear reader of one direction, and the few frames that the proxy makes itself.

The reader changes nothing: the bytes of its pieces, joined, are the bytes that it was fed.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY_VIOLATION, MESSAGE_TOO_BIG, SERVICE_RESTART = (  # RFC 6455 §7.4.1
    1000, 1001, 1002, 1008, 1009, 1012
)  # fmt: skip
MAX_REASON_BYTES = 123  # of a close frame: 125 less the code
_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_MAX_HEAD_BYTES = 14


class BrokenFrame(Exception):
    """The bytes are no valid frame; `rest` is what is left of them, from the frame's first byte on."""

    def __init__(self, reason: str, rest: bytes) -> None:
        super().__init__(reason)
        self.rest = rest


class Piece(NamedTuple):
    """A frame, or the part of one that has come.

    Attributes:
        raw: As it came, with the frame's head where the piece is its first.
        payload: Unmasked.
        opcode: Of the frame; CONTINUATION for later fragments of a message.
        ends_frame: Whether the frame ends with it.
        ends_message: Whether a data message ends with it; False for control frames.
    """

    raw: bytes
    payload: bytes
    opcode: int
    ends_frame: bool
    ends_message: bool

    @property
    def is_control(self) -> bool:
        """Whether it belongs to a close, ping or pong frame."""
        return self.opcode >= CLOSE


class FrameReader:
    """Reads the frames of one direction of a connection.

    Args:
        is_masked: Whether frames must be masked: those of clients must, those of servers must not (§5.1).
    """

    __slots__ = ("_fin", "_head", "_in_message", "_is_masked", "_left", "_mask", "_mask_at", "_opcode")

    def __init__(self, *, is_masked: bool) -> None:
        self._is_masked = is_masked
        self._head = b""  # of a frame whose head is not whole
        self._left = -1  # bytes of the payload still to come; -1 between frames
        self._mask, self._mask_at = b"", 0
        self._opcode, self._fin, self._in_message = 0, True, False

    @property
    def is_between_frames(self) -> bool:
        """Whether no frame has begun to be handed out."""
        return self._left < 0

    @property
    def is_between_messages(self) -> bool:
        """Whether, moreover, no fragmented message is open."""
        return self._left < 0 and not self._in_message

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield what the bytes bring. Raises BrokenFrame where they are no frame."""
        at, size = 0, len(data)
        while at < size:
            if self._left < 0:
                head, at = self._read_head(data, at)
                if not head:
                    return
            else:
                head = b""
            end = min(size, at + self._left)
            yield self._piece(head, data[at:end])
            at = end

    def rest(self) -> bytes:
        """Return the part of a frame's head that has come and was not handed out."""
        return self._head

    def _piece(self, head: bytes, chunk: bytes) -> Piece:
        self._left -= len(chunk)
        payload = self._unmasked(chunk) if self._mask else chunk
        ends_frame = self._left == 0
        ends_message = False
        if ends_frame:
            self._left = -1
            if self._opcode < CLOSE:
                ends_message = self._fin
                self._in_message = not self._fin
        return Piece(head + chunk if head else chunk, payload, self._opcode, ends_frame, ends_message)

    def _read_head(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the whole head and where the payload begins; an empty head where more bytes are needed."""
        known = len(self._head)
        head = self._head + data[at : at + _MAX_HEAD_BYTES - known]
        need = 2 if len(head) < 2 else _head_size(head[1])
        fault = self._fault(head) if len(head) >= 2 else None
        if fault is not None:
            raise BrokenFrame(fault, self._head + data[at:])
        if len(head) < need:
            self._head = head
            return b"", len(data)
        head, behind = head[:need], at + need - known
        if not self._begin(head):
            raise BrokenFrame("a length that is not in its shortest form", head + data[behind:])
        self._head = b""
        return head, behind

    def _fault(self, head: bytes) -> str | None:
        """Return what is wrong with the first two bytes (§5.2, §5.5)."""
        opcode, fin, length = head[0] & 0x0F, head[0] & 0x80, head[1] & 0x7F
        if head[0] & 0x70:
            return "a reserved bit is set"
        if opcode not in _OPCODES:
            return "a reserved opcode"
        if bool(head[1] & 0x80) is not self._is_masked:
            return "masked where it must not be, or the reverse"
        if opcode >= CLOSE:
            return "a control frame that is long or fragmented" if not fin or length > 125 else None
        is_continuation = opcode == CONTINUATION
        return None if is_continuation is self._in_message else "a continuation of nothing, or a message inside another"

    def _begin(self, head: bytes) -> bool:
        """Begin a frame; return False for a length that is not in its shortest form."""
        length, is_minimal = head[1] & 0x7F, True
        if length == 126:
            length = int.from_bytes(head[2:4], "big")
            is_minimal = length > 125
        elif length == 127:
            length = int.from_bytes(head[2:10], "big")
            is_minimal = 65535 < length < 1 << 63
        if is_minimal:
            self._opcode, self._fin, self._left = head[0] & 0x0F, bool(head[0] & 0x80), length
            self._mask, self._mask_at = (head[-4:], 0) if self._is_masked else (b"", 0)
        return is_minimal

    def _unmasked(self, chunk: bytes) -> bytes:
        at = self._mask_at
        self._mask_at = (at + len(chunk)) % 4
        return xored(chunk, self._mask[at:] + self._mask[:at])


def _head_size(second: int) -> int:
    extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
    return 2 + extended + (4 if second & 0x80 else 0)


def xored(data: bytes, mask: bytes) -> bytes:
    """Return the bytes masked, or unmasked, by the four bytes of a mask (§5.3)."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def frame(opcode: int, payload: bytes, *, is_masked: bool = False) -> bytes:
    """Return a whole frame."""
    size, bit = len(payload), 0x80 if is_masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, bit | 127, size)
    if not is_masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + xored(payload, mask)


def close_frame(code: int, reason: str, *, is_masked: bool = False) -> bytes:
    """Return a close frame (§5.5.1)."""
    text = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return frame(CLOSE, struct.pack(">H", code) + text, is_masked=is_masked)
