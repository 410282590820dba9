"""Which row an ending is, and that the rows are the table."""

import gevent
import pytest

from llm_proxy import errors
from llm_proxy.accounting import outcomes
from llm_proxy.accounting.outcomes import Charge, Ending, Row, breaker_verdict, decide, upstream_label

CONNECT = errors.UpstreamConnectError()
BROKEN = errors.UpstreamBroken().at("head", is_sent=True)
STALL = errors.UpstreamTimeout().at("body", is_sent=True)


def cut(reason: str, phase: str = "body", *, is_sent: bool = True) -> errors.UpstreamError:
    """A cut by the proxy."""
    return errors.UpstreamCut(reason).at(phase, is_sent=is_sent)


@pytest.mark.parametrize(
    ("ending", "row"),
    [
        (Ending(True, 200), outcomes.DELIVERED),
        (Ending(True, 302), outcomes.DELIVERED),
        (Ending(True, 429), outcomes.UPSTREAM_4XX),
        (Ending(True, 500), outcomes.UPSTREAM_5XX),
        (Ending(True, None, CONNECT), outcomes.CONNECT_FAILED),
        (Ending(True, None, errors.UpstreamTimeout().at("connect", is_sent=False)), outcomes.CONNECT_FAILED),
        (Ending(True, None, BROKEN), outcomes.BROKE_BEFORE_HEAD),
        (Ending(True, None, errors.UpstreamTimeout().at("head", is_sent=True)), outcomes.TIMED_OUT),
        (Ending(True, 200, STALL), outcomes.STALLED),
        (Ending(True, 200, errors.UpstreamBroken().at("body", is_sent=True)), outcomes.BROKE_OFF),
        (Ending(True, None, cut("client gone", "head"), True), outcomes.GONE_BEFORE_HEAD),
        (Ending(True, None, cut("client gone", "connect", is_sent=False), True), outcomes.GONE_BEFORE_DISPATCH),
        (Ending(True, None, cut("client gone", "send"), True), outcomes.UPLOAD_ENDED),
        (Ending(True, 200, cut("client gone"), True), outcomes.GONE_MID_STREAM),
        (Ending(False, None, errors.ClientGone()), outcomes.GONE_BEFORE_DISPATCH),
        (Ending(False, None, errors.RequestTimeout()), outcomes.BODY_SILENT),
        (Ending(True, None, errors.RequestTimeout()), outcomes.UPLOAD_SILENT),
        (Ending(True, None, errors.ClientGone()), outcomes.UPLOAD_ENDED),
        (Ending(True, None, errors.RequestTooLarge()), outcomes.UPLOAD_TOO_LARGE),
        (Ending(True, 200, cut("drain")), outcomes.DRAIN_CUT),
        (Ending(True, None, gevent.GreenletExit()), outcomes.DRAIN_CUT),
        (Ending(False, None, gevent.GreenletExit()), outcomes.DRAIN_CUT_EARLY),
        (Ending(True, 200, cut("revoked")), outcomes.REVOKED),
        (Ending(True, 200, KeyError()), outcomes.FAULT),
        (Ending(False, None, KeyError()), outcomes.FAULT_BEFORE_DISPATCH),
        (Ending(True, None, errors.UpstreamRequestInvalid()), outcomes.FAULT_BEFORE_DISPATCH),
        (Ending(False, None, errors.ServiceUnavailable(), is_token_known=False), outcomes.PROJECT_REFUSED),
        (Ending(False, None, errors.ServiceUnavailable()), outcomes.UNSETTLED),
    ],
)
def test_an_ending_is_its_row(ending: Ending, row: Row) -> None:
    """Endings in the order of the table."""
    assert decide(ending) is row


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.MethodNotAllowed(), 14),
        (errors.EndpointNotFound(), 14),
        (errors.OriginRequired(), 14),
        (errors.OriginNotAllowed(), 14),
        (errors.RequestTooLarge(), 14),
        (errors.ParamNotAllowed(), 14),
        (errors.UpgradeNotSupported(), 14),
        (errors.InvalidToken(), 15),
        (errors.TokenExpired(), 15),
        (errors.ProjectInactive(), 16),
        (errors.QuotaExhausted(), 17),
        (errors.RateLimitExceeded(), 18),
        (errors.CircuitOpen(), 19),
        (errors.Overloaded(), 19),
        (errors.UpstreamAuthError(), 19),
        (errors.Draining(), 20),
        (errors.ServiceUnavailable(), 23),
        (errors.TokenBudgetExceeded(), 30),
        (errors.TokenIdleExpired(), 30),
        (errors.ModelNotPriced(), 30),
        (errors.EventBusUnavailable(), 30),
        (errors.InsufficientStorage(), 30),
        (errors.LlmProxyError(), 24),
    ],
)
def test_a_refusal_is_its_row_and_charges_nothing(error: errors.LlmProxyError, number: int) -> None:
    """Every refusal is an error and counts as rejected; none has an event."""
    row = decide(Ending(False, None, error))
    assert (row.number, row.charge, row.is_error, row.is_rejected) == (number, Charge.NONE, True, True)
    assert (row.event, row.upstream, row.breaker) == (None, None, "neutral")


def test_each_row_with_an_event_counts_upstream_and_the_other_way_round() -> None:
    """Events and up{…} come from the same rows."""
    assert all((row.event is not None) == (row.upstream is not None) for row in outcomes.TABLE)


def test_each_counted_row_is_in_exactly_one_sum() -> None:
    """R = up + hits + rejected + gone before dispatch."""
    for row in outcomes.TABLE:
        is_hit = row in (outcomes.HIT, outcomes.LOCAL_304)
        ways = (row.upstream is not None) + is_hit + row.is_rejected + (row is outcomes.GONE_BEFORE_DISPATCH)
        assert ways == (1 if row.is_counted or row.number == 26 else 0), row


@pytest.mark.parametrize("served", [outcomes.HIT, outcomes.LOCAL_304, outcomes.REVALIDATED])
def test_a_stored_response_is_its_own_row_whatever_follows(served: outcomes.Row) -> None:
    """Hits and 304s are decided where the response is served; a client that leaves then changes nothing."""
    assert decide(Ending(served is outcomes.REVALIDATED, 304, None, is_client_gone=True, served=served)) is served


def test_a_stale_response_in_an_errors_place_is_no_error() -> None:
    """stale-if-error: the exchange counts as what it was, the client got no error."""
    row = decide(Ending(True, 503, None, is_stale_served=True))
    assert (row.number, row.is_error, row.charge) == (3, False, Charge.KEPT)


def test_only_what_was_sent_is_charged() -> None:
    """A1 to A3: kept where an exchange was begun, returned by a connect failure alone."""
    for row in outcomes.TABLE:
        wanted = Charge.NONE if row.upstream is None else Charge.RETURNED if row.number == 4 else Charge.KEPT
        assert row.charge is wanted, row


@pytest.mark.parametrize(
    ("status", "verdict"), [(500, "reset"), (501, "reset"), (502, "fail"), (503, "fail"), (504, "fail"), (599, "reset")]
)
def test_of_the_providers_errors_three_fail_the_circuit(status: int, verdict: str) -> None:
    """502, 503 and 504 count as failures of the provider."""
    assert breaker_verdict(outcomes.UPSTREAM_5XX, status) == verdict


@pytest.mark.parametrize(("status", "label"), [(200, "2xx"), (404, "4xx"), (599, "5xx"), (999, "5xx")])
def test_the_upstream_label_is_the_status_class(status: int, label: str) -> None:
    """Statuses above 599 count as 5xx: the label is a closed set."""
    assert upstream_label(decide(Ending(True, status)), status) == label
