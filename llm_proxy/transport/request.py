"""The request as it goes onto the wire, byte for byte as asked, and the checks that it is one request and no more."""

import re
from typing import Protocol

from requests import PreparedRequest
from requests.exceptions import InvalidHeader, InvalidURL

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 §5.6.2
_TARGET = re.compile(rb"[\x21-\x7e]+").fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
_PLAIN, _CONTENT_LENGTH, _TRANSFER_ENCODING, _EXPECT = range(4)
_SPECIAL = {b"content-length": _CONTENT_LENGTH, b"transfer-encoding": _TRANSFER_ENCODING, b"expect": _EXPECT}
_KNOWN_NAMES = 4096  # clients choose names: what is remembered about them is bounded


class BodyReader(Protocol):
    """A body that is still on its way from the client."""

    def read1(self, n: int, /) -> bytes:
        """Return what has arrived, at least one and at most `n` bytes; b"" at its end."""


class UpstreamRequest(PreparedRequest):
    """One request for `Adapter.send`; nothing of it is prepared, quoted, merged or added to.

    Args:
        method: As it came.
        target: Origin form (or `*`), as it came.
        fields: Name and value, Host and the framing field in their places.
        origin: `scheme://host:port`; the key of the pool.
        body: None, the bytes, or a reader. With `Transfer-Encoding: chunked` among the fields the chunks are written
            here; else it is as long as its `Content-Length`.

    Attributes:
        is_upgrade: Whether the response may be 101; the connection is the caller's then.
    """

    # The library types these for what `prepare()` makes; these are the wire's own forms.
    method: str
    body: bytes | BodyReader | None  # type: ignore[assignment]

    def __init__(
        self,
        method: str,
        target: bytes,
        fields: list[tuple[bytes, bytes]],
        origin: str,
        body: bytes | BodyReader | None = None,
    ) -> None:  # the library's own attributes cost 1 µs a request and are never read
        self.method = method
        self.target = target
        self.fields = fields
        self.origin = origin
        self.body = body
        self.is_chunked = False
        self.content_length = 0
        self.expects_continue = False
        self.is_upgrade = False

    @property
    def url(self) -> str:  # type: ignore[override]
        """Where it goes, for messages."""
        return self.origin + self.target.decode("latin-1")

    @property
    def is_streamed(self) -> bool:
        """True for a body that can be read only once."""
        return self.body is not None and not isinstance(self.body, bytes)

    def framed(self) -> bytes:
        """Return a body of bytes, or none, in the framing that the fields announce; call `head` first."""
        body = self.body if isinstance(self.body, bytes) else b""
        if not self.is_chunked:
            return body
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"

    def head(self, prefix: bytes = b"", extra: bytes = b"") -> bytes:
        """Return the header section.

        Args:
            prefix: In front of the target, for an HTTP proxy's absolute form.
            extra: Whole lines behind the fields.

        Raises:
            InvalidHeader, InvalidURL: It would not be one well-framed request; nothing has been sent.
        """
        method, target = self.method.encode("latin-1"), self.target
        if _TARGET(target) is None or _TOKEN(method) is None:
            raise InvalidURL("the method or the target holds bytes that a request line cannot")
        line = b"%b %b%b HTTP/1.1" % (method, prefix, b"" if prefix and target == b"*" else target)
        self._check_framing(self._framing())
        lines = [line, *map(b": ".join, self.fields), extra + b"\r\n"]
        head = b"\r\n".join(lines)
        ends = len(lines) + extra.count(b"\n")
        if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
            raise InvalidHeader("a field value holds CR, LF or NUL")
        return head

    def _framing(self) -> list[tuple[int, bytes]]:
        """Return the fields that frame the body, and note whether 100 (Continue) is waited for."""
        kinds, framing = _kinds, []
        try:
            special = [field for field in self.fields if kinds[field[0]]]
        except KeyError:
            special = [field for field in self.fields if _classify(field[0])]
        for name, value in special:
            kind = _classify(name)
            if kind == _EXPECT:
                self.expects_continue = value.strip().lower() == b"100-continue"
            else:
                framing.append((kind, value))
        return framing

    def _check_framing(self, framing: list[tuple[int, bytes]]) -> None:
        if len(framing) > 1:
            raise InvalidHeader("two framing fields")
        body, self.is_chunked, self.content_length = self.body, False, 0
        if framing:
            kind, value = framing[0]
            if kind == _TRANSFER_ENCODING:
                if value.strip().lower() != b"chunked":
                    raise InvalidHeader("a transfer coding that is not chunked")
                self.is_chunked = True
                return
            if _LENGTH(value) is None:
                raise InvalidHeader("Content-Length is no number")
            self.content_length = int(value)
        if body is None or isinstance(body, bytes):
            if len(body or b"") != self.content_length:
                raise InvalidHeader("the body is not as long as its Content-Length")
        elif not framing:
            raise InvalidHeader("a body without a framing field")


_kinds: dict[bytes, int] = {}


def _classify(name: bytes) -> int:
    known = _kinds.get(name)
    if known is not None:
        return known
    if _TOKEN(name) is None:
        raise InvalidHeader("a field name that is no token")
    if len(_kinds) >= _KNOWN_NAMES:
        _kinds.clear()
    kind = _kinds[name] = _SPECIAL.get(name.lower(), _PLAIN)
    return kind
