"""A tap on an exchange: it keeps references to bytes that pass by, and makes an event of them after the last one.

Nothing here changes, delays or re-frames a byte, and no fault of its own reaches the exchange. A chunk costs an
append; joining and masking wait for `finish`, decoding and JSON for the publisher's own greenlet.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llm_proxy.events.event import MAX_PATH_CHARACTERS, TAIL_BYTES, Event
from llm_proxy.events.secrets import Secrets
from llm_proxy.runtime.clock import at_epoch
from llm_proxy.runtime.ids import uuid7
from llm_proxy.runtime.known_names import has_room
from llm_proxy.settings import EventSettings

FULL, OFF = "full", "off"  # of projects.event_privacy; the third is "metadata"
DEFAULT_REQUEST_BYTES = 65536  # a cap of 0 or less means this
DEFAULT_RESPONSE_BYTES = 262144
_BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))
_SLACK_BYTES = 512  # kept past a cap, so that a secret that straddles it is still recognised
_TEXTUAL = re.compile(r"application/(?:[\w.+-]+\+)?(?:json|x-ndjson|jsonl|x-www-form-urlencoded)|text/", re.IGNORECASE)
_BINARY = re.compile(r"(?:audio|image|video)/|application/octet-stream", re.IGNORECASE)
_DROPPED = frozenset(("set-cookie", "set-cookie2", "authorization", "proxy-authenticate", "x-api-key"))
_SECRET_NAME = re.compile(r"token|secret|api-?key")
_names: dict[str, str | None] = {}

log = logging.getLogger(__name__)

Fields = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """What of a body is kept. `has_bodies` False: nothing, whatever a project says."""

    request_bytes: int = DEFAULT_REQUEST_BYTES
    response_bytes: int = DEFAULT_RESPONSE_BYTES
    has_bodies: bool = True

    @classmethod
    def from_settings(cls, settings: EventSettings) -> "CaptureLimits":
        """Return the limits of the OBSERVABILITY_* variables."""
        request, response = (
            settings.max_request_body_bytes,
            settings.max_response_body_bytes,
        )
        return cls(
            request_bytes=request if request > 0 else DEFAULT_REQUEST_BYTES,
            response_bytes=response if response > 0 else DEFAULT_RESPONSE_BYTES,
            has_bodies=settings.capture_bodies == "all",
        )


class _Tap:
    """The first `cap` bytes of a body and, past them, its last 16 KiB; by reference, but for the chunk at the cap."""

    __slots__ = ("_head", "_room", "_tail", "_tail_bytes", "_tail_room", "cap", "total")

    def __init__(self, cap: int, tail: int) -> None:
        self.cap = cap
        self._head: list[bytes] = []
        self._room = cap + _SLACK_BYTES if cap else 0
        self._tail: deque[bytes] | None = None
        self._tail_bytes = 0
        self._tail_room = tail + _SLACK_BYTES if tail else 0
        self.total = 0

    def append(self, chunk: bytes) -> None:
        """Keep what there is room for."""
        size = len(chunk)
        self.total += size
        if self._room:
            if size <= self._room:
                self._head.append(chunk)
                self._room -= size
                return
            self._head.append(bytes(chunk[: self._room]))
            chunk, self._room = chunk[self._room :], 0
        if self._tail_room:
            self._append_tail(chunk)

    def _append_tail(self, chunk: bytes) -> None:
        if len(chunk) > self._tail_room:
            chunk = bytes(chunk[-self._tail_room :])
        if self._tail is None:
            self._tail = deque()
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes - len(self._tail[0]) >= self._tail_room:
            self._tail_bytes -= len(self._tail.popleft())

    def head(self, secrets: "Secrets") -> bytes:
        """Return the body as far as it is kept, masked and then cut to the cap exactly."""
        return secrets.hide(b"".join(self._head))[: self.cap]

    def tail(self, secrets: "Secrets", size: int = TAIL_BYTES) -> bytes:
        """Return the body's last bytes, masked."""
        kept = b"".join(self._tail or ())
        if len(kept) < size + _SLACK_BYTES:
            kept = b"".join(self._head)[-(size + _SLACK_BYTES - len(kept)) :] + kept
        return secrets.hide(kept)[-size:]

    @property
    def is_cut(self) -> bool:
        """Whether the body was longer than the cap."""
        return self.total > self.cap

    @property
    def keeps_tail(self) -> bool:
        """Whether the end of the body is kept."""
        return self._tail_room > 0

    def let_go(self) -> None:
        """Forget the pieces; the counts stay."""
        self._head, self._tail = [], None


class _Joined:
    """Fields that wait for the end of a long response: as one text they take a third of the memory, 3 KiB less each."""

    __slots__ = ("_text",)

    def __init__(self, fields: Fields) -> None:
        self._text = "\n".join([part for field in fields for part in field])  # no field holds a line end

    def __iter__(self) -> Iterator[tuple[str, str]]:
        parts = iter(self._text.split("\n"))
        return zip(parts, parts, strict=True)


_NO_SECRETS = Secrets(())


class Capture:
    """The tap of one exchange. Feed it, call `finish` once, and offer it: it makes the event when its turn has come.

    Every method is safe to call in any state, and none raises.

    Args:
        privacy: The project's `event_privacy`. `off`: nothing is kept and there is no event.
        request_type: `Content-Type` of the request, as sent.
        started_at_s: When the request was accepted, in seconds since 1970.
    """

    __slots__ = (
        "_body",
        "_facts",
        "_is_complete",
        "_method",
        "_path",
        "_request",
        "_request_body",
        "_request_encoding",
        "_request_id",
        "_request_type",
        "_response",
        "_response_fields",
        "_secrets",
        "_started_at_s",
        "_tail",
        "_usage",
        "held_bytes",
        "is_off",
    )

    def __init__(
        self,
        limits: CaptureLimits,
        *,
        method: str,
        path: str,
        request_id: str,
        started_at_s: float,
        request_type: str | None = None,
        request_encoding: str | None = None,
        privacy: str = FULL,
    ) -> None:
        self.is_off = privacy == OFF
        self.held_bytes = 0
        has_bodies = limits.has_bodies and privacy == FULL
        self._method, self._path, self._request_id, self._started_at_s = method, path, request_id, started_at_s
        self._request_type, self._request_encoding = request_type, request_encoding
        keeps_request = has_bodies and method in _BODY_METHODS and (not request_type or _TEXTUAL.match(request_type))
        self._request = _Tap(limits.request_bytes if keeps_request else 0, 0)
        self._response = _Tap(limits.response_bytes if has_bodies else 0, 0 if self.is_off else TAIL_BYTES)
        self._response_fields: Fields = ()
        self._request_body: bytes | None = None
        self._body: bytes | None = None
        self._tail: bytes | None = None
        self._is_complete = True
        self._facts: dict[str, Any] = {}
        self._secrets = _NO_SECRETS
        self._usage: Callable[[], dict[str, int] | None] | None = None

    def request_data(self, chunk: bytes) -> None:
        """Keep a piece of the request's content that went to the provider."""
        self._request.append(chunk)

    def request_rest(self, size: int) -> None:
        """So many more bytes of the request's content went there, which no tap keeps."""
        self._request.total += size

    @property
    def request_room(self) -> int:
        """How many bytes of the request's content are of use."""
        return self._request._room

    def response_started(self, status: int | None, fields: Fields) -> Callable[[bytes], None]:
        """Take the response's fields, as the client gets them; return what gets each piece of its content."""
        self._note_fields(fields)
        return self.response_data

    def _note_fields(self, fields: Fields) -> None:
        """Decide by the content's type whether it is kept."""
        self._response_fields = fields
        for name, value in fields:
            if len(name) == 12 and name.lower() == "content-type":
                if _BINARY.match(value):
                    self._response = _Tap(0, 0)
                elif value.startswith("text/event-stream"):
                    self._response_fields = _Joined(fields)
                return

    def response_data(self, chunk: bytes) -> None:
        """Keep a piece of the response's content that went to the client."""
        self._response.append(chunk)

    def finish(
        self,
        *,
        status: int,
        outcome: str,
        duration_ns: int,
        secrets: Iterable[str | None] = (),
        own_secrets: Iterable[str | None] = (),
        is_complete: bool = True,
        time_to_first_byte_ns: int | None = None,
        project_id: str | None = None,
        token_id: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        event_id: str = "",
        usage: Callable[[], dict[str, int] | None] | None = None,
    ) -> None:
        """End the exchange: note its facts, mask what was kept, release the rest.

        Args:
            status: As sent to the client, or as the accounting table says for one that left.
            secrets: The caller's token and the provider's key, in clear.
            own_secrets: The management tokens, in clear.
            is_complete: False when the response was broken off: `ResponseTruncated`.
            error: Why the provider was not reached: host and cause.
            event_id: Default: a new UUIDv7.
            usage: Tells what the exchange used, when the event is made.
        """
        self._facts = {
            "status": status,
            "outcome": outcome,
            "duration_ns": duration_ns,
            "time_to_first_byte_ns": time_to_first_byte_ns,
            "project_id": project_id,
            "token_id": token_id,
            "provider": provider,
            "error": error,
            "event_id": event_id,
        }
        self._is_complete, self._usage = is_complete, usage
        self._secrets = Secrets(secrets, own_secrets)
        try:
            self._mask()
        except Exception:
            log.warning("events: capturing an exchange failed", exc_info=True)
        kept = sum(len(part) for part in (self._request_body, self._body, self._tail) if part)
        self.held_bytes = 1024 + kept * 4 // 3

    def _mask(self) -> None:
        """Mask secrets, so that the queue holds none."""
        hidden, request, response = self._secrets, self._request, self._response
        if request.cap:
            self._request_body = request.head(hidden)
        if response.cap:
            self._body = response.head(hidden)
            if response.is_cut:
                self._tail = response.tail(hidden)
        elif response.total and response.keeps_tail:
            self._tail = response.tail(hidden)
        request.let_go()
        response.let_go()

    def event(self) -> Event:
        """Return the event. A fault in making it costs the fields and bodies alone."""
        facts = self._facts
        facts["event_id"] = facts["event_id"] or uuid7(self._started_at_s)
        event = Event(
            request_id=self._request_id,
            method=self._method,
            path=self._path.partition("?")[0][:MAX_PATH_CHARACTERS],
            started_at=at_epoch(self._started_at_s),
            request_content_type=self._request_type,
            request_content_encoding=self._request_encoding,
            response_truncated=not self._is_complete,
            **facts,
        )
        try:
            event.response_headers = end_to_end(self._response_fields, self._secrets)
            event.usage = self._usage() if self._usage is not None else None
            self._add_bodies(event)
            self._secrets.clean(event)
        except Exception:
            log.warning("events: making an event failed", exc_info=True)
            _empty(event)  # what could not be looked at may hold a secret
        return event

    def _add_bodies(self, event: Event) -> None:
        request, response = self._request, self._response
        event.request_body, event.response_body = self._request_body, self._body
        event.request_truncated = request.cap > 0 and request.is_cut
        if response.cap:
            event.response_truncated = event.response_truncated or response.is_cut
            event.response_tail = self._tail
        else:
            event.usage_source = self._tail
        if request.total and (not request.cap or request.is_cut):
            event.request_bytes = request.total
        if response.total and (not response.cap or response.is_cut):
            event.response_bytes = response.total


def _empty(event: Event) -> None:
    event.path, event.request_body, event.response_body, event.response_tail = "/", None, None, None
    event.response_headers, event.request_content_type, event.request_content_encoding = {}, None, None


def end_to_end(fields: Fields, secrets: Secrets) -> dict[str, list[str]]:
    """Canonical name → values, without those that may hold a secret."""
    found: dict[str, list[str]] = {}
    is_clean = secrets.are_absent([value for _, value in fields])  # as nearly always
    for raw, value in fields:
        name = _names[raw] if raw in _names else _canonical(raw)
        if name is None:
            continue
        shown = value if is_clean else _shown(value, secrets)
        if name in found:
            found[name].append(shown)
        else:
            found[name] = [shown]
    return found


def _shown(value: str, secrets: Secrets) -> str:
    """Return a value with each secret masked."""
    value = value if value.isascii() else _decoded(value)
    hide = secrets.hide_spelled_text if "%" in value or "\\" in value else secrets.hide_text
    return hide(value)


def _canonical(raw: str) -> str | None:
    """`Content-Type` for any spelling of it, None for a name that is left out."""
    lowered = raw.lower()
    is_secret = lowered in _DROPPED or (_SECRET_NAME.search(lowered) is not None and "-ratelimit-" not in lowered)
    name = None if is_secret else "-".join(part.capitalize() for part in lowered.split("-"))
    if has_room(raw, _names):
        _names[raw] = name
    return name


def _decoded(value: str) -> str:
    """UTF-8 where the bytes behind WSGI's latin-1 text are that."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
