"""multipart/form-data, looked at while it passes (RFC 7578, RFC 2046 §5.1).

The forwarded bytes are the client's own, so the provider parses them again, and perhaps more leniently. Therefore what
two parsers could read in two ways is refused: delimiter look-alikes inside the content, bare line feeds in part heads,
names given twice. Clients that mean no harm write none of it.
"""

import re
from collections.abc import Callable, Collection
from typing import Final

from llm_proxy.errors import InvalidRequest, RequestTooLarge
from llm_proxy.formats.names import fold_field, is_readable
from llm_proxy.formats.texts import QUOTED

MAX_PART_HEAD_BYTES: Final = 16384
MAX_PARTS: Final = 10_000
MAX_VALUE_BYTES: Final = 1024 * 1024  # of a checked field in memory; longer ones match no pattern

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*(" + _TOKEN + rb')[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\[^\r\n])*)"|([^\s;",]+))[ \t]*'
)
_NAME_MARK = re.compile(rb"(?<![a-z0-9_-])name[ \t]*+(?:\*[0-9]*+\*?+[ \t]*+)?+=", re.IGNORECASE)
_HEADER_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\r\n\x00]*)")
_QUOTED_NAME = re.compile(rb'(?<![a-z0-9_-])name[ \t]*+=[ \t]*+"(' + QUOTED + rb')"', re.IGNORECASE)
_SINGLE = (b"content-disposition", b"content-type", b"content-transfer-encoding")
_CHARSET_FIELD = "_charset_"  # of HTML forms
_PLAIN_ENCODINGS = (b"", b"7bit", b"8bit", b"binary")
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1


class InvalidMultipart(InvalidRequest):
    """Parameter rules apply and the form cannot be read in one way only."""

    code, message = "invalid_json", "Request body is not valid multipart/form-data"


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names. Raises InvalidMultipart unless there is exactly one."""
    raw = content_type.encode("latin-1")
    parameters = _parameters(raw, raw.find(b";") if b";" in raw else len(raw))
    boundaries = [value for name, value in parameters if name.startswith(b"boundary")]
    names = [name for name, _ in parameters if name.startswith(b"boundary")]
    if names != [b"boundary"] or not _BOUNDARY.fullmatch(boundaries[0]):
        raise InvalidMultipart
    return boundaries[0]


def _parameters(raw: bytes, position: int) -> list[tuple[bytes, bytes]]:
    """(name in lower case, value) of `; name=value …` from `position` to the end. Raises InvalidMultipart."""
    found = []
    while position < len(raw):
        match = _PARAMETER.match(raw, position)
        if match is None:
            if raw[position:].strip(b" \t;"):
                raise InvalidMultipart
            break
        quoted = match[2]
        value = match[3] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted)
        found.append((match[1].lower(), value))
        position = match.end()
    return found


class FormScanner:
    """Finds the fields that are asked for in a form that is fed to it piece by piece.

    Memory: one piece, one part's head, and one field that is asked for, up to MAX_VALUE_BYTES.

    Args:
        boundary: As `boundary_of` gives it.
        watched: Folded names of fields to report, whether a part says that it is a file or not.
        found: Called with folded name and text for each of them, in order; what it raises is let through. The text is
            None where it was longer than MAX_VALUE_BYTES.
        max_bytes: Of all watched fields together; beyond it RequestTooLarge.
    """

    def __init__(
        self, boundary: bytes, watched: Collection[str], found: Callable[[str, str | None], None], *, max_bytes: int
    ) -> None:
        self._mark = b"--" + boundary
        self._watched, self._found = watched, found
        self._left_bytes = self._max_bytes = max_bytes
        self._buffer = b""
        self._step: Callable[[FormScanner], bool] = FormScanner._at_start  # not bound: that would be a circle
        self._names: list[str] = []  # of the part being read, when it is watched
        self._value = bytearray()
        self._is_value_whole = True
        self._parts = 0

    def feed(self, data: bytes) -> None:
        """Scan the next piece. Raises InvalidMultipart, RequestTooLarge, or what `found` raises."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._step(self):
            pass

    def finish(self) -> None:
        """End the body. Raises InvalidMultipart when its last delimiter has not come."""
        if self._step is not FormScanner._at_epilogue:
            raise InvalidMultipart

    # Each step takes what it can from the buffer; True when the next one may go on with what is left.

    def _at_start(self) -> bool:
        skipped = 2 if self._buffer.startswith(b"\r\n") else 0
        if len(self._buffer) < skipped + len(self._mark):
            return False
        if not self._buffer.startswith(self._mark, skipped):
            raise InvalidMultipart
        self._buffer = self._buffer[skipped + len(self._mark) :]
        self._step = FormScanner._behind_mark
        return True

    def _behind_mark(self) -> bool:
        if len(self._buffer) < 2:
            return False
        end, self._buffer = self._buffer[:2], self._buffer[2:]
        if end == b"--":
            self._step = FormScanner._at_epilogue
        elif end == b"\r\n":
            self._step = FormScanner._in_head
        else:
            raise InvalidMultipart
        return True

    def _in_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_PART_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_PART_HEAD_BYTES):
            raise InvalidMultipart
        if end < 0:
            return False
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        self._parts += 1
        if self._mark in head or self._parts > MAX_PARTS:
            raise InvalidMultipart
        self._names = self._watched_names(head)
        self._step = FormScanner._in_content
        return True

    def _watched_names(self, head: bytes) -> list[str]:
        names, media_type = _names(head)
        folded = dict.fromkeys(fold_field(name) for name in names)
        if _CHARSET_FIELD in folded or media_type.startswith("multipart/"):  # they change how other fields are read
            raise InvalidMultipart
        watched = [name for name in folded if name in self._watched]
        if watched and not is_readable(media_type):
            raise InvalidMultipart
        return watched

    def _in_content(self) -> bool:
        at = self._buffer.find(self._mark)
        if at < 0:
            kept = len(self._mark) + 1  # the line end before a delimiter, and all of it but a byte
            if len(self._buffer) > kept:
                self._take(self._buffer[:-kept])
                self._buffer = self._buffer[-kept:]
            return False
        if self._buffer[max(0, at - 2) : at] != b"\r\n":
            raise InvalidMultipart
        self._take(self._buffer[: at - 2])
        self._buffer = self._buffer[at + len(self._mark) :]
        self._report()
        self._step = FormScanner._behind_mark
        return True

    def _at_epilogue(self) -> bool:
        if self._mark in self._buffer:
            raise InvalidMultipart
        self._buffer = self._buffer[-len(self._mark) :]
        return False

    def _take(self, content: bytes) -> None:
        if not self._names:
            return
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise RequestTooLarge.of_limit("The most of the fields that are checked", self._max_bytes)
        if len(self._value) + len(content) > MAX_VALUE_BYTES:
            self._is_value_whole = False
        else:
            self._value += content

    def _report(self) -> None:
        text = self._value.decode("utf-8", "replace") if self._is_value_whole else None
        for name in self._names:
            self._found(name, text)
        self._names, self._value, self._is_value_whole = [], bytearray(), True


def _names(head: bytes) -> tuple[list[str], str]:
    """Return what the part is called, and its media type. Raises InvalidMultipart.

    It has one name, or two where a backslash can be read in two ways.
    """
    fields = _fields(head)
    disposition = fields.get(b"content-disposition")
    encoding = fields.get(b"content-transfer-encoding", b"").strip().lower()
    if disposition is None or encoding not in _PLAIN_ENCODINGS:  # RFC 7578 §4.7: no encodings in forms
        raise InvalidMultipart
    kind, separator, _ = disposition.partition(b";")
    if kind.strip().lower() != b"form-data" or not separator or len(_NAME_MARK.findall(disposition)) != 1:
        raise InvalidMultipart
    names = [value for name, value in _parameters(disposition, len(kind)) if name == b"name"]
    if len(names) != 1:
        raise InvalidMultipart
    found = _QUOTED_NAME.search(disposition)
    written = found[1] if found else names[0]
    decoded = [name.decode("utf-8", "replace") for name in dict.fromkeys((names[0], written))]
    return decoded, fields.get(b"content-type", b"").decode("latin-1").strip().lower()


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Return the part's header fields. Raises InvalidMultipart where one that counts is there twice."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise InvalidMultipart
        name = match[1].lower()
        if name in fields and name in _SINGLE:
            raise InvalidMultipart
        fields[name] = match[2]
    return fields
