"""The end of an exchange: what it took is given back, and it is counted, logged and audited; once, however it ended.

Which row of the accounting table an ending is, and what that row counts, is `accounting.outcomes`' business alone.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from llm_proxy import logs, metrics
from llm_proxy.accounting.outcomes import (
    HIT,
    LOCAL_304,
    Charge,
    Ending,
    Row,
    breaker_verdict,
    decide,
    moves_last_used,
    upstream_label,
)
from llm_proxy.errors import ClientConnectionError, LlmProxyError, UpstreamCut, UpstreamError
from llm_proxy.forwarding.breaker import Circuit, Slots
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.stamps import Stamps

if TYPE_CHECKING:
    from llm_proxy.accounting.admission import Admission, Unit
    from llm_proxy.events.capture import Capture
    from llm_proxy.forwarding.caching import CacheUse
    from llm_proxy.forwarding.inspection import Body
    from llm_proxy.model.token import TokenSnapshot
    from llm_proxy.usage.meter import Metered

CLIENT_CLOSED_STATUS = 499  # nobody sees it but the log and the event
_log = logging.getLogger(__name__)


class UpstreamExchange(Protocol):
    """The transport's hold on a running exchange."""

    def cut(self, reason: str) -> None:
        """End it in any phase; safe in the hub, any number of times."""


class Refusals(Protocol):
    """Who is told of refusals that are audited; must neither wait nor raise."""

    def __call__(self, settlement: "Settlement", row: Row, error: BaseException) -> None:
        """A request ended in a row that has an audit record."""


class EventSink(Protocol):
    """Who is told of exchanges; must neither wait nor raise."""

    def __call__(self, settlement: "Settlement", row: Row, status: int) -> None:
        """An exchange ended in a row that has an event; `status` is what the access line says."""


class Books:
    """What the exchanges of a worker share.

    Args:
        admission: Takes and returns units.
        circuit: The way to the provider.
        slots: Exchanges at once.
        access: The access log.
        refusals: Audits what was refused; None: nothing is audited.
        events: Gets finished exchanges; None: nobody is told.
        metered: Gets what is known of the use of charged ones, to be read later; None: nobody counts it.
    """

    def __init__(
        self,
        admission: "Admission",
        *,
        circuit: Circuit,
        slots: Slots,
        access: logs.AccessLog,
        refusals: Refusals | None = None,
        events: EventSink | None = None,
        metered: "Callable[[Metered], None] | None" = None,
    ) -> None:
        self.admission, self.circuit, self.slots, self.access = admission, circuit, slots, access
        self.refusals, self.events, self.metered = refusals, events, metered
        self.live: set[Settlement] = set()
        self.open_streams = 0

    def cut(self, reason: str) -> None:
        """End every exchange that runs; `drain` at the drain's end. Each settles itself as its wait ends."""
        for settlement in list(self.live):
            settlement.cut(reason)

    def streaming_tokens(self) -> set[str]:
        """Ids of tokens that have live event streams."""
        if not self.open_streams:
            return set()
        return {settlement.token.id for settlement in self.live if settlement.is_stream and settlement.token}

    def cut_streams_of(self, token_id: str) -> None:
        """End the live event streams of a token that was revoked."""
        for settlement in list(self.live):
            if settlement.is_stream and settlement.token is not None and settlement.token.id == token_id:
                settlement.cut("revoked")


class Settlement:
    """One request's account: what it holds, what is known of it, and how it ends.

    Attributes:
        token: Facts of the token, once the bearer was found to be one.
        bearer_hint: What may be shown of the bearer, while it is not known to be a token.
        is_usable: Whether it got past step 12 (accounting A4: last_used_at moves).
        unit: The unit taken; None before and after.
        body: The request's, once it was admitted; closed at the end.
        capture: The tap of its event, once it is about to be dispatched.
        metered: The same of its use.
        cache: What it has to do with the response cache; None where there is none.
        served: The row of a stored answer that was served.
        is_stale_served: A stale answer stood in for a provider that failed.
        status: The provider's status, once its head has arrived.
        answered_status: Status that the client was sent.
        stamps: When it passed each point.
    """

    __slots__ = (
        "_books",
        "_cut_reason",
        "_is_over",
        "_upstream",
        "answered_status",
        "bearer_hint",
        "body",
        "cache",
        "capture",
        "has_slot",
        "head_s",
        "is_client_gone",
        "is_dispatched",
        "is_probe",
        "is_stale_served",
        "is_stream",
        "is_usable",
        "metered",
        "request",
        "sent_s",
        "served",
        "stamps",
        "status",
        "token",
        "unit",
    )

    def __init__(self, books: Books, request: ProxyRequest) -> None:
        self._books, self.request = books, request
        self.token: TokenSnapshot | None = None
        self.bearer_hint: str | None = None
        self.unit: Unit | None = None
        self.body: Body | None = None
        self.capture: Capture | None = None
        self.metered: Metered | None = None
        self.cache: CacheUse | None = None
        self.served: Row | None = None
        self.is_stale_served = False
        self.status: int | None = None
        self.answered_status: int | None = None
        self.sent_s = self.head_s = 0.0
        self.stamps = Stamps(int(request.received_at * 1e9))
        self.is_usable = self.is_dispatched = self.is_probe = self.has_slot = False
        self.is_client_gone = self.is_stream = self._is_over = False
        self._upstream: UpstreamExchange | None = None
        self._cut_reason: str | None = None
        books.live.add(self)

    # -- while it runs ------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Step 15: a slot and the circuit's leave. Raises Overloaded, CircuitOpen."""
        self._books.slots.take()
        self.has_slot = True
        self.is_probe = self._books.circuit.enter()

    def take(self) -> None:
        """Step 16: one unit of the token. Raises what Admission.take raises."""
        assert self.token is not None  # step 9 is behind us
        self.unit = self._books.admission.take(self.token)

    def begun(self, upstream: UpstreamExchange) -> None:
        """Step 17: the transport is about to connect. From here on the client's leaving ends the exchange."""
        self._upstream = upstream
        if self._cut_reason is not None:
            upstream.cut(self._cut_reason)
        client = self.request.client
        if client is not None:
            client.on_gone(self._client_gone)

    def dispatched(self) -> None:
        """Sending begins now."""
        self.is_dispatched = True
        self.sent_s = time.monotonic()
        self.stamps.sent_ns = time.time_ns()

    def answered(self, status: int, *, is_stream: bool) -> None:
        """The provider's head has arrived."""
        self.head_s = time.monotonic()
        self.stamps.answered_ns = time.time_ns()
        self.status = self.answered_status = status
        self.is_stream = is_stream
        self._books.open_streams += is_stream
        if self.unit is not None:
            self._books.admission.sent(self.unit)

    def cut(self, reason: str) -> None:
        """End it from outside (hub-safe): `drain`, `revoked`, `client gone`. The first reason counts."""
        if self._cut_reason is None:
            self._cut_reason = reason
        if self._upstream is not None:
            self._upstream.cut(reason)

    def _client_gone(self) -> None:
        self.is_client_gone = True
        self.cut("client gone")

    # -- its end ------------------------------------------------------------------------------------------------------

    def end(self, failure: BaseException | None, sent_bytes: int = 0, is_whole: bool = True) -> None:
        """Settle; later calls do nothing. Never raises: a body that was delivered stays delivered.

        Args:
            failure: What ended it; None for the provider's own end, or a client that took no more.
            sent_bytes: Body bytes that the server took.
            is_whole: False when the body was not read to its end.
        """
        if self._is_over:
            return
        self._is_over = True
        self._books.live.discard(self)
        try:
            cause = self._cause(failure, is_whole)
            if self.cache is not None:
                is_abandoned = isinstance(cause, UpstreamCut | ClientConnectionError)
                self.cache.ended(is_whole=cause is None and is_whole, is_abandoned=is_abandoned)
            self._settle(cause, sent_bytes)
        except Exception:
            _log.exception("an exchange was not settled", extra={"request_id": self.request.request_id})

    def _cause(self, failure: BaseException | None, is_whole: bool) -> BaseException | None:
        """The first cause: a cut of ours shows as whatever the cut made fail first."""
        if isinstance(failure, LlmProxyError | ClientConnectionError):
            return failure
        if self._cut_reason is not None:
            return None if failure is None and is_whole else UpstreamCut(self._cut_reason)
        if failure is None and not is_whole:
            self.is_client_gone = True
            return UpstreamCut("client gone")
        return failure

    def _settle(self, failure: BaseException | None, sent_bytes: int) -> None:
        ended_s = time.monotonic()
        client = self.request.client
        if client is not None:
            self.is_client_gone = self.is_client_gone or client.is_gone
            client.unwatch()
        if self.body is not None and not isinstance(self.body, bytes):
            self.body.close()
        is_known = self.token is not None
        row = decide(
            Ending(
                self.is_dispatched,
                self.status,
                failure,
                self.is_client_gone,
                is_known,
                self.served,
                self.is_stale_served,
            )
        )
        self._give_back(row, failure)
        status = self._final_status(row, failure)
        self._count(row, status, failure, ended_s)
        if self.metered is not None and row.charge is Charge.KEPT and self._books.metered is not None:
            self._books.metered(self.metered)
        if row.event is not None and self._books.events is not None:
            self._books.events(self, row, status)
        if row.audit and failure is not None and self._books.refusals is not None:
            self._books.refusals(self, row, failure)
        if row.is_logged:
            self._log(row, status, failure, sent_bytes, ended_s)

    def _give_back(self, row: Row, failure: BaseException | None) -> None:
        books = self._books
        if self.has_slot:
            books.slots.release()
        if self.is_dispatched or self.is_probe:
            books.circuit.leave(breaker_verdict(row, self.status), is_probe=self.is_probe)
        books.open_streams -= self.is_stream
        unit, self.unit = self.unit, None
        if unit is not None:
            if row.charge is Charge.KEPT:
                if self.status is None:  # else noted when the head arrived
                    books.admission.sent(unit)
            else:
                books.admission.refund(unit)
        elif self.token is not None and (row is HIT or row is LOCAL_304):
            books.admission.hit(self.token)
        elif self.is_usable and self.token is not None and moves_last_used(row):
            books.admission.touch(self.token)  # A4: a token that was good was used, whatever we answered

    def _final_status(self, row: Row, failure: BaseException | None) -> int:
        if self.answered_status is not None and (self.served is not None or self.is_stale_served):
            return self.answered_status
        if self.status is not None:
            return self.status
        if row.disconnect is not None and not row.is_error:
            return CLIENT_CLOSED_STATUS
        if isinstance(failure, LlmProxyError):
            return failure.status
        return self.answered_status or 500

    def _count(self, row: Row, status: int, failure: BaseException | None, ended_s: float) -> None:
        if row.is_counted:
            metrics.REQUESTS.inc()
            if row.is_error:
                metrics.ERRORS.inc()
        if row.is_rejected:
            metrics.rejected(rejection_code(row, failure)).inc()
        if row.disconnect is not None:
            metrics.client_disconnects[row.disconnect].inc()
        total_s = ended_s - self.request.received_s
        metrics.request_duration(self.request.method, status).observe(total_s)
        label = upstream_label(row, self.status)
        if label is not None:
            metrics.upstream_requests[label].inc()
            upstream_s = ended_s - self.sent_s
            metrics.UPSTREAM_DURATION.observe(upstream_s)
            metrics.OWN_DURATION.observe(max(0.0, total_s - upstream_s))
            if self.head_s:
                metrics.FIRST_BYTE.observe(self.head_s - self.request.received_s)

    def _log(self, row: Row, status: int, failure: BaseException | None, sent_bytes: int, ended_s: float) -> None:
        access = self._books.access
        if not access.is_info and status < 500:
            return
        request, token = self.request, self.token
        total_s = ended_s - request.received_s
        upstream_s = ended_s - self.sent_s if self.is_dispatched else 0.0
        fields: dict[str, Any] = {
            "correlation_id": request.correlation_id,
            "upstream_duration_ms": round(upstream_s * 1000, 3),
            "proxy_duration_ms": round((total_s - upstream_s) * 1000, 3),
            "request_bytes": self._received_bytes(),
            "response_bytes": sent_bytes,
            "row": row.number,
        }
        if token is not None:
            fields |= {"project_id": token.project_id, "token_id": token.id, "token": token.hint}
        elif self.bearer_hint is not None:
            fields["token"] = self.bearer_hint
        if failure is not None:
            fields["error"] = error_word(failure)
        access.completed(
            status=status,
            method=request.method,
            path=request.path,
            duration_s=total_s,
            request_id=request.request_id,
            client_ip=request.client_addr,
            fields=fields,
        )

    def _received_bytes(self) -> int:
        if self.body is None or isinstance(self.body, bytes):
            return len(self.body or b"")
        return self.body.received_bytes


def rejection_code(row: Row, failure: BaseException | None) -> str:
    """Label of `rejected{code}`."""
    if isinstance(failure, LlmProxyError) and failure.code and not isinstance(failure, UpstreamError):
        return failure.code
    return "draining" if row.number == 22 else "internal_error"


def error_word(failure: BaseException) -> str:
    """What the access line calls a failure: our code, the reason of a cut, or the class's name; never its text."""
    if isinstance(failure, UpstreamCut):
        return failure.reason.replace(" ", "_")
    if isinstance(failure, UpstreamError):
        return f"{failure.code}:{failure.phase}"
    return failure.code or type(failure).__name__ if isinstance(failure, LlmProxyError) else type(failure).__name__
