"""A response's header section: found by ourselves, bounded, parsed by llhttp, and refused where llhttp is too kind."""

import re
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llm_proxy.transport.errors import Broken

HEAD_BYTES = 65536
FIELDS = 256
MAX_INTERIM_RESPONSES = 16
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n").match
_BARE_LF = re.compile(rb"(?<!\r)\n").search
_START = b"HTTP/1."
_SIZES = frozenset((10, 14, 17))  # of the names that frame: Connection, Content-Length, Transfer-Encoding
NO_LENGTH = -1


class Head:
    """One header section, and llhttp's callbacks for it and for the chunked content behind it.

    Attributes:
        fields: Name and value in their order, case and number; outer blanks stripped from values.
        length: Bytes of content; -1 when it is chunked or ends with the connection.
        is_chunked: The content has chunked framing, read by feeding `parser`.
        keeps: The connection may be used again once the content has been read.
        parts: Content of the chunks that the last feeding brought.
        done: The last chunk and the trailers are in.
        surplus: Another message began behind it.
    """

    __slots__ = (
        "done",
        "fields",
        "is_chunked",
        "keeps",
        "length",
        "minor",
        "parser",
        "parts",
        "reason",
        "status",
        "surplus",
    )

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.reason = b""
        self.minor = 1
        self.length = NO_LENGTH
        self.is_chunked = False
        self.keeps = False
        self.parts: list[bytes] = []
        self.done = False
        self.surplus = False
        self.parser: HttpResponseParser | None = None

    # -- llhttp's callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note bytes beyond the response."""
        self.surplus = self.done

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        self.fields.append((name, value.rstrip(b" \t")))

    def on_body(self, data: bytes) -> None:
        """Take a piece of the content."""
        if not self.done:  # a second response in the same packet belongs to no request
            self.parts.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        self.done = True

    # -- checks of this module ------------------------------------------------------------------------------------

    def parse(self, data: bytes, method: str, *, is_upgrade: bool = False) -> None:
        """Read `data`, exactly one header section with its empty line, as a response to `method`.

        Args:
            is_upgrade: Whether 101 was asked for.

        Raises:
            Broken: Refused by llhttp or by this module.
        """
        line = _STATUS_LINE(data)
        if line is None:
            raise Broken("no HTTP/1 status line")
        self.minor = 1 if line[1] == b"1" else 0
        self.status = int(line[2])
        self.reason = line[3] or b""
        if self.status == 101 and not is_upgrade:
            raise Broken("switching protocols was not asked for")
        parser = self.parser = HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade as exc:
            if self.status != 101:
                raise Broken(f"header section refused: {exc}") from None
        except HttpParserError as exc:
            raise Broken(f"header section refused: {exc}") from None
        if len(self.fields) > FIELDS:
            raise Broken("too many fields")
        self._frame(method)
        if not self.is_chunked:
            self.parser = None  # parser and callbacks hold each other: do not leave it to the collector

    def detach_fields(self) -> list[tuple[bytes, bytes]]:
        """Return the header section's fields; what `on_header` brings from here on are trailers."""
        fields, self.fields = self.fields, []
        return fields

    def _frame(self, method: str) -> None:
        """How the content ends (RFC 9112 §6.3) and whether the connection lives on (§9.3)."""
        coding = length = None
        closes = keeps = False
        for name, value in [field for field in self.fields if len(field[0]) in _SIZES]:
            size = len(name)
            if size == 14 and name.lower() == b"content-length":
                length = value
            elif size == 17 and name.lower() == b"transfer-encoding":
                coding = value if coding is None else coding + b"," + value
            elif size == 10 and name.lower() == b"connection":
                for option in value.lower().split(b","):
                    option = option.strip()
                    closes = closes or option == b"close"
                    keeps = keeps or option == b"keep-alive"
        if coding is not None and (coding.lower() != b"chunked" or not self.minor):
            raise Broken("a transfer coding that is not chunked alone")
        if length is not None and not (length.isdigit() and len(length) <= 18):
            raise Broken("Content-Length is no number")
        self.keeps = not closes and (self.minor == 1 or keeps)
        if self.status == 101:
            self.keeps = False  # what follows is no HTTP, and ends with the connection
        elif method == "HEAD" or self.status in (204, 304):
            self.length = 0
        elif coding is not None:
            self.is_chunked = True
        elif length is not None:
            self.length = int(length)
        else:
            self.keeps = False  # until the upstream closes


def read_head(recv: Callable[[], bytes], buffer: bytes, method: str, *, is_upgrade: bool = False) -> tuple[Head, bytes]:
    """Return the final response's head, interim ones skipped, and the bytes that came behind it.

    Args:
        recv: Brings at least one more byte or raises.
        buffer: What has come already.
        is_upgrade: Whether 101 is a final response.

    Raises:
        Broken: Not acceptable as HTTP, or beyond a bound.
    """
    searched = 0
    interim = 0
    while True:
        end = buffer.find(b"\r\n\r\n", searched)
        if end < 0:
            _check_beginning(buffer)
            searched = max(0, len(buffer) - 3)
            buffer += recv()
            continue
        end += 4
        if end > HEAD_BYTES:
            raise Broken("header section too large")
        head = Head()
        if end == len(buffer):
            head.parse(buffer, method, is_upgrade=is_upgrade)
            rest = b""
        else:
            head.parse(buffer[:end], method, is_upgrade=is_upgrade)
            rest = buffer[end:]
        if head.status >= 200 or head.status == 101:
            return head, rest
        interim += 1
        if interim > MAX_INTERIM_RESPONSES:
            raise Broken("too many interim responses")
        buffer, searched = rest, 0


def _check_beginning(buffer: bytes) -> None:
    """Refuse early what will never be a header section, instead of waiting for its end."""
    if len(buffer) > HEAD_BYTES:
        raise Broken("header section too large")
    if not buffer.startswith(_START[: len(buffer)]):
        raise Broken("no HTTP/1 status line")
    if _BARE_LF(buffer) is not None:
        raise Broken("a line that ends in a bare LF")
