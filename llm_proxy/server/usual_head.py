"""The head of a usual request, made from the C parser's result in one pass.

gunicorn's request object looks at each field five times. What is usual here is a whole head of HTTP/1.1 without
repeated fields, coded bodies or expectations; every other head, and every one to refuse, is left to gunicorn's parser,
which then judges the same bytes. So there is one place that refuses.
"""

import re
from typing import Any, Final

from gunicorn.http import message
from gunicorn.http.body import Body, LengthReader

from llm_proxy.runtime.known_names import has_room
from llm_proxy.server.body import LENGTH_DIGITS
from llm_proxy.server.request_checks import ALL_METHODS, HOST
from llm_proxy.server.response import list_members
from llm_proxy.server.unreader import Unreader

_METHODS: Final = {name.encode(): name for name in ALL_METHODS}
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*").fullmatch  # origin form without a fragment
_UNUSUAL: Final = frozenset({"TRANSFER-ENCODING", "EXPECT"})
_KEPT_ALIVE: Final = frozenset({"keep-alive", "Keep-Alive"})

_names: dict[bytes, str] = {}  # as sent → in upper case; one text for all requests


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
        is_usual = has_addresses and cfg.proxy_protocol == "off" and not cfg.casefold_http_method
        self._module = None
        if is_usual and message._check_fast_parser(cfg):
            self._module = message._fast_parser_module
        self._limits = {
            "limit_request_line": cfg.limit_request_line,
            "limit_request_fields": cfg.limit_request_fields,
            "limit_request_field_size": cfg.limit_request_field_size,
        }
        if min(self._limits.values()) <= 0:  # gunicorn has its own meanings for these
            self._module = None

    def read(self, unreader: Unreader) -> UsualHead | None:
        """Take the next head off what has been read ahead; None, and nothing is taken, where it is not a usual one."""
        module = self._module
        if module is None:
            return None
        data = unreader.buf.getvalue()
        try:
            found = module.parse_request(data, **self._limits)
        except (module.ParseError, module.IncompleteError):
            return None
        method, target = _METHODS.get(found["method"]), found["path"]
        if method is None or found["minor_version"] != 1 or _TARGET(target) is None:
            return None
        headers = _texts(found["headers"])
        values = dict(headers)
        length = values.get("CONTENT-LENGTH", "0")
        if len(values) != len(headers) or not _is_usual(values, length):
            return None
        unreader.replace(data[found["consumed"] :])
        body = Body(LengthReader(unreader, int(length)))
        return UsualHead(method, target.decode("latin-1"), headers, values, self._scheme, body)


def _texts(fields: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the fields as texts, names in upper case; none where a name must be looked at by gunicorn."""
    names = _names
    try:
        return [(names[name], value.decode("latin-1")) for name, value in fields]
    except KeyError:
        return [(names[name], value.decode("latin-1")) for name, value in fields] if _learn(fields) else []


def _learn(fields: list[tuple[bytes, bytes]]) -> bool:
    """Remember the names; False where one is not for memory, or is one that WSGI cannot tell from another."""
    for name, _ in fields:
        if name not in _names:
            if b"_" in name or not has_room(name, _names):
                return False
            _names[name] = name.decode("ascii").upper()
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
