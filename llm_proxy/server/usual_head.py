"""The head of a usual request, read in one pass (RFC 9112 §2 to §5).

gunicorn's request object looks at each field five times. What is usual here is a whole head of HTTP/1.1 without
repeated fields, coded bodies or expectations; every other head, and every one to refuse, is left to gunicorn's parser,
which then judges the same bytes. So there is one place that refuses.
"""

import re
from typing import Any, Final

from gunicorn.http.body import Body, LengthReader

from llm_proxy.runtime.known_names import has_room
from llm_proxy.server.body import LENGTH_DIGITS
from llm_proxy.server.request_checks import ALL_METHODS, HOST
from llm_proxy.server.response import list_members
from llm_proxy.server.unreader import Unreader

_END: Final = b"\r\n\r\n"
_IN_LINES: Final = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])  # a tab, what is printed, and obs-text
_METHODS: Final = frozenset(ALL_METHODS)
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[\x21\x22\x24-\x7e]*) HTTP/1\.1").fullmatch  # origin form without a fragment
_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+").fullmatch  # a token; WSGI cannot tell "_" from "-"
_BLANKS: Final = " \t"
_UNUSUAL: Final = frozenset({"TRANSFER-ENCODING", "EXPECT"})
_KEPT_ALIVE: Final = frozenset({"keep-alive", "Keep-Alive"})

_names: dict[str, str] = {}  # as sent → in upper case; one text for all requests


class UsualHead:
    """What the server layer reads of gunicorn's request.

    Attributes:
        values: NAME → value; no name comes twice.
    """

    __slots__ = ("body", "headers", "method", "must_close", "path", "query", "scheme", "uri", "values")

    version = (1, 1)
    proxy_protocol_info = None
    _expected_100_continue = False

    def __init__(
        self, method: str, target: str, headers: list[tuple[str, str]], values: dict[str, str], scheme: str, body: Body
    ) -> None:
        self.method, self.uri = method, target
        self.path, _, self.query = target.partition("?")
        self.headers, self.values, self.scheme, self.body = headers, values, scheme, body
        connection = values.get("CONNECTION", "keep-alive")
        self.must_close = connection not in _KEPT_ALIVE and "close" in list_members(connection)

    def should_close(self) -> bool:
        """Whether the client wants no further response on its connection."""
        return self.must_close


class UsualHeads:
    """Reads the heads of one listener.

    Args:
        has_addresses: Whether its clients have addresses: gunicorn makes the environments of a Unix socket's requests
            from its own request object.
    """

    def __init__(self, cfg: Any, *, has_addresses: bool) -> None:
        self._scheme = "https" if cfg.is_ssl else "http"
        self._most_fields = cfg.limit_request_fields
        self._longest = min(cfg.limit_request_line, cfg.limit_request_field_size)  # a head so long has no line too long
        has_limits = self._most_fields > 0 and self._longest > 0  # gunicorn has its own meanings for others
        self._takes = has_addresses and has_limits and cfg.proxy_protocol == "off" and not cfg.casefold_http_method

    def read(self, unreader: Unreader) -> UsualHead | None:
        """Take the next head off what has been read ahead; None, and nothing is taken, where it is not a usual one."""
        if not self._takes:
            return None
        data = unreader.buf.getvalue()
        end = data.find(_END, 0, self._longest)
        if end < 0:
            return None
        head = data[:end]
        lines = head.decode("latin-1").split("\r\n")
        request_line = _REQUEST_LINE(lines[0])
        if (
            request_line is None
            or request_line[1] not in _METHODS
            or len(lines) - 1 > self._most_fields
            or len(head.translate(None, _IN_LINES)) != 2 * (len(lines) - 1)  # CR and LF stand together alone
        ):
            return None
        headers = _fields(lines)
        values = dict(headers)
        length = values.get("CONTENT-LENGTH", "0")
        if len(values) != len(headers) or not _is_usual(values, length):
            return None
        unreader.replace(data[end + len(_END) :])
        body = Body(LengthReader(unreader, int(length)))
        return UsualHead(request_line[1], request_line[2], headers, values, self._scheme, body)


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """Return the fields, names in upper case; none where a line or a name must be looked at by gunicorn."""
    try:
        pairs = [line.split(":", 1) for line in lines[1:]]
        try:
            return [(_names[name], value.strip(_BLANKS)) for name, value in pairs]
        except KeyError:
            return [(_names[name], value.strip(_BLANKS)) for name, value in pairs] if _learn(pairs) else []
    except ValueError:  # a line without a colon
        return []


def _learn(pairs: list[list[str]]) -> bool:
    """Remember the names; False where one is not for memory, no token, or one that WSGI cannot tell from another."""
    for name, _ in pairs:
        if name not in _names:
            if _NAME(name) is None or not has_room(name, _names):
                return False
            _names[name] = name.upper()
    return True


def _is_usual(values: dict[str, str], length: str) -> bool:
    """Whether nothing in the fields needs gunicorn's eyes, or is to be refused."""
    host = values.get("HOST")
    return (
        host is not None
        and HOST.fullmatch(host) is not None
        and _UNUSUAL.isdisjoint(values)
        and len(length) <= LENGTH_DIGITS
        and length.isascii()
        and length.isdigit()
    )
