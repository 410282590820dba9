"""One exchange as one event, and its form on the wire (docs/events.md, "The event").

The wire form is one compact JSON object. It is the `data` field of a stream entry, the element of the list bus and the
record of the spool. Readers ignore what they do not know and do without what an older producer did not write.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from llm_proxy.runtime.clock import parse_rfc3339, rfc3339

SCHEMA_VERSION = 1
MAX_WIRE_BYTES = 1024 * 1024
MAX_PATH_CHARACTERS = 2048
TAIL_BYTES = 16 * 1024
OUTCOMES = (
    "ok",
    "upstream_error",
    "connect_error",
    "upstream_aborted",
    "timeout",
    "client_disconnect",
    "revalidated",
    "revoked",
    "cut",
    "proxy_shutdown",
    "proxy_error",
)  # the accounting table's
_UNNUMBERED = b'{"LogID":0,'


@dataclass(slots=True, kw_only=True)
class Event:
    """What is known about one exchange. Bodies are bytes as forwarded and as sent, so possibly compressed.

    `log_id` 0 means that none was given yet. `request_bytes` and `response_bytes` are the full lengths, given where the
    body is not whole. `usage_source` is the end of a body that itself must not be kept; the wire form has the usage in
    it instead.
    """

    request_id: str
    method: str
    path: str
    status: int
    duration_ns: int = 0
    response_headers: dict[str, list[str]] = field(default_factory=dict)
    request_body: bytes | None = None
    response_body: bytes | None = None
    log_id: int = 0
    schema_version: int = SCHEMA_VERSION
    event_id: str = ""
    started_at: datetime | None = None
    project_id: str | None = None
    token_id: str | None = None
    provider: str | None = None
    outcome: str | None = None
    error: str | None = None
    request_truncated: bool = False
    response_truncated: bool = False
    request_content_type: str | None = None
    request_content_encoding: str | None = None
    time_to_first_byte_ns: int | None = None
    response_tail: bytes | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    usage: dict[str, int] | None = None
    usage_source: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """About what the event weighs on the wire; never less than its bodies do."""
        parts = (self.request_body, self.response_body, self.response_tail, self.usage_source)
        return 1024 + sum(len(part) for part in parts if part) * 4 // 3

    def event(self) -> "Event":
        """Itself: what a queue holds is an event, or something that makes one when its turn has come."""
        return self

    def header(self, name: str) -> str:
        """Return a response field's first value, by its name in any case; empty when absent."""
        usual = self.response_headers.get(name)
        if usual:
            return usual[0]
        wanted, size = name.lower(), len(name)
        for known, values in self.response_headers.items():
            if len(known) == size and known.lower() == wanted and values:
                return values[0]
        return ""

    def to_wire(self) -> bytes:
        """Compact JSON, at most 1 MiB: bodies are cut again where odd caps let them grow beyond it."""
        wire = orjson.dumps(self._to_object())
        if len(wire) > MAX_WIRE_BYTES:
            self._shrink(len(wire) - MAX_WIRE_BYTES)
            wire = orjson.dumps(self._to_object())
        return wire

    def _to_object(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "LogID": self.log_id,
            "RequestID": self.request_id,
            "Method": self.method,
            "Path": self.path[:MAX_PATH_CHARACTERS],
            "Status": self.status,
            "Duration": self.duration_ns,
            "ResponseHeaders": self.response_headers,
            "RequestBody": _to_base64(self.request_body),
            "ResponseBody": _to_base64(self.response_body),
            "schema_version": self.schema_version,
            "EventID": self.event_id,
            "Timestamp": _to_rfc3339(self.started_at),
            "ProjectID": self.project_id,
            "TokenID": self.token_id,
            "Provider": self.provider,
            "Outcome": self.outcome,
            "RequestTruncated": self.request_truncated,
            "ResponseTruncated": self.response_truncated,
            "RequestContentType": self.request_content_type,
            "RequestContentEncoding": self.request_content_encoding,
            "TimeToFirstByte": self.time_to_first_byte_ns,
        }
        if self.response_tail is not None:
            found["ResponseTail"] = _to_base64(self.response_tail)
        for name, value in (
            ("Error", self.error),
            ("RequestBytes", self.request_bytes),
            ("ResponseBytes", self.response_bytes),
            ("Usage", self.usage),
        ):
            if value is not None:
                found[name] = value
        return found

    def _shrink(self, excess: int) -> None:
        """Take `excess` bytes of JSON, and room for the fields that say so, from the longer body first."""
        excess += 512 + (0 if self.response_tail is not None else TAIL_BYTES * 4 // 3 + 64)
        request, response = self.request_body or b"", self.response_body or b""
        cut = -(-excess // 4) * 3
        from_response = min(len(response), max(cut - len(request), cut if len(response) >= len(request) else 0))
        if from_response:
            self.response_bytes = self.response_bytes or len(response)
            if self.response_tail is None:
                self.response_tail = response[-TAIL_BYTES:]
            self.response_body, self.response_truncated = response[: len(response) - from_response], True
        from_request = min(len(request), max(0, cut - from_response))
        if from_request:
            self.request_bytes = self.request_bytes or len(request)
            self.request_body, self.request_truncated = request[: len(request) - from_request], True

    @classmethod
    def from_wire(cls, wire: bytes) -> "Event":
        """Read any producer's event. Raises ValueError when it is no JSON object; odd fields count as absent."""
        found = orjson.loads(wire)
        if not isinstance(found, dict):
            raise ValueError("an event is a JSON object")
        return cls(
            log_id=_integer(found.get("LogID")) or 0,
            request_id=_text(found.get("RequestID")) or "",
            method=_text(found.get("Method")) or "",
            path=_text(found.get("Path")) or "",
            status=_integer(found.get("Status")) or 0,
            duration_ns=_integer(found.get("Duration")) or 0,
            response_headers=_headers(found.get("ResponseHeaders")),
            request_body=_from_base64(found.get("RequestBody")),
            response_body=_from_base64(found.get("ResponseBody")),
            schema_version=_integer(found.get("schema_version")) or 0,
            event_id=_text(found.get("EventID")) or "",
            started_at=_from_rfc3339(found.get("Timestamp")),
            project_id=_text(found.get("ProjectID")),
            token_id=_text(found.get("TokenID")),
            provider=_text(found.get("Provider")),
            outcome=_text(found.get("Outcome")),
            error=_text(found.get("Error")),
            request_truncated=found.get("RequestTruncated") is True,
            response_truncated=found.get("ResponseTruncated") is True,
            request_content_type=_text(found.get("RequestContentType")),
            request_content_encoding=_text(found.get("RequestContentEncoding")),
            time_to_first_byte_ns=_integer(found.get("TimeToFirstByte")),
            response_tail=_from_base64(found.get("ResponseTail")),
            request_bytes=_integer(found.get("RequestBytes")),
            response_bytes=_integer(found.get("ResponseBytes")),
            usage=_counts(found.get("Usage")),
        )


def number(wire: bytes, log_id: int) -> bytes:
    """Return the wire form with its LogID set, where it has none yet; nothing else is touched."""
    if not wire.startswith(_UNNUMBERED):
        return wire
    return b'{"LogID":%d,%b' % (log_id, wire[len(_UNNUMBERED) :])


def _to_base64(body: bytes | None) -> str | None:
    return None if body is None else base64.b64encode(body).decode("ascii")


def _from_base64(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value)
    except ValueError:
        return None


def _to_rfc3339(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)


def _from_rfc3339(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_rfc3339(value)
    except ValueError:
        return None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _headers(value: object) -> dict[str, list[str]]:
    if not isinstance(value, Mapping):
        return {}
    return {
        name: [item for item in (values if isinstance(values, list) else [values]) if isinstance(item, str)]
        for name, values in value.items()
        if isinstance(name, str)
    }


def _counts(value: object) -> dict[str, int] | None:
    if not isinstance(value, Mapping):
        return None
    return {name: count for name, count in value.items() if _integer(count) is not None}
