"""Step 14 of the pipeline, and what follows from it: stored answers, one exchange for many, what answers leave behind.

A request that no stored response may serve costs a look at its method and at one field here.
"""

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

import gevent
from gevent import monkey

from llm_proxy import metrics
from llm_proxy.accounting.outcomes import HIT, LOCAL_304, REVALIDATED
from llm_proxy.cache.capture import Answered, Capture
from llm_proxy.cache.coalesce import WAIT_S, Flight
from llm_proxy.cache.engine import SAFE_METHODS, Inquiry, ResponseCache, Served
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.policy import NO_WISHES, Verdict, Wishes
from llm_proxy.errors import NotCached, UpstreamCut
from llm_proxy.forwarding.body import HeldBody
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.model.token import TokenSnapshot

if TYPE_CHECKING:
    from llm_proxy.forwarding.inspection import Body
    from llm_proxy.forwarding.settle import Settlement

Fields = list[tuple[str, str]]

_BYPASS: Final = (("X-PROXY-CACHE", "bypass"), ("Cache-Status", "llm-proxy; bypass"))
_NOT_AGAIN: Final = frozenset(  # fields that are about one request, and not what a refresh asks
    ("IF-NONE-MATCH", "IF-MODIFIED-SINCE", "IF-RANGE", "RANGE", "CACHE-CONTROL", "PRAGMA", "X-REQUEST-ID")
) | {"X-CORRELATION-ID"}
_log = logging.getLogger(__name__)


class Refresh(Protocol):
    """Makes an exchange behind the scenes, as a request of its own (stale-while-revalidate)."""

    def __call__(self, request: ProxyRequest, token: TokenSnapshot) -> None:
        """Send the request, and wait until its answer was taken in."""


class Reaction:
    """What becomes of the provider's answer: `served` stands in its place, or `capture` collects its body."""

    __slots__ = ("_use", "capture", "reason", "served")

    def __init__(self, use: "CacheUse", answered: Answered, served: Served | None) -> None:
        self._use, self.served = use, served
        self.capture, self.reason = answered.capture, answered.reason

    def is_framed(self, is_framed: bool) -> None:
        """Say whether its body's end is marked by more than the connection's."""
        self._use.is_framed = is_framed


class CacheUse:
    """What one request has to do with the cache. `inquiry` is None for those that bypass it.

    Attributes:
        asked: What the request asks of caches; None: it bypasses them.
        inquiry: Its look-up, once it was made.
        capture: Collects the answer that will be stored.
    """

    __slots__ = ("asked", "capture", "inquiry", "is_framed")

    def __init__(self, asked: Wishes | None) -> None:
        self.asked = asked
        self.inquiry: Inquiry | None = None
        self.capture: Capture | None = None
        self.is_framed = True

    def ended(self, *, is_whole: bool, is_abandoned: bool = False) -> None:
        """The request is over, however it ended: what was captured whole is stored, and those who wait go on.

        `is_abandoned`: its client left, or it was cut; that says nothing of the provider.
        """
        inquiry, capture = self.inquiry, self.capture
        if inquiry is None:
            return
        try:
            store = capture.finish(is_whole=is_whole, is_framed=self.is_framed) if capture is not None else None
            if store is None:
                inquiry.land(is_abandoned=is_abandoned)
            elif inquiry.is_store_local or not monkey.is_module_patched("socket"):
                store()
            else:
                gevent.spawn(store)
        except Exception:
            inquiry.land()
            _log.exception("an answer was not stored")


_PASSES_BY: Final = CacheUse(None)


class _Wait:
    """A wait as the settlement sees an exchange: it can be cut."""

    __slots__ = ("_flight", "reason")

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.reason: str | None = None

    def cut(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._flight.wake()

    def is_cut(self) -> bool:
        return self.reason is not None

    def check(self) -> None:
        """Raises UpstreamCut."""
        if self.reason is not None:
            raise UpstreamCut(self.reason)


class Caching:
    """The cache as the pipeline uses it.

    Args:
        cache: The worker's.
        is_debug: Send X-CACHE-DEBUG.
        wait_s: Longest wait for the exchange of another request.
    """

    def __init__(self, cache: ResponseCache, *, is_debug: bool = False, wait_s: float = WAIT_S) -> None:
        self._cache, self._is_debug, self._wait_s = cache, is_debug, wait_s
        self.refresh: Refresh | None = None

    def begin(self, request: ProxyRequest) -> CacheUse:
        """Before the body is read: whether the cache has to do with it, and so needs its body."""
        method, values = request.method, request.values
        if method == "POST" and "CACHE-CONTROL" not in values:
            return _PASSES_BY
        length = request.content_length
        asked = self._cache.wishes(method, request.fields, values, length)
        return _PASSES_BY if asked is None else CacheUse(asked)

    def look_up(self, settlement: "Settlement", body: "Body | None") -> Served | None:
        """Step 14: a stored answer that may be served now, waited for where others are fetching it.

        Raises:
            NotCached: `only-if-cached`, and there is none.
            UpstreamCut: The client went, or the drain's time was over, while this waited.
        """
        use, request, token = settlement.cache, settlement.request, settlement.token
        if use is None or token is None:
            return None
        if use.asked is None:
            metrics.CACHE_BYPASS.inc()
            return None
        content = _content(body) if request.method == "POST" else None
        inquiry = use.inquiry = self._inquiry(use.asked, request, token, content)
        served = self._find(settlement, inquiry, token)
        if served is not None:
            return served
        (metrics.CACHE_BYPASS if inquiry.is_partial else metrics.CACHE_MISSES).inc()
        if inquiry.only_if_cached:
            raise NotCached
        return None

    @staticmethod
    def hit(settlement: "Settlement", served: Served) -> None:
        """What was found is served: rows 11 and 12."""
        metrics.CACHE_HITS.inc()
        settlement.served = LOCAL_304 if served.is_conditional else HIT

    def _find(self, settlement: "Settlement", inquiry: Inquiry, token: TokenSnapshot) -> Served | None:
        entry, verdict = inquiry.decide()
        if entry is not None and verdict is Verdict.SERVE:
            return inquiry.serve(entry)
        if entry is not None and verdict is Verdict.SERVE_AND_REFRESH and self._refresh(settlement, inquiry, token):
            return inquiry.serve(entry)
        if inquiry.only_if_cached:
            return None
        flight = inquiry.board()
        if flight is None:
            return None
        entry = self._wait(settlement, inquiry, flight)
        return None if entry is None else inquiry.serve(entry)

    def _refresh(self, settlement: "Settlement", inquiry: Inquiry, token: TokenSnapshot) -> bool:
        """Begin to fetch a stale answer anew, unless somebody does already; False where that can't be done."""
        request = settlement.request
        if request.method == "POST" or self.refresh is None or not monkey.is_module_patched("socket"):
            return False
        flight = inquiry.board()
        if flight is None or not flight.is_leader:
            return flight is not None
        if not self._cache.flights.is_free(flight):
            flight.land()
            return True
        gevent.spawn(self._refreshed, request.again(_NOT_AGAIN), token, flight)
        return True

    def _refreshed(self, request: ProxyRequest, token: TokenSnapshot, flight: Flight) -> None:
        try:
            if self.refresh is not None:
                self.refresh(request, token)
        finally:
            flight.land()

    def prepare(self, settlement: "Settlement") -> None:
        """The look-up of a request that fetches anew, for its validators."""
        use, token, request = settlement.cache, settlement.token, settlement.request
        use = settlement.cache = CacheUse(NO_WISHES)
        assert token is not None
        use.inquiry = self._inquiry(use.asked or NO_WISHES, request, token, None)
        use.inquiry.decide()
        metrics.CACHE_MISSES.inc()

    def _inquiry(self, asked: Wishes, request: ProxyRequest, token: TokenSnapshot, content: bytes | None) -> Inquiry:
        return Inquiry(
            self._cache,
            asked,
            project=token.project_id,
            method=request.method,
            path=request.path,
            query=request.query,
            fields=request.fields,
            values=request.values,
            content=content,
        )

    def _wait(self, settlement: "Settlement", inquiry: Inquiry, flight: Flight | None) -> Entry | None:
        """What another's exchange has stored; None: this request makes one of its own, for others too if it leads."""
        until = time.monotonic() + self._wait_s
        while flight is not None:
            if flight.is_leader:
                return self._lead(settlement, inquiry, flight, until)
            entry = self._follow(settlement, inquiry, flight, until)
            if entry is not None or not flight.was_abandoned:
                return entry
            flight = inquiry.board()
        return None

    def _follow(self, settlement: "Settlement", inquiry: Inquiry, flight: Flight, until: float) -> Entry | None:
        wait = _Wait(flight)
        settlement.begun(wait)
        has_landed = self._cache.flights.wait(flight, until)
        wait.check()
        return (inquiry.accept(flight) or _fresh(inquiry)) if has_landed else None

    def _lead(self, settlement: "Settlement", inquiry: Inquiry, flight: Flight, until: float) -> Entry | None:
        """Make sure that no other worker makes the exchange already, or has just made it."""
        inquiry.flight = flight
        flights = self._cache.flights
        entry: Entry | None = None
        if flights.is_free(flight):
            if not inquiry.is_outdated:
                return None
            entry = _fresh(inquiry)  # somebody's exchange ended between the look-up and now
        else:
            wait = _Wait(flight)
            settlement.begun(wait)

            def is_over() -> bool:
                return wait.is_cut() or inquiry.is_store_away

            if flights.wait_for_machine(flight, until, is_over, lambda: _fresh(inquiry) is not None):
                entry = _fresh(inquiry)
            wait.check()
        if entry is not None:
            inquiry.land()
        return entry

    # -- the provider's answer ----------------------------------------------------------------------------------------

    def answered(self, settlement: "Settlement", status: int, reason: str, fields: Fields) -> Reaction | None:
        """The provider's head has come; None for requests that bypass the cache, whose writes are noted."""
        use, token = settlement.cache, settlement.token
        if use is None or token is None:
            return None
        if use.inquiry is None:
            if 200 <= status < 400 and settlement.request.method not in SAFE_METHODS:
                self._cache.wrote(token.project_id, settlement.request.path, fields)
            return None
        reaction = use.inquiry.answered(status, reason, fields, requested_at=settlement.stamps.sent_ns / 1e9)
        use.capture = reaction.capture
        if reaction.result is not None:
            metrics.cache_revalidations[reaction.result].inc()
        if reaction.entry is None:
            return Reaction(use, reaction, None)
        if reaction.result == "fresh":
            settlement.served = REVALIDATED
        else:
            settlement.is_stale_served = True
        return Reaction(use, reaction, use.inquiry.serve(reaction.entry))

    def failed(self, settlement: "Settlement") -> Served | None:
        """No answer came: a stale one, where stale-if-error allows it."""
        use = settlement.cache
        if use is None or use.inquiry is None or settlement.status is not None:
            return None
        entry = use.inquiry.failed()
        if entry is None:
            return None
        if settlement.is_dispatched:
            settlement.is_stale_served = True
        else:
            metrics.CACHE_HITS.inc()
            settlement.served = HIT
        return use.inquiry.serve(entry)

    # -- what is said of it -------------------------------------------------------------------------------------------

    def marks(self, settlement: "Settlement", reaction: Reaction | None) -> Iterable[tuple[str, str]]:
        """The fields that tell what the cache did, of an answer that the provider gave."""
        use = settlement.cache
        if use is None or use.inquiry is None:
            return _BYPASS
        if reaction is not None and reaction.capture is not None:
            status = "stored (forced)" if reaction.capture.is_forced else "stored"
            return _marks("stored", status, use.inquiry.key)
        marks = _BYPASS if use.inquiry.is_partial else _marks("miss", "miss", use.inquiry.key)
        if self._is_debug and reaction is not None and reaction.reason is not None:
            return (*marks, ("X-CACHE-DEBUG", reaction.reason))
        return marks

    @staticmethod
    def served_marks(settlement: "Settlement", word: str) -> Iterable[tuple[str, str]]:
        """The same, of a stored answer."""
        assert settlement.cache is not None
        assert settlement.cache.inquiry is not None
        return _marks(word, word, settlement.cache.inquiry.key)


def _marks(word: str, status: str, key: str) -> tuple[tuple[str, str], ...]:
    return ("X-PROXY-CACHE", word), ("X-PROXY-CACHE-KEY", key), ("Cache-Status", f"llm-proxy; {status}")


def _fresh(inquiry: Inquiry) -> Entry | None:
    entry, verdict = inquiry.decide()
    return entry if verdict is not Verdict.VALIDATE else None


def _content(body: "Body | None") -> bytes:
    if isinstance(body, HeldBody):
        return body.content()
    assert body is None or isinstance(body, bytes)  # must_hold was asked for
    return body or b""
