"""Header fields on their way through, in both directions.

Fields are ordered pairs and stay so: repetitions are neither merged nor moved. What happens to a name is decided once
and remembered, so a request of twenty fields costs a few microseconds.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from llm_proxy.runtime.known_names import has_room

Field = tuple[bytes, bytes]

HOP_BY_HOP: Final = frozenset(  # RFC 9110 §7.6.1, Proxy-Connection and Keep-Alive as older peers send them
    ("CONNECTION", "PROXY-CONNECTION", "KEEP-ALIVE", "TE", "TRAILER", "TRANSFER-ENCODING", "UPGRADE")
) | frozenset(("PROXY-AUTHENTICATE", "PROXY-AUTHORIZATION", "PROXY-AUTHENTICATION-INFO", "HTTP2-SETTINGS"))
CLIENT_ADDRESS: Final = frozenset(  # where the client is stays between it and the proxy
    ("X-FORWARDED-FOR", "X-FORWARDED-HOST", "X-FORWARDED-PROTO", "X-FORWARDED-PORT", "FORWARDED", "X-REAL-IP")
) | frozenset(("X-CLIENT-IP", "X-ORIGINAL-FORWARDED-FOR", "CF-CONNECTING-IP", "CF-IPCOUNTRY", "TRUE-CLIENT-IP"))
KEY_FIELDS: Final = ("API-KEY", "X-API-KEY", "X-GOOG-API-KEY")  # where vendors' clients put their key
OWN_NAMES: Final = ("X-PROXY", "X-UPSTREAM-", "X-CACHE")  # names that only the proxy may set
_NOT_FOR_PROVIDERS: Final = frozenset(  # the last two name another path to IIS and Symfony
    ("X-BODY-HASH", "X-REQUEST-START", "COOKIE", "COOKIE2", "X-ORIGINAL-URL", "X-REWRITE-URL")
)
DROPPED: Final = HOP_BY_HOP | CLIENT_ADDRESS | _NOT_FOR_PROVIDERS

_KEPT_WHATEVER_CONNECTION_SAYS: Final = frozenset(  # the last two: a body must be read there as it was read here
    ("HOST", "CONTENT-LENGTH", "TRANSFER-ENCODING", "X-REQUEST-ID", "CONTENT-TYPE", "CONTENT-ENCODING")
)

# What becomes of a name: the spelling to send, or one of these marks.
_DROP: Final = b""
_SPECIAL: Final = b"special field"  # longer than one byte: CPython has one object for all equal texts of one byte


def is_chunked(fields: Iterable[tuple[str, str]]) -> bool:
    """Whether the body is framed by chunks; the server layer has refused every other coding."""
    return any(name == "TRANSFER-ENCODING" for name, _ in fields)


_NONE: Final[frozenset[str]] = frozenset()
_USUAL_OPTIONS: Final = frozenset(("keep-alive", "close", "Keep-Alive", "Close"))


def connection_names(value: str) -> frozenset[str]:
    """Return the names that a Connection field lists, in upper case, without its own options (RFC 9110 §7.6.1)."""
    if value in _USUAL_OPTIONS:
        return _NONE
    names = frozenset(name.strip().upper() for name in value.split(","))
    return names - {"", "CLOSE", "KEEP-ALIVE"}


# -- client → provider ------------------------------------------------------------------------------------------------


class RequestFields:
    """Makes the provider's field list from the client's; one object for each provider, shared by all requests."""

    __slots__ = ("_added", "_aliases", "_credential_name", "_fates", "_host", "_prefix")

    def __init__(
        self,
        *,
        host: str,
        auth_header: str = "Authorization",
        credential_prefix: str = "Bearer ",
        proxy_version: str | None = None,
        client_auth: Collection[str] = (),
        is_beside: bool = False,
    ) -> None:
        """Decide once what becomes of names.

        Args:
            proxy_version: Tell the provider X-Proxy and X-Proxy-Version (UPSTREAM_PROXY_HEADERS); None: nothing.
            client_auth: Fields that may carry the caller's token: the first gives its place to the provider's key,
                and none is passed on.
            is_beside: The provider is served beside others: no field that a vendor reads its key from is passed on.
        """
        self._host = host.encode("latin-1")
        self._credential_name = auth_header.encode("latin-1")
        self._prefix = credential_prefix.encode("latin-1")
        self._added: tuple[Field, ...] = ()
        if proxy_version is not None:
            self._added = ((b"X-Proxy", b"llm-proxy"), (b"X-Proxy-Version", proxy_version.encode("latin-1")))
        self._fates: dict[str, bytes] = dict.fromkeys(
            ("HOST", "AUTHORIZATION", "CONTENT-LENGTH", "TRANSFER-ENCODING", "X-REQUEST-ID", "EXPECT", "CONNECTION"),
            _SPECIAL,
        )
        if auth_header.upper() != "AUTHORIZATION":
            self._fates[auth_header.upper()] = _DROP
        if is_beside:
            self._fates |= dict.fromkeys(KEY_FIELDS, _DROP)
        self._aliases = dict.fromkeys(client_auth, "AUTHORIZATION")
        self._fates |= dict.fromkeys((*self._aliases, "AUTHORIZATION"), _SPECIAL)

    def __call__(
        self, fields: Sequence[tuple[str, str]], *, api_key: str, request_id: str, keeps_expect: bool = False
    ) -> list[Field]:
        """Return the fields to send, framing in its place.

        Args:
            fields: The client's, names in upper case, values as latin-1 text.
            api_key: The provider's. It stands where the client's Authorization stood.
            request_id: Stands where the client's X-Request-ID stood, else at the end.
            keeps_expect: Forward `Expect`: only where the body is still with the client.
        """
        sent: list[Field] = []
        fates, named, seen = self._fates, _NONE, set[str]()
        for name, value in fields:
            fate = fates.get(name)
            if fate is None:
                fate = self._judge(name)
            if fate is not _SPECIAL:
                if fate:
                    sent.append((fate, value.encode("latin-1")))
            elif name == "CONNECTION":
                named |= connection_names(value)
            elif name == "EXPECT":
                if keeps_expect:
                    sent.append((b"Expect", value.encode("latin-1")))
            else:
                place = self._aliases.get(name, name)
                if place not in seen:  # a second one of these would be refused or means the same
                    seen.add(place)
                    sent.append(self._swapped(place, value, api_key, request_id))
        return self._finished(sent, named, seen, api_key, request_id)

    def _swapped(self, name: str, value: str, api_key: str, request_id: str) -> Field:
        match name:
            case "HOST":
                return b"Host", self._host
            case "AUTHORIZATION":
                return self._credential(api_key)
            case "X-REQUEST-ID":
                return b"X-Request-Id", request_id.encode("latin-1")
            case "CONTENT-LENGTH":
                return b"Content-Length", value.encode("latin-1")
        return b"Transfer-Encoding", b"chunked"

    def _credential(self, api_key: str) -> Field:
        return self._credential_name, self._prefix + api_key.encode("latin-1", "replace")

    def _finished(
        self, sent: list[Field], named: frozenset[str], seen: set[str], api_key: str, request_id: str
    ) -> list[Field]:
        if named:
            gone = {name.encode("latin-1", "replace").lower() for name in named - _KEPT_WHATEVER_CONNECTION_SAYS}
            gone.discard(self._credential_name.lower())
            sent = [field for field in sent if field[0].lower() not in gone]
        if "HOST" not in seen:
            sent.insert(0, (b"Host", self._host))
        if "AUTHORIZATION" not in seen:
            sent.append(self._credential(api_key))
        if "X-REQUEST-ID" not in seen:
            sent.append((b"X-Request-Id", request_id.encode("latin-1")))
        sent.extend(self._added)
        return sent

    def _judge(self, name: str) -> bytes:
        """Judge a name met for the first time.

        Names with an underscore are dropped: WSGI cannot tell them from a dash's.
        """
        is_dropped = name in DROPPED or "_" in name or name.startswith(OWN_NAMES)
        fate = _DROP if is_dropped else _spelling(name)
        if has_room(name, self._fates):
            self._fates[name] = fate
        return fate


def _spelling(name: str) -> bytes:
    """`CONTENT-TYPE` → `Content-Type`: the server has lost the client's spelling, and case means nothing."""
    return name.title().encode("latin-1") if name.isascii() else name.encode("latin-1")


# -- provider → client ------------------------------------------------------------------------------------------------

# Set by the proxy on every response: a provider that is a proxy of this kind itself sends them as well.
REPLACED: Final = (
    frozenset(
        (
            "X-PROXY",
            "X-PROXY-RECEIVED-AT",
            "X-PROXY-FIRST-RESPONSE-AT",
            "X-PROXY-FINAL-RESPONSE-AT",
            "X-PROXY-SENT-BACKEND-AT",
        )
    )
    | frozenset(("X-UPSTREAM-REQUEST-START", "X-UPSTREAM-REQUEST-STOP", "X-LLM-PROXY-REMOTE-DURATION-MS"))
    | {"X-LLM-PROXY-REMOTE-DURATION", "X-PROXY-CACHE", "X-PROXY-CACHE-KEY", "X-CACHE-DEBUG"}
)
REPLACED_WITH_ORIGIN: Final = "ACCESS-CONTROL-ALLOW-ORIGIN"  # two of them and no browser takes the response
REPLACED_WITH_CORRELATION: Final = "X-CORRELATION-ID"

_DROPPED_RESPONSE: Final = HOP_BY_HOP | REPLACED | {"SET-COOKIE", "SET-COOKIE2"}
_CONNECTION, _CONTENT_TYPE, _DATE, _SERVER, _BUFFERING, _REPLACEABLE, _LENGTH, _CODING = (1 << n for n in range(8))
_AGAIN = 256  # one of Date and Server has come before
_LOOKED_AT: Final = {  # a bit for each name that says something to the proxy
    "CONNECTION": _CONNECTION,
    "CONTENT-TYPE": _CONTENT_TYPE,
    "DATE": _DATE,
    "SERVER": _SERVER,
    "X-ACCEL-BUFFERING": _BUFFERING,
    "CONTENT-LENGTH": _LENGTH,
    "TRANSFER-ENCODING": _CODING,
    REPLACED_WITH_ORIGIN: _REPLACEABLE,
    REPLACED_WITH_CORRELATION: _REPLACEABLE,
}
_EVENT_STREAM: Final = b"text/event-stream"


class ResponseFields(NamedTuple):
    """What the provider's fields come to, for the client; latin-1 text, names as the provider spelled them.

    `is_event_stream`: Content-Type contains text/event-stream. `has_length`: there is a Content-Length.
    `is_framed`: there is that or a Transfer-Encoding, so the content's end is not the connection's.
    """

    fields: list[tuple[str, str]]
    is_event_stream: bool
    has_length: bool
    is_framed: bool


_plain_names: dict[bytes, str] = {}  # as sent → spelling, of the names that pass and say nothing to the proxy
_response_names: dict[bytes, tuple[str, int]] = {}  # as sent → (spelling, "" to drop it; its bit), of the others


def response_fields(fields: Iterable[Field], replaced: Collection[str] = ()) -> ResponseFields:
    """Return the client's field list from the provider's, in its order.

    Dropped: hop-by-hop fields, Set-Cookie, what REPLACED names, every Date and Server but the first. `x-request-id`
    becomes X-Upstream-Request-ID; an event stream has `X-Accel-Buffering: no`.

    Args:
        fields: As the provider sent them.
        replaced: REPLACED_WITH_ORIGIN, REPLACED_WITH_CORRELATION: the caller adds a field of this name.
    """
    passed: list[tuple[str, str]] = []
    plain, named, seen = _plain_names, _NONE, 0
    is_event_stream = False
    for raw, value in fields:
        if raw in plain:
            passed.append((plain[raw], value.decode("latin-1")))
            continue
        spelling, bit = _response_names.get(raw) or _judge_response_name(raw)
        if seen & bit & (_DATE | _SERVER):
            seen |= _AGAIN
        seen |= bit
        if bit == _CONTENT_TYPE:
            is_event_stream = is_event_stream or _EVENT_STREAM in value.lower()
        elif bit == _CONNECTION:
            named |= connection_names(value.decode("latin-1"))
        if spelling:
            passed.append((spelling, value.decode("latin-1")))
    gone = named - {"CONTENT-LENGTH", "X-UPSTREAM-REQUEST-ID", "DATE"} if named else named
    if seen & _REPLACEABLE:
        gone = gone.union(replaced)
    if is_event_stream and seen & _BUFFERING:
        gone |= {"X-ACCEL-BUFFERING"}
    if gone:
        passed = [field for field in passed if field[0].upper() not in gone]
    if seen & _AGAIN:
        passed = _once(passed)
    if is_event_stream:
        passed.append(("X-Accel-Buffering", "no"))
    return ResponseFields(passed, is_event_stream, seen & _LENGTH != 0, seen & (_LENGTH | _CODING) != 0)


def _judge_response_name(raw: bytes) -> tuple[str, int]:
    spelling = raw.decode("latin-1")
    upper = spelling.upper()
    bit = _LOOKED_AT.get(upper, 0)
    if upper in _DROPPED_RESPONSE:
        spelling = ""
    elif upper == "X-REQUEST-ID":
        spelling = "X-Upstream-Request-ID"
    if has_room(raw, _response_names, _plain_names):
        if spelling and not bit:
            _plain_names[raw] = spelling
        else:
            _response_names[raw] = spelling, bit
    return spelling, bit


def _once(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the second and later ones of Date and Server."""
    kept, seen = [], set()
    for field in fields:
        upper = field[0].upper()
        if upper in ("DATE", "SERVER"):
            if upper in seen:
                continue
            seen.add(upper)
        kept.append(field)
    return kept
