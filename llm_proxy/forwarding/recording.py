"""What becomes of exchanges as events: a tap on each, and one event at its end (accounting table, column Event)."""

import logging
import time
from typing import TYPE_CHECKING

from llm_proxy.errors import EventBusUnavailable
from llm_proxy.events.capture import Capture, CaptureLimits
from llm_proxy.events.publisher import Publisher
from llm_proxy.forwarding.body import HeldBody, StreamedBody
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.usage.meter import Metered, MeteredBody
from llm_proxy.usage.tap import REQUEST_BYTES

if TYPE_CHECKING:
    from llm_proxy.accounting.outcomes import Row
    from llm_proxy.forwarding.settle import Settlement
    from llm_proxy.model.token import TokenSnapshot

_BROKEN = frozenset(("upstream_aborted", "client_disconnect", "revoked", "proxy_shutdown", "proxy_error"))
_log = logging.getLogger(__name__)


class TappedBody:
    """A streamed body whose pieces are captured as they pass."""

    __slots__ = ("_body", "_capture")

    def __init__(self, body: StreamedBody, capture: Capture) -> None:
        self._body, self._capture = body, capture

    def read1(self, n: int, /) -> bytes:
        """The next piece, as the body gives it."""
        data = self._body.read1(n)
        self._capture.request_chunk(data)
        return data


Sendable = bytes | StreamedBody | HeldBody | TappedBody | MeteredBody | None  # what the transport takes


class Recorder:
    """Makes events of exchanges.

    Args:
        provider: Its name in the provider file.
        is_required: LLM_PROXY_EVENTS_REQUIRED.
    """

    def __init__(self, publisher: Publisher, limits: CaptureLimits, *, provider: str, is_required: bool) -> None:
        self._publisher, self._limits = publisher, limits
        self._provider, self._is_required = provider, is_required

    def check(self) -> None:
        """Raises EventBusUnavailable where the event of another exchange might be lost and must not be."""
        if self._is_required and self._publisher.is_full:
            raise EventBusUnavailable

    def begin(self, request: ProxyRequest, token: "TokenSnapshot") -> Capture:
        """The tap of an exchange that is about to be dispatched."""
        values = request.values
        return Capture(
            self._limits,
            method=request.method,
            path=request.path,
            request_id=request.request_id,
            started_at_s=request.received_at,
            request_type=values.get("CONTENT-TYPE"),
            request_encoding=values.get("CONTENT-ENCODING"),
            privacy=token.project.event_privacy,
        )

    def __call__(self, settlement: "Settlement", row: "Row", status: int) -> None:
        """The exchange is over: one event, queued. Neither waits nor raises."""
        try:
            self._record(settlement, row, status)
        except Exception:
            _log.exception("an event was not made", extra={"request_id": settlement.request.request_id})

    def _record(self, settlement: "Settlement", row: "Row", status: int) -> None:
        capture, request, token = settlement.capture, settlement.request, settlement.token
        if capture is None or token is None or row.event is None or capture.is_off:
            return
        head_s = settlement.head_s
        capture.finish(
            status=status,
            outcome=row.event,
            duration_ns=int((time.monotonic() - request.received_s) * 1e9),
            secrets=(_bearer(request), token.project.api_key),
            is_complete=settlement.status is None or row.event not in _BROKEN,
            time_to_first_byte_ns=int((head_s - request.received_s) * 1e9) if head_s else None,
            project_id=token.project_id,
            token_id=token.id,
            provider=self._provider,
        )
        self._publisher.offer(capture)


def tap_request(body: bytes | StreamedBody | HeldBody | None, capture: Capture) -> Sendable:
    """The body to send in place of this one; what is here already is captured at once."""
    if isinstance(body, StreamedBody):
        return TappedBody(body, capture)
    if not isinstance(body, HeldBody):
        if body:
            capture.request_chunk(body)
        return body
    sendable = body.sendable()
    if isinstance(sendable, bytes):
        capture.request_chunk(sendable)
        return sendable
    kept = sendable.read1(capture.request_room) if capture.request_room else b""
    capture.request_chunk(kept)
    capture.request_rest(body.length - len(kept))
    sendable.rewind()
    return sendable


def meter_request(body: Sendable, metered: Metered) -> Sendable:
    """The same for what counts usage: bodies that are here are kept by reference, or their beginning is."""
    if isinstance(body, bytes):
        metered.asked = body
    elif isinstance(body, HeldBody):
        metered.asked = body.read1(REQUEST_BYTES)
        body.rewind()
    elif body is not None:
        return MeteredBody(body, metered)
    return body


def _bearer(request: ProxyRequest) -> str:
    return request.values.get("AUTHORIZATION", "").partition(" ")[2].strip()
