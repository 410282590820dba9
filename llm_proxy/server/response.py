"""A response on its way to the client: fields as the application sent them, framing by gunicorn's rules."""

from collections.abc import Iterable
from typing import Any

from gunicorn import util
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import HEADER_VALUE_RE, Response

from llm_proxy.errors import ClientGone
from llm_proxy.runtime.known_names import has_room
from llm_proxy.server.body import RequestBody

JOINED_BYTES = 65536  # head and first bytes up to this go out in one write; more goes in slices of this size
_OF_THE_CONNECTION = frozenset({"keep-alive", "proxy-connection", "te", "transfer-encoding"})
_LOOKED_AT = frozenset({"content-length", "date", "server", "connection", "upgrade"})
SWITCHING_STATUS = "101 Switching Protocols"  # with it, the connection is handed to the body
_SWITCHING, _UPGRADE_REQUIRED = 101, 426  # statuses that name protocols: RFC 9110 §15.2.2, §15.5.22
_PLAIN, _DROPPED = "", "-"

_plain_names: set[str] = set()  # names that are tokens, of fields that pass
_kinds: dict[str, str] = {}  # … of others → what becomes of the field: a mark above, or the name to look at


class ShortBody(Exception):
    """The application's body ended before its Content-Length."""


class ClientResponse(Response):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's `Response`, but the application's `Date`, `Server` and `Connection: close` count.

    What goes wrong on the client's socket is `ClientGone`, so that it is not taken for an OSError of the application.
    `body` is the request's: a response that leaves much of it unread says that the connection closes.
    """

    body: RequestBody | None = None
    headers: list[tuple[str, str]]
    must_close: bool
    headers_sent: bool
    response_length: int | None

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Check and keep the fields; of `Date` and `Server` the first."""
        self.has_date = self.has_server = False
        fields = list(headers)
        if not _are_plain(fields):
            fields = [(name, _stripped(name, value)) for name, value in fields]
        plain = _plain_names
        self.headers = [field for field in fields if field[0] in plain or self._keeps(*field)]

    def _keeps(self, name: str, value: str) -> bool:
        kind = _kinds.get(name)
        if kind is None:
            kind = _judge(name)
        return kind == _PLAIN or (kind != _DROPPED and self._passes(kind, value))

    def _passes(self, kind: str, value: str) -> bool:
        """Whether a field that says something to the proxy goes to the client as well."""
        if kind == "content-length":
            self._note_length(value)
        elif kind == "date":
            if self.has_date:
                return False
            self.has_date = True
        elif kind == "server":
            if self.has_server:
                return False
            self.has_server = True
        elif kind == "upgrade":
            return self.status_code in (_SWITCHING, _UPGRADE_REQUIRED)
        else:
            self.must_close = self.must_close or "close" in list_members(value)
            return False
        return True

    def _note_length(self, value: str) -> None:
        if self.response_length is not None or not (value.isascii() and value.strip(" \t").isdigit()):
            raise InvalidResponseHeader("'Content-Length'")
        self.response_length = int(value)

    def head(self) -> bytes:
        """Status line and fields; decides whether the connection is kept."""
        if self.body is not None and not self.body.is_drainable:
            self.must_close = True
        major, minor = self.req.version
        lines = [f"HTTP/{major}.{minor} {self.status}\r\n"]
        if not self.has_date:
            lines.append(f"Date: {util.http_date()}\r\n")
        lines.append(f"Connection: {self._connection()}\r\n")
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines.append("\r\n".join(map(": ".join, self.headers)))
        lines.append("\r\n\r\n" if self.headers else "\r\n")
        self.headers = []  # a long response need not hold them
        return "".join(lines).encode("latin-1")

    def _connection(self) -> str:
        """Options of the Connection field; with a 426, `Upgrade` belongs to them (RFC 9110 §7.8)."""
        if self.status_code == _SWITCHING:
            return "Upgrade"
        is_upgrade = self.status_code == _UPGRADE_REQUIRED
        if self.should_close():
            return "close, Upgrade" if is_upgrade else "close"
        return "Upgrade" if is_upgrade and self.req.version != (1, 0) else "keep-alive"

    def write(self, data: bytes) -> None:
        """Put one item on the wire: the head first when it is still to be sent. Raises ClientGone."""
        if not isinstance(data, bytes):
            raise TypeError(f"{type(data).__name__} is not bytes")
        head = b"" if self.headers_sent else self.head()
        if self._omits_body:
            data = b""
        elif self.response_length is not None:
            data = data[: self.response_length - self.sent]
        self.sent += len(data)
        if self.chunked and data:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        self.headers_sent = True
        self._send(head, data)

    def close(self) -> None:
        """End the body. Raises ShortBody, ClientGone."""
        if self._is_short():
            raise ShortBody
        head = b"" if self.headers_sent else self.head()
        self.headers_sent = True
        self._send(head, b"0\r\n\r\n" if self.chunked else b"")

    def _is_short(self) -> bool:
        return not self._omits_body and self.response_length is not None and self.sent < self.response_length

    def _send(self, head: bytes, data: bytes) -> None:
        if not head and not data:
            return
        try:
            if len(data) > JOINED_BYTES:
                self._send_all(head)
                for start in range(0, len(data), JOINED_BYTES):
                    self._send_all(memoryview(data)[start : start + JOINED_BYTES])
            else:
                self._send_all(head + data if head else data)
        except OSError as exc:  # the client closed, or took no byte for too long
            raise ClientGone from exc

    def _send_all(self, data: Any) -> None:
        """Each call of `send` may wait for the socket's timeout: a client that takes bytes, slowly, is not gone."""
        sent = self.sock.send(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            rest = rest[self.sock.send(rest) :]

    @property
    def is_framed(self) -> bool:
        """Whether a body that ends early looks broken by itself: it has a length, or a last chunk that is missing."""
        return self.chunked or self.response_length is not None


def _are_plain(fields: list[tuple[str, str]]) -> bool:
    """Whether all values are printable ASCII, and none begins or ends with a blank: none must be looked at alone."""
    try:
        text = f"~{'~'.join([value for _, value in fields])}~"
    except TypeError:
        return False
    return text.isascii() and text.isprintable() and "~ " not in text and " ~" not in text


def _stripped(name: str, value: object) -> str:
    """Return a value without outer blanks. Raises InvalidResponseHeader for one that a field must not have."""
    if type(value) is not str or not ((value.isascii() and value.isprintable()) or HEADER_VALUE_RE.fullmatch(value)):
        raise InvalidResponseHeader(f"{name!r}")  # the value may be a secret
    return value.strip(" \t")


def _judge(name: object) -> str:
    """Judge a name, and remember it. Raises InvalidResponseHeaderName unless it is a token."""
    if not isinstance(name, str) or not TOKEN_RE.fullmatch(name):
        raise InvalidResponseHeaderName(f"{name!r}")
    lower = name.lower()
    kind = lower if lower in _LOOKED_AT else _DROPPED if lower in _OF_THE_CONNECTION else _PLAIN
    if has_room(name, _kinds, _plain_names):
        if kind == _PLAIN:
            _plain_names.add(name)
        else:
            _kinds[name] = kind
    return kind


def list_members(value: str) -> list[str]:
    """Return the members of a comma-separated list, in lower case."""
    return [member.strip(" \t").lower() for member in value.split(",")]
