"""The end of an exchange: what it took is given back, and the reporters are told; once, however it ended.

Which row of the accounting table an ending is, and what that row counts, is decided in `accounting.outcomes` alone.
"""

import logging
import time
from collections.abc import Callable, Sequence

from llm_proxy.accounting.outcomes import HIT, LOCAL_304, Charge, Ending, Row, breaker_verdict, decide
from llm_proxy.accounting.quota import Quota
from llm_proxy.errors import ClientConnectionError, LlmProxyError, UpstreamCut
from llm_proxy.forwarding import entrance
from llm_proxy.forwarding.exchange import CLIENT_GONE, Exchange, ExchangeRegistry

Reporter = Callable[[Exchange, Row, BaseException | None], None]  # told of each end; must not wait
CLIENT_CLOSED_STATUS = 499  # of a client that left: only log and event show it
_log = logging.getLogger(__name__)


class Settlement:
    """Settles the exchanges of a worker.

    Args:
        registry: The exchanges that run.
        quota: Takes units back.
        reporters: Told of each end, in this order.
    """

    def __init__(
        self,
        registry: ExchangeRegistry,
        *,
        quota: Quota,
        reporters: Sequence[Reporter],
    ) -> None:
        self._registry, self._quota = registry, quota
        self._reporters = tuple(reporters)

    def settle(
        self, exchange: Exchange, failure: BaseException | None, sent_bytes: int = 0, is_whole: bool = True
    ) -> None:
        """Settle an exchange; later calls do nothing. Never raises: a body that was delivered stays delivered.

        Args:
            failure: What ended it; None for the provider's own end, or a client that took no more.
            sent_bytes: Body bytes that the server took.
            is_whole: False when the body was not read to its end.
        """
        if exchange.is_settled:
            return
        exchange.is_settled = True
        self._registry.live.discard(exchange)
        try:
            cause = _cause(exchange, failure, is_whole)
            if exchange.lookup is not None:
                is_abandoned = isinstance(cause, UpstreamCut | ClientConnectionError)
                exchange.lookup.ended(is_whole=cause is None and is_whole, is_abandoned=is_abandoned)
            exchange.response_bytes = sent_bytes
            self._settle(exchange, cause)
        except Exception:
            _log.exception("an exchange was not settled", extra={"request_id": exchange.request.request_id})

    def _settle(self, exchange: Exchange, failure: BaseException | None) -> None:
        exchange.timing.ended_s = time.monotonic()
        exchange.detach()
        row = decide(
            Ending(
                exchange.is_dispatched,
                exchange.status,
                failure,
                exchange.is_client_gone,
                exchange.token is not None,
                exchange.served,
                exchange.is_stale_served,
            )
        )
        self._give_back(exchange, row)
        exchange.final_status = _final_status(exchange, row, failure)
        for report in self._reporters:
            report(exchange, row, failure)

    def _give_back(self, exchange: Exchange, row: Row) -> None:
        entrance.leave(exchange, breaker_verdict(row, exchange.status))
        if exchange.seat is not None:
            exchange.seat.release()
        self._registry.open_streams -= exchange.is_stream
        self._give_back_unit(exchange, row)

    def _give_back_unit(self, exchange: Exchange, row: Row) -> None:
        unit, exchange.unit = exchange.unit, None
        if unit is not None:
            if row.charge is not Charge.KEPT:
                self._quota.release(unit)
            elif exchange.status is None:  # else noted when the header section arrived
                self._quota.commit(unit)
        elif exchange.token is not None:
            if row is HIT or row is LOCAL_304:
                self._quota.count_hit(exchange.token)
            elif exchange.is_usable and row.is_use:
                self._quota.touch(exchange.token)  # a token that was good was used, whatever the response was


def _cause(exchange: Exchange, failure: BaseException | None, is_whole: bool) -> BaseException | None:
    """Return the first cause: a cut from this side shows as whatever the cut made fail first."""
    if isinstance(failure, LlmProxyError | ClientConnectionError):
        return failure
    if exchange.cut_reason is not None:
        return None if failure is None and is_whole else UpstreamCut(exchange.cut_reason)
    if failure is None and not is_whole:
        exchange.is_client_gone = True
        return UpstreamCut(CLIENT_GONE)
    return failure


def _final_status(exchange: Exchange, row: Row, failure: BaseException | None) -> int:
    """Return the status that the client was sent, or the one that stands for an exchange without a response."""
    if exchange.sent_status is not None and (exchange.served is not None or exchange.is_stale_served):
        return exchange.sent_status
    if exchange.status is not None:
        return exchange.status
    if row.disconnect is not None and not row.is_error:
        return CLIENT_CLOSED_STATUS
    if isinstance(failure, LlmProxyError):
        return failure.status
    return exchange.sent_status or 500
