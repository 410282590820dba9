"""Back end `otlp`: a span an exchange over OTLP/HTTP, with OpenTelemetry's own exporter (docs/events.md, "OTLP").

Names are those of the semantic conventions for generative AI. Needs the extra `llm-proxy[otlp]`.
"""

import hashlib
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from llm_proxy import __version__
from llm_proxy.dispatcher.backends.base import DELIVERED, BackendConfig, Result
from llm_proxy.dispatcher.backends.http import HttpClient, Reply
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.formats.streams.base import as_dict, as_list, as_text

_SCOPE = InstrumentationScope("llm_proxy", __version__)
_OPERATIONS = (
    ("/chat/completions", "chat"),
    ("/responses", "chat"),
    ("/messages", "chat"),
    ("/completions", "text_completion"),
    ("/embeddings", "embeddings"),
    ("/images/", "generate_content"),
    ("/runs", "invoke_agent"),
)
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}


class _Refused(Exception):
    """A status that is no success; keeps the exporter from trying again by itself."""


class _Witness(requests.Session):
    """A session that remembers how its last call went: the exporter tells only that it failed."""

    last = Reply(0, error="no call was made")

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send, remember, and raise for what is no success."""
        self.last = Reply(0, error="no response")
        options["allow_redirects"] = False  # the exporter's default differs by version; prompts stay with the endpoint
        request.headers["User-Agent"] = f"llm-proxy-dispatcher/{__version__}"
        try:
            response = super().send(request, **options)
        except (requests.exceptions.RequestException, OSError) as exc:
            self.last = Reply(
                0, error="timeout" if isinstance(exc, requests.exceptions.Timeout) else type(exc).__name__
            )
            raise
        self.last = Reply(response.status_code, b"", response.headers)
        if not self.last.is_success:
            raise _Refused(f"HTTP {response.status_code}")
        return response


class OtlpBackend:
    """Exports spans in batches to a collector."""

    default_endpoint: ClassVar[str] = "http://localhost:4318/v1/traces"
    needs_key: ClassVar[bool] = False
    is_http: ClassVar[bool] = True

    def __init__(self, config: BackendConfig) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # this module says what failed
        self._resource = Resource.create({"service.name": "llm-proxy", "service.version": __version__})
        client = HttpClient(config.api_key, config.timeout_s)
        self._session = _Witness()
        self._session.auth = client.session.auth
        self._exporter: Any = OTLPSpanExporter(
            endpoint=config.endpoint, timeout=config.timeout_s, session=self._session
        )
        self._config = config

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """One export."""
        if not payloads:
            return []
        spans = [self._span(payload) for payload in payloads]
        try:
            is_done = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except _Refused:
            is_done = False
        self._config.progress()
        if is_done:
            return [DELIVERED] * len(payloads)
        return [self._session.last.result(is_whole=True)] * len(payloads)

    def _span(self, payload: Payload) -> ReadableSpan:
        trace_id, span_id = _ids(payload.run_id)
        operation = operation_of(payload.path)
        return ReadableSpan(
            name=f"{operation} {payload.name}" if payload.name else operation,
            context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)),
            resource=self._resource,
            attributes=attributes_of(payload),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, payload.error) if payload.is_error else Status(StatusCode.UNSET),
            start_time=_nanoseconds(payload.started_at),
            end_time=max(_nanoseconds(payload.ended_at), _nanoseconds(payload.started_at)),
            instrumentation_scope=_SCOPE,
        )

    def reopen(self) -> None:
        """Nothing to reopen."""

    def close(self) -> None:
        """Close exporter and connections."""
        self._exporter.shutdown()
        self._session.close()


def operation_of(path: str) -> str:
    """`gen_ai.operation.name` of an API path."""
    return next((name for part, name in _OPERATIONS if part in path), "generate_content")


def attributes_of(payload: Payload) -> dict[str, Any]:
    """Return the span's attributes; what is unknown is left out."""
    usage = payload.usage
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation_of(payload.path),
        "gen_ai.provider.name": payload.provider,
        "gen_ai.request.model": as_text(payload.request.get("model")) or None,
        "gen_ai.response.model": as_text(payload.response.get("model")) or None,
        "gen_ai.response.id": as_text(payload.response.get("id")) or None,
        "gen_ai.response.finish_reasons": _finish_reasons(payload.response) or None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage and usage.cached_tokens else None,
        "gen_ai.input.messages": to_json(payload.input).decode() if payload.has_input else None,
        "gen_ai.output.messages": to_json(payload.output).decode() if payload.has_output else None,
        "http.request.method": payload.method or None,
        "http.response.status_code": payload.status or None,
        "url.path": payload.path or None,
        "error.type": (str(payload.status) if payload.status >= 400 else payload.outcome) if payload.is_error else None,
        "user.id": payload.user_id,
        "llm_proxy.request_id": payload.request_id or None,
        "llm_proxy.run_id": payload.run_id,
        "llm_proxy.project_id": payload.project_id,
        "llm_proxy.token_id": payload.token_id,
        "llm_proxy.outcome": payload.outcome,
        "llm_proxy.time_to_first_byte_ms": payload.ttfb_ms,
    }
    for name, attribute in _PARAMETERS.items():
        value = payload.request.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[f"gen_ai.request.{attribute}"] = value
    return {name: value for name, value in found.items() if value is not None}


def _finish_reasons(response: dict[str, Any]) -> list[str]:
    reasons = [as_text(as_dict(choice).get("finish_reason")) for choice in as_list(response.get("choices"))]
    return [reason for reason in (*reasons, as_text(response.get("stop_reason"))) if reason]


def _ids(run_id: str) -> tuple[int, int]:
    """Trace and span ids that are the same at each delivery of an event, so that a duplicate can be recognised."""
    try:
        trace_id = uuid.UUID(run_id).int
    except ValueError:
        trace_id = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:16], "big")
    span_id = int.from_bytes(hashlib.sha256(b"span" + run_id.encode()).digest()[:8], "big")
    return trace_id or 1, span_id or 1


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
