"""The members of a JSON object, found while its bytes pass, in time and memory that its size does not multiply.

The whole text is checked against RFC 8259; only the object's own members are looked at. Nothing is converted, so
numbers of any length pass. What two readers could read in two ways is reported as often as it stands there.
"""

import codecs
import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from llm_proxy.errors import InvalidJson

MAX_DEPTH: Final = 1024
MAX_VALUE_BYTES: Final = 1024 * 1024  # of a watched member; a longer one is reported without its text
MAX_NAME_BYTES: Final = 8192  # a longer name is none that is watched
MAX_MEMBERS: Final = 10_000  # of the object itself
MAX_STEPS: Final = 4_000_000  # some four seconds of CPU time: what is nested deeply all over costs most
_MAX_TOKEN_BYTES: Final = 8192  # of a number

_BLANK = rb"[ \t\n\r]*+"
# CPython before 3.11.5 returns into a possessive group that it has left (python/cpython#106052). So no possessive group
# here can match in two ways. Where choices are needed the group is greedy, and each item has one reading.
_PLAIN = rb"[^\"\\\x00-\x1f]*+"
_TEXT = _PLAIN + rb"(?:\\(?:[\"\\/bfnrt]|u[0-9A-Fa-f]{4})" + _PLAIN + rb")*"
_ATOM = rb"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)"
_FLAT = rb"(?:\"" + _TEXT + rb"\"|" + _ATOM + rb"(?=[ \t\n\r,\]}]))"


# An item stands once in each of these, with another one behind each comma: nested patterns would double in length with
# each level otherwise, and take six times as long to compile.
def _list_of(item: bytes) -> bytes:
    return rb"\[" + _BLANK + rb"(?:" + item + _BLANK + rb"(?:," + _BLANK + rb"(?!\])|(?=\])))*\]"


def _object_of(item: bytes) -> bytes:
    member = rb"\"" + _TEXT + rb"\"" + _BLANK + rb":" + _BLANK + item + _BLANK
    return rb"\{" + _BLANK + rb"(?:" + member + rb"(?:," + _BLANK + rb"(?!\})|(?=\})))*\}"


def _nested(item: bytes, levels: int) -> bytes:
    for _ in range(levels):
        item = rb"(?:" + _FLAT + rb"|" + _list_of(item) + rb"|" + _object_of(item) + rb")"
    return item


_SHALLOW = _nested(_FLAT, 3)
_BLANKS = re.compile(_BLANK)
_STRING_REST = re.compile(_TEXT)
_NUMBER_OR_WORD = re.compile(rb"[-+.0-9A-Za-z]++")
_ATOMS = re.compile(_ATOM)
_ITEMS = re.compile(rb"(?:," + _BLANK + _SHALLOW + _BLANK + rb")*")  # what needs no look, at the speed of C
_MEMBERS = re.compile(
    rb"(?:," + _BLANK + rb"\"" + _TEXT + rb"\"" + _BLANK + rb":" + _BLANK + _SHALLOW + _BLANK + rb")*"
)
_OPENERS = re.compile(rb"(?:\[" + _BLANK + rb")++")
_CLOSERS = re.compile(rb"(?:\]" + _BLANK + rb")++")
_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_OPEN_LIST, _CLOSE_LIST, _OPEN, _CLOSE = b"[]{}"
_ESCAPE_BYTES = 6  # the longest: \u and four digits


class Member(NamedTuple):
    """A watched member of the object. `text` is None where it was too long; of no string it is JSON without blanks."""

    name: str
    text: str | None
    is_string: bool


class JsonMembers:
    """Reads one JSON object that is fed to it piece by piece.

    Args:
        is_watched: Asked with the name of each of the object's members, as it is read.
        found: Told of each one that is watched; what it raises is let through.
        max_value_bytes: Of a watched member; a longer one is reported without its text.
    """

    def __init__(
        self,
        is_watched: Callable[[str], bool],
        found: Callable[[Member], None],
        *,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        self._is_watched, self._found, self._max_value_bytes = is_watched, found, max_value_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._buffer, self._at = b"", 0
        self._stack = bytearray()
        self._steps = self._members = 0
        self._step: Callable[[JsonMembers], bool] = JsonMembers._at_start  # not bound: that would be a circle
        self._kept: bytearray | None = None  # of the text being read: a name, or a watched value
        self._kept_limit = 0
        self._is_name = False  # the string being read is a member's name
        self._name: str | None = None  # of the watched member whose value is being read
        self._value_is_string = False

    def feed(self, data: bytes) -> None:
        """Read the next piece. Raises InvalidJson, or what `found` raises."""
        try:
            self._utf8.decode(data)
        except UnicodeDecodeError:
            raise InvalidJson from None
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        while self._step(self):
            self._steps += 1
        if self._steps > MAX_STEPS:
            raise InvalidJson("Request body has too many nested values to be checked")

    def finish(self) -> None:
        """Note the end. Raises InvalidJson where the object is not whole."""
        if self._step is not JsonMembers._behind_it or self._buffer[self._at :].strip(b" \t\n\r"):
            raise InvalidJson

    # Each step takes a token or more from the buffer; True when another one may follow.

    def _next(self) -> int:
        """Skip blanks; return the next byte, -1 where it has not come yet."""
        found = _BLANKS.match(self._buffer, self._at)
        self._at = found.end() if found is not None else self._at
        return self._buffer[self._at] if self._at < len(self._buffer) else -1

    def _at_start(self) -> bool:
        byte = self._next()
        if byte == _OPEN:
            return self._opened(byte)
        if byte != -1:
            raise InvalidJson
        return False

    def _behind_it(self) -> bool:
        if self._next() != -1:
            raise InvalidJson
        return False

    def _opened(self, byte: int) -> bool:
        self._keep(self._buffer[self._at : self._at + 1])
        self._at += 1
        self._push(bytes((byte,)))
        self._step = JsonMembers._at_first_name if byte == _OPEN else JsonMembers._at_first_item
        return True

    def _push(self, opened: bytes) -> None:
        self._stack += opened
        if len(self._stack) > MAX_DEPTH:
            raise InvalidJson

    def _at_first_name(self) -> bool:
        return self._closed(_CLOSE) if self._next() == _CLOSE else self._at_name()

    def _at_name(self) -> bool:
        byte = self._next()
        if byte == _QUOTE:
            self._is_name = True
            if len(self._stack) == 1:
                self._kept, self._kept_limit = bytearray(), MAX_NAME_BYTES
            return self._string_begun()
        if byte != -1:
            raise InvalidJson
        return False

    def _at_colon(self) -> bool:
        byte = self._next()
        if byte == _COLON:
            self._keep(b":")
            self._at += 1
            self._step = JsonMembers._at_value
            return True
        if byte != -1:
            raise InvalidJson
        return False

    def _at_first_item(self) -> bool:
        return self._closed(_CLOSE_LIST) if self._next() == _CLOSE_LIST else self._at_value()

    def _at_value(self) -> bool:
        byte = self._next()
        if byte == _QUOTE:
            self._is_name = False
            self._value_is_string = len(self._stack) == 1
            return self._string_begun()
        if byte == _OPEN:
            return self._opened(byte)
        if byte == _OPEN_LIST:
            return self._lists_opened()
        return False if byte == -1 else self._atom()

    def _lists_opened(self) -> bool:
        """Open as many lists as begin here at once."""
        found = _OPENERS.match(self._buffer, self._at)
        assert found is not None
        opened = found[0].translate(None, b" \t\n\r")
        self._keep(opened)
        self._push(opened)
        self._at = found.end()
        self._step = JsonMembers._at_first_item
        return True

    def _atom(self) -> bool:
        found = _NUMBER_OR_WORD.match(self._buffer, self._at)
        if found is None:
            raise InvalidJson
        if found.end() == len(self._buffer):  # it may go on
            if len(found[0]) > _MAX_TOKEN_BYTES:
                raise InvalidJson
            return False
        if not _ATOMS.fullmatch(found[0]):
            raise InvalidJson
        self._keep(found[0])
        self._at = found.end()
        return self._value_read()

    # -- strings

    def _string_begun(self) -> bool:
        self._keep(b'"')
        self._at += 1
        self._step = JsonMembers._in_string
        return True

    def _in_string(self) -> bool:
        found = _STRING_REST.match(self._buffer, self._at)
        end = found.end() if found is not None else self._at
        if self._kept is not None:
            self._keep(self._buffer[self._at : end])
        self._at = end
        left = len(self._buffer) - end
        if left == 0:
            return False
        if self._buffer[end] == _QUOTE:
            return self._string_read()
        if self._buffer[end] == _BACKSLASH and left < _ESCAPE_BYTES:
            return False
        raise InvalidJson

    def _string_read(self) -> bool:
        self._keep(b'"')
        self._at += 1
        if not self._is_name:
            return self._value_read()
        if len(self._stack) == 1:
            self._name_read()
        self._step = JsonMembers._at_colon
        return True

    def _name_read(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise InvalidJson(f"Request body has more than {MAX_MEMBERS} members")
        name = _text_of(self._kept) if self._kept is not None else None
        self._kept, self._name = None, None
        if name is not None and self._is_watched(name):
            self._name = name
            self._kept, self._kept_limit = bytearray(), self._max_value_bytes
            self._value_is_string = False

    def _keep(self, data: bytes) -> None:
        if self._kept is not None:
            if len(self._kept) + len(data) > self._kept_limit:
                self._kept = None
            else:
                self._kept += data

    # -- behind a value

    def _value_read(self) -> bool:
        self._step = JsonMembers._behind_value
        if len(self._stack) == 1 and self._name is not None:
            self._report(self._name)
        return True

    def _report(self, name: str) -> None:
        kept, self._kept, self._name = self._kept, None, None
        text = None
        if kept is not None:
            text = _text_of(kept) if self._value_is_string else bytes(kept[1:]).decode()  # behind the colon
        self._found(Member(name, text, self._value_is_string))

    def _behind_value(self) -> bool:
        byte = self._next()
        top = self._stack[-1]
        if byte == _COMMA:
            return self._behind_comma(top)
        if byte in (_CLOSE, _CLOSE_LIST):
            return self._closed(byte)
        if byte != -1:
            raise InvalidJson
        return False

    def _behind_comma(self, top: int) -> bool:
        if self._kept is None and len(self._stack) > 1:
            found = (_MEMBERS if top == _OPEN else _ITEMS).match(self._buffer, self._at)
            if found is not None and found.end() > self._at:
                self._at = found.end()
                return True
        self._keep(b",")
        self._at += 1
        self._step = JsonMembers._at_name if top == _OPEN else JsonMembers._at_value
        return True

    def _closed(self, byte: int) -> bool:
        """Close an object, or as many lists as end here, as far as they are open."""
        closed, end = bytes((byte,)), self._at + 1
        if byte == _CLOSE_LIST and len(self._stack) > 1:
            found = _CLOSERS.match(self._buffer, self._at)
            assert found is not None
            closed, end = found[0].translate(None, b" \t\n\r"), found.end()
        opened = b"{" if byte == _CLOSE else b"[" * len(closed)
        if not self._stack.endswith(opened):
            raise InvalidJson
        del self._stack[-len(opened) :]
        self._keep(closed)
        self._at = end
        if self._stack:
            return self._value_read()
        self._step = JsonMembers._behind_it
        return True


def _text_of(quoted: bytearray) -> str:
    """Return a JSON string's text. Raises InvalidJson where it holds half a surrogate pair."""
    start = 1 if quoted[:1] == b":" else 0
    raw = bytes(quoted[start:])
    text = str(json.loads(raw)) if b"\\" in raw else raw[1:-1].decode()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidJson from None
    return text
