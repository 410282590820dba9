"""Header fields on their way through, in both directions (data-plane decision 9, DP-53..DP-64).

Fields are ordered pairs and stay so: repetitions are neither merged nor moved. What happens to a name is decided once
and remembered, so a request of twenty fields costs a few microseconds.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Field = tuple[bytes, bytes]

HOP_BY_HOP: Final = frozenset(  # RFC 9110 §7.6.1, Proxy-Connection and Keep-Alive as older peers send them
    ("CONNECTION", "PROXY-CONNECTION", "KEEP-ALIVE", "TE", "TRAILER", "TRANSFER-ENCODING", "UPGRADE")
) | frozenset(("PROXY-AUTHENTICATE", "PROXY-AUTHORIZATION", "PROXY-AUTHENTICATION-INFO", "HTTP2-SETTINGS"))
CLIENT_ADDRESS: Final = frozenset(  # DP-54, DP-55: where the client is stays between it and us
    ("X-FORWARDED-FOR", "X-FORWARDED-HOST", "X-FORWARDED-PROTO", "X-FORWARDED-PORT", "FORWARDED", "X-REAL-IP")
) | frozenset(("X-CLIENT-IP", "X-ORIGINAL-FORWARDED-FOR", "CF-CONNECTING-IP", "CF-IPCOUNTRY", "TRUE-CLIENT-IP"))
OURS: Final = ("X-PROXY", "X-UPSTREAM-", "X-CACHE")  # DP-53: names that only we may set
DROPPED: Final = HOP_BY_HOP | CLIENT_ADDRESS | {"X-BODY-HASH", "X-REQUEST-START", "COOKIE", "COOKIE2"}

_KEPT_WHATEVER_CONNECTION_SAYS: Final = frozenset(("HOST", "CONTENT-LENGTH", "TRANSFER-ENCODING", "X-REQUEST-ID"))
_REMEMBERED_NAMES: Final = 2048
_REMEMBERED_NAME_CHARS: Final = 128

# What becomes of a name: the spelling to send, or one of these marks.
_DROP: Final = b""
_SPECIAL: Final = b"!"


def is_chunked(fields: Iterable[tuple[str, str]]) -> bool:
    """Whether the body is framed by chunks; the server layer has refused every other coding (decision 17)."""
    return any(name == "TRANSFER-ENCODING" for name, _ in fields)


def connection_names(value: str) -> frozenset[str]:
    """The names that a Connection field lists, in upper case, without its own options (RFC 9110 §7.6.1)."""
    names = frozenset(name.strip().upper() for name in value.split(","))
    return names - {"", "CLOSE", "KEEP-ALIVE"}


# -- client → provider ------------------------------------------------------------------------------------------------


class RequestFields:
    """Makes the provider's field list from the client's; one object for each provider, shared by all requests."""

    __slots__ = ("_added", "_credential_name", "_fates", "_host", "_prefix")

    def __init__(
        self,
        *,
        host: str,
        auth_header: str = "Authorization",
        credential_prefix: str = "Bearer ",
        proxy_version: str | None = None,
    ) -> None:
        """`proxy_version`: tell the provider X-Proxy and X-Proxy-Version (UPSTREAM_PROXY_HEADERS); None: nothing."""
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

    def __call__(
        self, fields: Sequence[tuple[str, str]], *, api_key: str, request_id: str, keeps_expect: bool = False
    ) -> list[Field]:
        """The fields to send, framing in its place.

        Args:
            fields: The client's, names in upper case, values as latin-1 text.
            api_key: The provider's. It stands where the client's Authorization stood.
            request_id: Stands where the client's X-Request-ID stood, else at the end.
            keeps_expect: Forward `Expect`: only where the body is still with the client.
        """
        sent: list[Field] = []
        fates = self._fates
        named: frozenset[str] = frozenset()
        seen: set[str] = set()
        for name, value in fields:
            fate = fates.get(name)
            if fate is None:
                fate = self._judge(name)
            if fate is _DROP:
                continue
            if fate is not _SPECIAL:
                sent.append((fate, value.encode("latin-1")))
            elif name == "CONNECTION":
                named |= connection_names(value)
            elif name == "EXPECT":
                if keeps_expect:
                    sent.append((b"Expect", value.encode("latin-1")))
            elif name not in seen:  # a second one of these would be refused or means the same
                seen.add(name)
                sent.append(self._swapped(name, value, api_key, request_id))
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
        """A name met for the first time. Names with an underscore are dropped: WSGI cannot tell them from a dash's."""
        is_dropped = name in DROPPED or "_" in name or name.startswith(OURS)
        fate = _DROP if is_dropped else _spelling(name)
        _remember(self._fates, name, fate)
        return fate


def _spelling(name: str) -> bytes:
    """`CONTENT-TYPE` → `Content-Type`: the server has lost the client's spelling, and case means nothing."""
    return name.title().encode("latin-1") if name.isascii() else name.encode("latin-1")


def _remember(fates: dict[str, bytes], name: str, fate: bytes) -> None:
    """Within bounds: names are the clients' to choose."""
    if len(fates) < _REMEMBERED_NAMES and len(name) <= _REMEMBERED_NAME_CHARS:
        fates[name] = fate


# -- provider → client ------------------------------------------------------------------------------------------------

# Ours on every answer (DP-61, DP-62): a provider that is a proxy of this kind itself sends them as well.
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
    | {"X-LLM-PROXY-REMOTE-DURATION"}
)
REPLACED_WITH_ORIGIN: Final = "ACCESS-CONTROL-ALLOW-ORIGIN"  # two of them and no browser takes the answer
REPLACED_WITH_CORRELATION: Final = "X-CORRELATION-ID"

_DROPPED_ANSWER: Final = HOP_BY_HOP | REPLACED | {"SET-COOKIE", "SET-COOKIE2"}
_LOOKED_AT: Final = frozenset(("CONNECTION", "CONTENT-TYPE", "DATE", "SERVER", "X-REQUEST-ID", "X-ACCEL-BUFFERING")) | {
    REPLACED_WITH_ORIGIN,
    REPLACED_WITH_CORRELATION,
}


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """What the provider's fields come to, for the client; latin-1 text, names as the provider spelled them.

    `is_event_stream`: Content-Type contains text/event-stream (DP-98).
    """

    fields: list[tuple[str, str]]
    is_event_stream: bool


_answer_names: dict[bytes, tuple[str, str]] = {}  # as sent → (spelling, "" to drop it; the name to look at, or "")


def answer_fields(fields: Iterable[Field], replaced: Collection[str] = ()) -> AnswerFields:
    """The client's field list from the provider's, in its order.

    Dropped: hop-by-hop fields, Set-Cookie, what REPLACED names, every Date and Server but the first. `x-request-id`
    becomes X-Upstream-Request-ID; an event stream has `X-Accel-Buffering: no`.

    Args:
        fields: As the provider sent them.
        replaced: REPLACED_WITH_ORIGIN, REPLACED_WITH_CORRELATION: the caller adds a field of this name.
    """
    answer = _Answer(replaced)
    passed = answer.passed
    names = _answer_names
    for raw, value in fields:
        spelling, looked_at = names.get(raw) or _judge_answer_name(raw)
        if looked_at:
            answer.look(looked_at, spelling, value.decode("latin-1"))
        elif spelling:
            passed.append((spelling, value.decode("latin-1")))
    return answer.finished()


def _judge_answer_name(raw: bytes) -> tuple[str, str]:
    spelling = raw.decode("latin-1")
    upper = spelling.upper()
    known = ("", "") if upper in _DROPPED_ANSWER else (spelling, upper if upper in _LOOKED_AT else "")
    if upper == "CONNECTION":
        known = ("", upper)
    if len(_answer_names) < _REMEMBERED_NAMES and len(raw) <= _REMEMBERED_NAME_CHARS:
        _answer_names[raw] = known
    return known


class _Answer:
    """The list being made, and what the fields that need a look have said."""

    __slots__ = ("_has_buffering", "_named", "_once", "_replaced", "is_event_stream", "passed")

    def __init__(self, replaced: Collection[str]) -> None:
        self.passed: list[tuple[str, str]] = []
        self.is_event_stream = self._has_buffering = False
        self._named: frozenset[str] = frozenset()
        self._once: set[str] = set()
        self._replaced = replaced

    def look(self, name: str, spelling: str, value: str) -> None:
        if name in self._replaced:
            return
        match name:
            case "CONNECTION":
                self._named |= connection_names(value)
                return
            case "CONTENT-TYPE":
                self.is_event_stream = self.is_event_stream or "text/event-stream" in value.lower()
            case "DATE" | "SERVER":
                if name in self._once:
                    return
                self._once.add(name)
            case "X-REQUEST-ID":
                spelling = "X-Upstream-Request-ID"
            case "X-ACCEL-BUFFERING":
                self._has_buffering = True
        self.passed.append((spelling, value))

    def finished(self) -> AnswerFields:
        passed = self.passed
        if self._named:
            gone = self._named - {"CONTENT-LENGTH", "X-REQUEST-ID", "DATE"}
            passed = [field for field in passed if field[0].upper() not in gone]
        if self.is_event_stream:
            if self._has_buffering:
                passed = [field for field in passed if field[0].upper() != "X-ACCEL-BUFFERING"]
            passed.append(("X-Accel-Buffering", "no"))
        return AnswerFields(passed, self.is_event_stream)
