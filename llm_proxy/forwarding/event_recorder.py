"""Events of exchanges: a tap on each, and one event at its end (accounting table, column Event)."""

import logging
from collections.abc import Sequence

from llm_proxy.accounting.outcomes import Row
from llm_proxy.errors import EventBusUnavailable
from llm_proxy.events.capture import OFF, Capture, CaptureLimits
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.unseen import UNSEEN, Unseen
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.taps import Tap

_BROKEN = frozenset(("upstream_aborted", "client_disconnect", "revoked", "cut", "proxy_shutdown", "proxy_error"))
_log = logging.getLogger(__name__)


class EventRecorder:
    """Makes events of exchanges.

    Args:
        is_required: LLM_PROXY_EVENTS_REQUIRED.
        own_secrets: Management tokens, which clients may send by mistake.
    """

    def __init__(
        self,
        publisher: Publisher,
        limits: CaptureLimits,
        *,
        is_required: bool,
        own_secrets: Sequence[str | None] = (),
    ) -> None:
        self._publisher, self._limits = publisher, limits
        self._is_required, self._own_secrets = is_required, own_secrets

    def tap(self, exchange: Exchange) -> Tap:
        """Return the tap of an exchange that is about to be dispatched. Nothing is kept where nothing would read it.

        Raises:
            EventBusUnavailable: Its event might be lost, and must not be.
        """
        if self._is_required and self._publisher.is_full:
            raise EventBusUnavailable
        privacy = exchange.known_token.project.event_privacy
        if privacy == OFF:
            return UNSEEN
        if not self._publisher.has_observers:
            exchange.event = UNSEEN
            return UNSEEN
        request, values = exchange.request, exchange.request.values
        event = exchange.event = Capture(
            self._limits,
            method=request.method,
            path=request.path,
            request_id=request.request_id,
            started_at_s=request.received_at,
            request_type=values.get("CONTENT-TYPE"),
            request_encoding=request.content_encoding,
            privacy=privacy,
        )
        return event

    def report(self, exchange: Exchange, row: Row, failure: BaseException | None) -> None:
        """Queue the event of an exchange that has ended. Neither waits nor raises."""
        event = exchange.event
        if row.event is None or event is None:
            return
        if isinstance(event, Unseen):
            self._publisher.unseen()
            return
        try:
            self._record(exchange, event, row.event, getattr(failure, "cause", None))
        except Exception:
            _log.exception("an event was not made", extra={"request_id": exchange.request.request_id})

    def _record(self, exchange: Exchange, capture: Capture, outcome: str, cause: str | None) -> None:
        request, token, timing, lane = exchange.request, exchange.known_token, exchange.timing, exchange.lane
        head_s, received_s = timing.response_started_s, request.received_s
        capture.finish(
            status=exchange.final_status,
            outcome=outcome,
            duration_ns=int((timing.ended_s - received_s) * 1e9),
            secrets=(*lane.credentials.presented(request), lane.key_of(token.project)),
            own_secrets=self._own_secrets,
            is_complete=exchange.status is None or outcome not in _BROKEN,
            time_to_first_byte_ns=int((head_s - received_s) * 1e9) if head_s else None,
            project_id=token.project_id,
            token_id=token.id,
            provider=lane.provider.name,
            error=cause,
            usage=exchange.usage.counted if exchange.usage is not None else None,
        )
        self._publisher.offer(capture)
