"""From an event to a payload (docs/events.md, "What is delivered"). Never raises, however odd the bodies are."""

import base64
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llm_proxy.dispatcher.payload import Payload
from llm_proxy.events.bodies import (
    BINARY,
    JSON,
    MULTIPART,
    STREAM,
    Content,
    request_content,
    response_content,
)
from llm_proxy.events.bus import Entry
from llm_proxy.events.event import Event
from llm_proxy.events.usage import may_use, reading_of, usage_in
from llm_proxy.formats.prompt import read_prompt
from llm_proxy.formats.streams.base import as_dict, as_text
from llm_proxy.formats.tokens import Estimator
from llm_proxy.formats.usage import Usage
from llm_proxy.runtime.clock import at_epoch, utc_now

FAILED = frozenset(("connect_error", "upstream_aborted", "timeout", "revoked", "cut", "proxy_shutdown", "proxy_error"))
_ANTHROPIC_PATHS = ("/v1/messages", "/v1/complete")
_NO_EXTRA = frozenset(("model", "messages", "input", "prompt", "instructions", "user", "stream"))


class Unparsable(Exception):
    """An entry that is no event."""


@dataclass(frozen=True, slots=True)
class Transformer:
    """Makes payloads.

    Args:
        key: The bus's key; with an entry's id it names events of producers that give no id.
        methods: Those whose events are forwarded.
        estimator: None: unknown usage stays unknown.
        is_verbose: Adds the response's fields to the metadata.
        keeps_binary: Adds binary bodies as base64.
    """

    key: str
    methods: Collection[str] = ("POST",)
    estimator: Estimator | None = None
    is_verbose: bool = False
    keeps_binary: bool = False

    def event(self, entry: Entry) -> Event:
        """Return the entry's event. Raises Unparsable."""
        if entry.data is None:
            raise Unparsable("the entry has no field data")
        try:
            return Event.from_wire(entry.data)
        except ValueError as exc:
            raise Unparsable("the entry is no JSON object") from exc

    def wants(self, event: Event) -> bool:
        """Whether events of that method are forwarded."""
        return event.method.upper() in self.methods

    def payload(self, event: Event, entry: Entry) -> Payload:
        """Return the event as it is delivered."""
        request, response = request_content(event), response_content(event)
        asked, body = as_dict(request.value), as_dict(response.value)
        started_at = event.started_at or _started_at(event, entry)
        duration_s = max(0, event.duration_ns) / 1e9
        usage = self._usage(event, response)
        has_failed = event.status >= 400 or event.outcome in FAILED
        payload = Payload(
            run_id=event.event_id or str(uuid.uuid5(uuid.NAMESPACE_OID, self.key + entry.id)),
            log_id=event.log_id,
            kind="embed" if event.path.rstrip("/") == "/v1/embeddings" else "llm",
            name=as_text(body.get("model")) or as_text(asked.get("model")) or None,
            started_at=started_at,
            ended_at=_later(started_at, duration_s),
            ttfb_ms=event.time_to_first_byte_ns / 1e6 if event.time_to_first_byte_ns is not None else None,
            request=asked,
            response=body,
            user_id=as_text(asked.get("user")) or as_text(asked.get("safety_identifier")) or None,
            usage=usage,
            extra={name: value for name, value in asked.items() if name not in _NO_EXTRA and _is_scalar(value)},
            metadata=self._metadata(event, usage is not None and usage.is_estimated),
            method=event.method,
            path=event.path,
            status=event.status,
            outcome=event.outcome,
            provider=event.provider or _provider_of(event.path),
            project_id=event.project_id,
            token_id=event.token_id,
            request_id=event.request_id,
            response_headers=event.response_headers,
            is_error=has_failed or (response.merged is not None and response.merged.is_error),
        )
        payload.error = (event.error or _error_of(payload)) if payload.is_error else ""
        self._put_bodies(payload, event, request, response)
        return payload

    def _put_bodies(self, payload: Payload, event: Event, request: Content, response: Content) -> None:
        is_json = "json" in event.header("Content-Type").lower()
        payload.has_input, payload.input = _shown(request, "request", event.request_content_type, event.request_bytes)
        payload.has_output, payload.output = _shown(
            response, "response", event.header("Content-Type"), event.response_bytes, is_json=is_json
        )
        if self.keeps_binary:
            payload.input_base64, payload.output_base64 = _base64_of(request), _base64_of(response)

    def _usage(self, event: Event, response: Content) -> Usage | None:
        """Return the provider's count, or the proxy's; else an estimate, if estimates are wanted."""
        found = usage_in(event)
        if found is not None and not found.is_estimated:
            return found
        if self.estimator is None or found is not None:
            return found if self.estimator is not None else None
        if not event.status or not may_use(event) or response.kind not in (JSON, STREAM):
            return None
        request = event.request_body or b""
        prompt = read_prompt(request, event.request_content_encoding or "", event.request_bytes or 0)
        found = self.estimator.estimate(reading_of(event), prompt)
        return found if found.total_tokens else None

    def _metadata(self, event: Event, is_estimated: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "method": event.method,
            "path": event.path,
            "status": event.status,
            "duration_ms": event.duration_ns // 1_000_000,
            "request_id": event.request_id,
            "project_id": event.project_id,
            "token_id": event.token_id,
            "provider": event.provider,
            "outcome": event.outcome,
            "error": event.error,
            "truncated": True if event.request_truncated or event.response_truncated else None,
            "tokens_estimated": True if is_estimated else None,
            "ttfb_ms": event.time_to_first_byte_ns // 1_000_000 if event.time_to_first_byte_ns is not None else None,
            "event_id": event.event_id or None,
            "response_headers": event.response_headers if self.is_verbose else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def _shown(
    content: Content, which: str, media_type: str | None, full_bytes: int | None, *, is_json: bool = False
) -> tuple[bool, Any]:
    """Whether there is something to show of a body, and what."""
    match content.kind:
        case "json" | "stream":
            return True, content.value
        case "text":
            return True, content.text
        case "multipart":
            return True, f"<multipart {which} omitted>"
        case "binary":
            return True, "<binary omitted>" if is_json else f"<binary {which} omitted>"
    lowered = (media_type or "").strip().lower()
    if not full_bytes or "json" in lowered or lowered.startswith("text/") or not lowered:
        return False, None  # there was none, or it may not be shown
    return True, f"<multipart {which} omitted>" if lowered.startswith("multipart/") else f"<binary {which} omitted>"


def _base64_of(content: Content) -> str | None:
    return base64.b64encode(content.raw).decode() if content.kind in (BINARY, MULTIPART) else None


def _started_at(event: Event, entry: Entry) -> datetime:
    """Of a producer that gives no time: when the bus took the event, less what the exchange lasted."""
    ended_at = at_epoch(entry.added_at_ms / 1000) if entry.added_at_ms is not None else utc_now()
    return _later(ended_at, -max(0, event.duration_ns) / 1e9)


def _later(at: datetime, seconds: float) -> datetime:
    try:
        return at + timedelta(seconds=seconds)
    except OverflowError:
        return at


def _provider_of(path: str) -> str:
    return "anthropic" if path.startswith(_ANTHROPIC_PATHS) else "openai"


def _error_of(payload: Payload) -> str:
    """Return the response's own words, else its status, else what the proxy says became of it."""
    error = payload.response.get("error")
    message = as_text(as_dict(error).get("message")) or as_text(error)
    return message or (f"HTTP {payload.status}" if payload.status >= 400 else payload.outcome or "error")


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
