"""The accounting table as data, and the one function that finds an exchange's row in it.

A request is charged one unit exactly when the proxy starts sending it to the provider, and the unit comes back only if
no byte of it could be sent. Every request ends in one row; what counts follows from the row and nothing else.
docs/reference/behaviour.md shows the same table; a test compares the two.
"""

from dataclasses import dataclass, replace
from enum import Enum

from llm_proxy import errors
from llm_proxy.model.audit_actions import AuditAction

BY_STATUS = "by status"  # the provider's status decides: `up{2xx}`, or whether the breaker fails
BREAKER_STATUSES = frozenset((502, 503, 504))


class Charge(Enum):
    """What becomes of the unit."""

    NONE = "0"  # never taken, or taken and not needed
    KEPT = "+1"
    RETURNED = "+1 −1 = 0"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what a request that ended so counts.

    Attributes:
        number: The row's number in the access line's deprecated field `row`; several entries may share it.
        outcome: What happened, in words.
        charge: Quota and `request_count`.
        is_counted: Whether it is one of the requests (R).
        is_error: Whether it is one of the errors (E).
        upstream: Label of `up{…}`; None when no exchange with the provider was begun.
        is_rejected: Whether `rejected{code}` moves, by the code of the error that was answered.
        disconnect: Phase label of `client_disconnects`.
        event: `Outcome` of the event; None for no event.
        breaker: `unreachable`, `fail`, `broke`, `reset`, `neutral`, or BY_STATUS.
        is_logged: Whether there is an access line.
        audit: Action of the audit record; None for no record.
        is_use: Whether a token that was found usable counts as used: `last_used_at` moves. Not where it was refused for
            its quota, a limit or a budget.
    """

    number: int
    outcome: str
    charge: Charge = Charge.NONE
    is_counted: bool = True
    is_error: bool = False
    upstream: str | None = None
    is_rejected: bool = False
    disconnect: str | None = None
    event: str | None = None
    breaker: str = "neutral"
    is_logged: bool = True
    audit: AuditAction | None = None
    is_use: bool = True

    @property
    def name(self) -> str:
        """Return the ending's name in the access line and the docs, such as `drain_cut`."""
        return _NAMES[self.outcome]


def _refused(number: int, outcome: str, audit: AuditAction | None = None, *, is_use: bool = True) -> Row:
    return Row(number, outcome, is_error=True, is_rejected=True, audit=audit, is_use=is_use)


def _exchange(number: int, outcome: str, upstream: str, event: str, **rest: object) -> Row:
    return Row(number, outcome, **({"charge": Charge.KEPT, "upstream": upstream, "event": event} | rest))  # type: ignore[arg-type]


DELIVERED = _exchange(1, "Upstream 2xx or 3xx, delivered", BY_STATUS, "ok", breaker="reset")
UPSTREAM_4XX = _exchange(2, "Upstream 4xx, passed through", BY_STATUS, "upstream_error", is_error=True, breaker="reset")
UPSTREAM_5XX = _exchange(
    3, "Upstream 5xx, passed through", BY_STATUS, "upstream_error", is_error=True, breaker=BY_STATUS
)
CONNECT_FAILED = _exchange(
    4,
    "Connect failure, or timeout while connecting",
    "connect_error",
    "connect_error",
    charge=Charge.RETURNED,
    is_error=True,
    breaker="unreachable",
)
BROKE_BEFORE_HEAD = _exchange(
    5, "Connection broke after send, before the head", "aborted", "upstream_aborted", is_error=True, breaker="broke"
)
TIMED_OUT = _exchange(6, "Timeout before the first byte", "timeout", "timeout", is_error=True, breaker="fail")
STALLED = _exchange(7, "Timeout in mid-response", "timeout", "upstream_aborted", is_error=True)
BROKE_OFF = _exchange(7, "Upstream broke off in mid-response", "aborted", "upstream_aborted", is_error=True)
GONE_BEFORE_HEAD = _exchange(
    8,
    "Client gone before the first byte, already sent upstream",
    "client_gone",
    "client_disconnect",
    disconnect="before_first_byte",
)
GONE_BEFORE_DISPATCH = Row(9, "Client gone before dispatch, or before a byte was sent", disconnect="before_dispatch")
GONE_MID_STREAM = _exchange(
    10, "Client gone in mid-stream", "client_gone", "client_disconnect", disconnect="mid_stream", breaker="reset"
)
HIT = Row(11, "Cache hit")
LOCAL_304 = Row(12, "Local conditional 304")
REVALIDATED = _exchange(13, "Revalidation, upstream 304", BY_STATUS, "revalidated", breaker="reset")
INVALID = _refused(14, "Refused by validation")
UNAUTHENTICATED = _refused(15, "Authentication refused (401)", AuditAction.TOKEN_ACCESS, is_use=False)
PROJECT_REFUSED = _refused(16, "Project inactive (403), or its state unknown (503)", AuditAction.PROXY_REQUEST)
OVER_QUOTA = _refused(
    17, "Over quota, by the read check or in the race for the last unit", AuditAction.TOKEN_ACCESS, is_use=False
)
OVER_LIMIT = _refused(18, "Window, address or global limit", is_use=False)
NO_WAY_UPSTREAM = _refused(19, "Circuit open, overloaded, or no provider key")
DRAINING = _refused(20, "Proxy draining, new request")
DRAIN_CUT = _exchange(
    22, "Proxy draining, running request cut at the deadline", "aborted", "proxy_shutdown", is_error=True
)
DRAIN_CUT_EARLY = _refused(22, "Proxy draining, cut before dispatch")
UNSETTLED = _refused(23, "Database unavailable at reservation")
FAULT_BEFORE_DISPATCH = _refused(24, "Unexpected exception in the proxy, before dispatch")
FAULT = _exchange(24, "Unexpected exception in the proxy, dispatched", "aborted", "proxy_error", is_error=True)
PREFLIGHT = Row(25, "Preflight", is_counted=False, is_logged=False, is_use=False)
REFUSED_BY_SERVER = Row(
    26, "Refused by the server layer before the head was accepted", is_counted=False, is_rejected=True, is_use=False
)
BODY_SILENT = _refused(27, "Request body silent too long, before dispatch")
UPLOAD_SILENT = _exchange(
    28,
    "Request body silent too long, dispatch begun",
    "client_gone",
    "client_disconnect",
    is_error=True,
    disconnect="before_first_byte",
)
UPLOAD_ENDED = _exchange(
    28,
    "Request body ended early, dispatch begun",
    "client_gone",
    "client_disconnect",
    disconnect="before_first_byte",
)
UPLOAD_TOO_LARGE = _exchange(
    28,
    "Streamed request body passed MAX_REQUEST_SIZE, dispatch begun",
    "client_gone",
    "client_disconnect",
    is_error=True,
)
REVOKED = _exchange(29, "Stream cut because its token was revoked", "aborted", "revoked", is_error=True)
CUT = _exchange(29, "Cut by an operator", "aborted", "cut", is_error=True)
DENIED_LATER = _refused(
    30, "Budget passed (429), idle token (401), model without price (403)", AuditAction.TOKEN_ACCESS, is_use=False
)
REFUSED_LATER = _refused(30, "Not cached (504), no event bus (503), no room to check an upload (507)")
WEBSOCKET = Row(31, "WebSocket ended; its turns are their own exchanges", is_counted=False)

TABLE: tuple[Row, ...] = (
    DELIVERED,
    UPSTREAM_4XX,
    UPSTREAM_5XX,
    CONNECT_FAILED,
    BROKE_BEFORE_HEAD,
    TIMED_OUT,
    STALLED,
    BROKE_OFF,
    GONE_BEFORE_HEAD,
    GONE_BEFORE_DISPATCH,
    GONE_MID_STREAM,
    HIT,
    LOCAL_304,
    REVALIDATED,
    INVALID,
    UNAUTHENTICATED,
    PROJECT_REFUSED,
    OVER_QUOTA,
    OVER_LIMIT,
    NO_WAY_UPSTREAM,
    DRAINING,
    DRAIN_CUT,
    DRAIN_CUT_EARLY,
    UNSETTLED,
    FAULT_BEFORE_DISPATCH,
    FAULT,
    PREFLIGHT,
    REFUSED_BY_SERVER,
    BODY_SILENT,
    UPLOAD_SILENT,
    UPLOAD_ENDED,
    UPLOAD_TOO_LARGE,
    REVOKED,
    CUT,
    DENIED_LATER,
    REFUSED_LATER,
    WEBSOCKET,
)

# Each ending is called as its constant here.
_NAMES = {row.outcome: name.lower() for name, row in tuple(globals().items()) if isinstance(row, Row)}

# Refusals by class, the first that fits; what is not listed is a fault of the proxy.
_REFUSALS: tuple[tuple[type[errors.LlmProxyError], Row], ...] = (
    (errors.TokenIdleExpired, DENIED_LATER),
    (errors.AuthenticationError, UNAUTHENTICATED),
    (errors.ProjectInactive, PROJECT_REFUSED),
    (errors.OriginNotAllowed, INVALID),
    (errors.ProviderNotAllowed, INVALID),
    (errors.ProviderNotConfigured, NO_WAY_UPSTREAM),
    (errors.ModelNotPriced, DENIED_LATER),
    (errors.EndpointNotBudgeted, DENIED_LATER),
    (errors.TokenBudgetExceeded, DENIED_LATER),
    (errors.CostBudgetExceeded, DENIED_LATER),
    (errors.QuotaExhausted, OVER_QUOTA),
    (errors.RateLimitExceeded, OVER_LIMIT),
    (errors.CircuitOpen, NO_WAY_UPSTREAM),
    (errors.Overloaded, NO_WAY_UPSTREAM),
    (errors.UpstreamAuthError, NO_WAY_UPSTREAM),
    (errors.Draining, DRAINING),
    (errors.ServiceUnavailable, UNSETTLED),
    (errors.EventBusUnavailable, REFUSED_LATER),
    (errors.InsufficientStorage, REFUSED_LATER),
    (errors.NotCached, REFUSED_LATER),
    (errors.RequestTimeout, BODY_SILENT),
    (errors.InvalidRequest, INVALID),
)
_CUTS = {"drain": DRAIN_CUT, "closed": DRAIN_CUT, "revoked": REVOKED, "operator": CUT}


@dataclass(slots=True)
class Ending:
    """What is known when an exchange is over.

    Attributes:
        is_dispatched: Whether sending to the provider had begun (the connection's making included).
        status: The provider's status, once its head had arrived.
        failure: What ended it, other than the provider's own end; None for a clean one.
        is_client_gone: Whether the client's connection had been lost when it ended.
        is_token_known: Whether token and project had been looked up.
        served: HIT, LOCAL_304 or REVALIDATED, where the response was a stored one, and WEBSOCKET after a 101; it cannot
            fail any more.
        is_stale_served: A stale response stood in for a provider that failed (stale-if-error): for the client no error.
    """

    is_dispatched: bool = False
    status: int | None = None
    failure: BaseException | None = None
    is_client_gone: bool = False
    is_token_known: bool = True
    served: Row | None = None
    is_stale_served: bool = False


def decide(ending: Ending) -> Row:
    """Return the row of an ending. Total: an unforeseen ending has the row of a proxy error."""
    if ending.served is not None:
        return ending.served
    row = _decide(ending)
    return replace(row, is_error=False) if ending.is_stale_served else row


def _decide(ending: Ending) -> Row:
    if not ending.is_dispatched:
        return _before_dispatch(ending)
    failure = ending.failure
    if failure is None:
        return _delivered(ending.status or 0)
    if isinstance(failure, errors.ClientConnectionError):
        return UPLOAD_SILENT if isinstance(failure, errors.LlmProxyError) else UPLOAD_ENDED
    if isinstance(failure, errors.RequestTooLarge):
        return UPLOAD_TOO_LARGE
    if isinstance(failure, errors.UpstreamRequestInvalid):
        return FAULT_BEFORE_DISPATCH  # the transport refused to write it: nothing has begun
    if isinstance(failure, errors.UpstreamCut):
        return _client_gone(ending, failure) if failure.reason == "client gone" else _CUTS.get(failure.reason, FAULT)
    if ending.is_client_gone:  # both ends broke; the client left first, or no peer is left
        return _client_gone(ending, failure)
    if isinstance(failure, errors.UpstreamError):
        return _upstream_failed(ending, failure)
    return DRAIN_CUT if _is_kill(failure) else FAULT


def refusal(error: BaseException) -> Row:
    """Return the row of an error that was answered before dispatch."""
    for kind, row in _REFUSALS:
        if isinstance(error, kind):
            return row
    return FAULT_BEFORE_DISPATCH


def _before_dispatch(ending: Ending) -> Row:
    failure = ending.failure
    if isinstance(failure, errors.ClientConnectionError) and not isinstance(failure, errors.LlmProxyError):
        return GONE_BEFORE_DISPATCH
    if isinstance(failure, errors.UpstreamCut):
        return GONE_BEFORE_DISPATCH if failure.reason == "client gone" else DRAIN_CUT_EARLY
    if failure is None:
        return FAULT_BEFORE_DISPATCH
    if isinstance(failure, errors.ServiceUnavailable) and not ending.is_token_known:
        return PROJECT_REFUSED
    return DRAIN_CUT_EARLY if _is_kill(failure) else refusal(failure)


def _is_kill(failure: BaseException) -> bool:
    """GreenletExit (the drain's cut) and SystemExit are no `Exception`s; nothing else of that kind arrives here."""
    return not isinstance(failure, Exception)


def _delivered(status: int) -> Row:
    if status < 400:
        return DELIVERED
    return UPSTREAM_4XX if status < 500 else UPSTREAM_5XX


def _client_gone(ending: Ending, failure: BaseException) -> Row:
    if ending.status is not None:
        return GONE_MID_STREAM
    if isinstance(failure, errors.UpstreamError):
        if not failure.is_sent:
            return GONE_BEFORE_DISPATCH  # A2: the client left while the connection was being made
        if failure.phase == "send":
            return UPLOAD_ENDED
    return GONE_BEFORE_HEAD


def _upstream_failed(ending: Ending, failure: errors.UpstreamError) -> Row:
    is_timeout = isinstance(failure, errors.UpstreamTimeout)
    if ending.status is not None:
        return STALLED if is_timeout else BROKE_OFF
    if not failure.is_sent:
        return CONNECT_FAILED
    return TIMED_OUT if is_timeout else BROKE_BEFORE_HEAD


def upstream_label(row: Row, status: int | None) -> str | None:
    """Label of `up{…}`: the row's, or the provider's status class (a status above 599 counts as 5xx)."""
    return f"{min((status or 0) // 100, 5)}xx" if row.upstream == BY_STATUS else row.upstream


def breaker_verdict(row: Row, status: int | None) -> str:
    """`unreachable`, `fail`, `broke`, `reset` or `neutral`: of a provider's 5xx only 502, 503 and 504 are failures."""
    if row.breaker != BY_STATUS:
        return row.breaker
    return "fail" if status in BREAKER_STATUSES else "reset"
