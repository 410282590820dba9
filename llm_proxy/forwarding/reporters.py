"""Reporters of an exchange's end: metrics, the access line, and usage."""

from typing import Any

from llm_proxy import metrics
from llm_proxy.accounting.outcomes import HIT, LOCAL_304, WEBSOCKET, Charge, Row, upstream_label
from llm_proxy.errors import LlmProxyError, UpstreamCut, UpstreamError
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.taps import Tap
from llm_proxy.logs import AccessLog
from llm_proxy.usage.meter import Meter

KEY_REFUSED = frozenset((401, 403))  # a provider's: it is the project's key that it did not take


def report_metrics(exchange: Exchange, row: Row, failure: BaseException | None) -> None:
    """Count an exchange as its row says."""
    if exchange.kind != "request":
        _report_socket(exchange, row)
        if row is WEBSOCKET:
            return
    if row.is_counted:
        metrics.REQUESTS.inc()
        if row.is_error:
            metrics.ERRORS.inc()
    if row.is_rejected:
        metrics.rejected(rejection_code(row, failure)).inc()
    if row.disconnect is not None:
        metrics.client_disconnects[row.disconnect].inc()
    if row is HIT or row is LOCAL_304:
        metrics.CACHE_HITS.inc()
    request, timing = exchange.request, exchange.timing
    total_s = timing.ended_s - request.received_s
    metrics.request_duration(request.method, exchange.final_status).observe(total_s)
    label = upstream_label(row, exchange.status)
    if label is not None:
        metrics.upstream_requests[label].inc()
        if exchange.lane.has_neighbours:
            metrics.provider_requests(exchange.lane.provider.name, label).inc()
        upstream_s = timing.ended_s - timing.sent_s
        metrics.UPSTREAM_DURATION.observe(upstream_s)
        metrics.OWN_DURATION.observe(max(0.0, total_s - upstream_s))
        if timing.response_started_s:
            metrics.FIRST_BYTE.observe(timing.response_started_s - request.received_s)


def _report_socket(exchange: Exchange, row: Row) -> None:
    """Count a turn of a WebSocket, or what a WebSocket has carried."""
    if exchange.kind == "turn":
        is_cut = row.event not in (None, "ok", "upstream_error")
        outcome = "refused" if row.event is None else "cut" if is_cut else "failed" if row.is_error else "ok"
        metrics.ws_turns[outcome].inc()
    elif row is WEBSOCKET:
        metrics.ws_bytes["to_provider"].inc((exchange.details or {}).get("request_bytes", 0))
        metrics.ws_bytes["to_client"].inc(exchange.response_bytes)


class UsageRecorder:
    """Taps exchanges for what they use, and hands the charged ones to the meter.

    Args:
        meter: Counts what exchanges used.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def tap(self, exchange: Exchange) -> Tap:
        """Return the tap of an exchange that is about to be dispatched."""
        request, values = exchange.request, exchange.request.values
        usage = exchange.usage = self._meter.begin(
            exchange.known_token,
            request.method,
            request.path,
            values.get("CONTENT-TYPE"),
            request.content_encoding,
        )
        lane = exchange.lane
        usage.provider = lane.provider.name
        if lane.models is not None:
            usage.path_model = lane.models.of(request.path)
        return usage

    def report(self, exchange: Exchange, row: Row, failure: BaseException | None) -> None:
        """Have what a charged exchange used read later."""
        if exchange.usage is not None and row.charge is Charge.KEPT and exchange.kind != "websocket":
            self._meter.ended(exchange.usage)


class AccessReporter:
    """Writes the access line of an exchange.

    Args:
        access: The access log.
    """

    def __init__(self, access: AccessLog) -> None:
        self._access = access

    def report(self, exchange: Exchange, row: Row, failure: BaseException | None) -> None:
        """Write the line, unless the level of the log hides it."""
        if not row.is_logged:
            return
        if not self._access.is_info and exchange.final_status < 500 and exchange.status not in KEY_REFUSED:
            return
        request, timing = exchange.request, exchange.timing
        total_s = timing.ended_s - request.received_s
        upstream_s = timing.ended_s - timing.sent_s if exchange.is_dispatched else 0.0
        fields: dict[str, Any] = {
            "correlation_id": request.correlation_id,
            "upstream_duration_ms": round(upstream_s * 1000, 3),
            "proxy_duration_ms": round((total_s - upstream_s) * 1000, 3),
            "request_bytes": exchange.received_bytes,
            "response_bytes": exchange.response_bytes,
            "ending": row.name,
            "row": row.number,  # deprecated
        }
        if exchange.details is not None:
            fields |= exchange.details
        self._access.completed(
            status=exchange.final_status,
            method=request.method,
            path=exchange.lane.provider.mount + request.path,
            duration_s=total_s,
            request_id=request.request_id,
            client_ip=request.client_addr,
            fields=fields | _identity(exchange, failure),
            is_warning=exchange.status in KEY_REFUSED,
        )


def _identity(exchange: Exchange, failure: BaseException | None) -> dict[str, Any]:
    """Return the token, and what went wrong."""
    fields: dict[str, Any] = {}
    token = exchange.token
    if token is not None:
        fields = {"project_id": token.project_id, "token_id": token.id, "token": token.hint}
    elif exchange.bearer_hint is not None:
        fields = {"token": exchange.bearer_hint}
    if failure is not None:
        fields["error"] = error_word(failure)
    elif exchange.status in KEY_REFUSED and exchange.is_dispatched:
        fields["error"] = "provider_refused_key"
    if exchange.lane.has_neighbours:
        fields["provider"] = exchange.lane.provider.name
    return fields


def rejection_code(row: Row, failure: BaseException | None) -> str:
    """Return the label of `rejected{code}`."""
    if isinstance(failure, LlmProxyError) and failure.code and not isinstance(failure, UpstreamError):
        return failure.code
    return "draining" if row.number == 22 else "internal_error"


def error_word(failure: BaseException) -> str:
    """Return a failure's name for the access line: why a connection was not made, its code, or its class.

    Never its text, which may be a library's.
    """
    if isinstance(failure, UpstreamCut):
        return failure.reason.replace(" ", "_")
    if isinstance(failure, UpstreamError):
        return failure.cause or f"{failure.code}:{failure.phase}"
    return failure.code or type(failure).__name__ if isinstance(failure, LlmProxyError) else type(failure).__name__
