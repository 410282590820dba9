"""Stored responses in place of the provider's: the look-up, one exchange for many, and what responses leave behind.

A request that no stored response may serve costs a look at its method and at one field here.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Final, Protocol

import gevent
from gevent import monkey

from llm_proxy import metrics
from llm_proxy.accounting.outcomes import HIT, LOCAL_304, REVALIDATED, Row
from llm_proxy.cache.engine import SAFE_METHODS, ResponseCache
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.lookup import CacheLookup, StoredResponse
from llm_proxy.cache.policy import NO_DIRECTIVES, RequestDirectives, Verdict
from llm_proxy.cache.singleflight import WAIT_S, SharedFetch
from llm_proxy.errors import CircuitOpen, LlmProxyError, NotCached, UpstreamCut, UpstreamError
from llm_proxy.forwarding.body import HeldBody
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.inspection import Body
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.taps import DataTap
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.runtime.short_turns import in_short_turns

Fields = list[tuple[str, str]]
Background = Callable[[ProxyRequest, TokenSnapshot], None]

_BYPASS: Final = (("X-PROXY-CACHE", "bypass"), ("Cache-Status", "llm-proxy; bypass"))
_NOT_AGAIN: Final = frozenset(  # fields that are about one request, and not what a refresh asks
    ("IF-NONE-MATCH", "IF-MODIFIED-SINCE", "IF-RANGE", "RANGE", "CACHE-CONTROL", "PRAGMA", "X-REQUEST-ID")
) | {"X-CORRELATION-ID"}


class ResponseSource(Protocol):
    """A source of responses that are served without the provider, or in place of what it gave."""

    def begin(self, exchange: Exchange) -> bool:
        """Look at a request before its body is read; return whether the body must be held."""

    def begin_refresh(self, exchange: Exchange) -> None:
        """Prepare an exchange that fetches again what was served stale, behind which no client stands."""

    def lookup(self, exchange: Exchange, body: Body | None) -> StoredResponse | None:
        """Return a stored response that may be served now. May wait for the exchange of another request.

        Raises:
            NotCached: The request wants a stored response only, and there is none.
            UpstreamCut: The client left, or the drain's time was over, while this waited.
        """

    def conditions(self, exchange: Exchange) -> Fields:
        """Return the fields that ask the provider whether a stored response is still valid."""

    def on_response(
        self, exchange: Exchange, status: int, reason: bytes, fields: Fields, *, is_framed: bool
    ) -> StoredResponse | DataTap | None:
        """Take the provider's header section: a stored response to serve in its place, or a tap that collects its body.

        Args:
            fields: As the client gets them, before the proxy's own are added.
            is_framed: Whether the body's end is marked by more than the connection's.
        """

    def on_error(self, exchange: Exchange, error: LlmProxyError) -> StoredResponse | None:
        """Return a stored response to serve in place of an error."""


class NoCache:
    """No stored responses: HTTP_CACHE_ENABLED is off."""

    def begin(self, exchange: Exchange) -> bool:
        """Hold nothing."""
        return False

    def begin_refresh(self, exchange: Exchange) -> None:
        """Prepare nothing."""

    def lookup(self, exchange: Exchange, body: Body | None) -> StoredResponse | None:
        """Find nothing."""
        return None

    def conditions(self, exchange: Exchange) -> Fields:
        """Ask for no validation."""
        return []

    def on_response(
        self, exchange: Exchange, status: int, reason: bytes, fields: Fields, *, is_framed: bool
    ) -> StoredResponse | DataTap | None:
        """Let the response pass."""
        return None

    def on_error(self, exchange: Exchange, error: LlmProxyError) -> StoredResponse | None:
        """Let the error pass."""
        return None


class _Wait:
    """A wait for another request's exchange, as an exchange sees it: it can be cut."""

    __slots__ = ("_shared", "reason")

    def __init__(self, fetch: SharedFetch) -> None:
        self._shared = fetch
        self.reason: str | None = None

    def cut(self, reason: str) -> None:
        """Note the first reason, and wake the request that waits."""
        self.reason = self.reason or reason
        self._shared.wake()

    def is_cut(self) -> bool:
        """Whether the request was cut while it waited."""
        return self.reason is not None

    def check(self) -> None:
        """Raise UpstreamCut when it was cut."""
        if self.reason is not None:
            raise UpstreamCut(self.reason)


class CacheSource:
    """The worker's response cache as the pipeline uses it.

    Args:
        cache: The worker's.
        background: Makes an exchange that no client waits for, and returns when its response was taken in
            (stale-while-revalidate).
        is_debug: Send X-CACHE-DEBUG.
    """

    def __init__(self, cache: ResponseCache, *, background: Background, is_debug: bool = False) -> None:
        self._cache, self._background, self._is_debug = cache, background, is_debug

    def begin(self, exchange: Exchange) -> bool:
        """Judge by method and fields whether a stored response may serve the request."""
        request = exchange.request
        method, values = request.method, request.values
        if method == "POST" and "CACHE-CONTROL" not in values:
            return False
        exchange.directives = self._cache.request_directives(method, request.fields, values, request.content_length)
        return exchange.directives is not None

    def begin_refresh(self, exchange: Exchange) -> None:
        """Look up the stale response, for its validators."""
        exchange.directives = NO_DIRECTIVES
        lookup = exchange.lookup = self._inquiry(NO_DIRECTIVES, exchange, None)
        lookup.decide()
        metrics.CACHE_MISSES.inc()

    def lookup(self, exchange: Exchange, body: Body | None) -> StoredResponse | None:
        """See ResponseSource."""
        directives = exchange.directives
        if directives is None:
            metrics.CACHE_BYPASS.inc()
            return None
        digest = _digest(body) if exchange.request.method == "POST" else None
        lookup = exchange.lookup = self._inquiry(directives, exchange, digest)
        stored = self._find(exchange, lookup)
        if stored is not None:
            word = "conditional-hit" if stored.is_conditional else "hit"
            exchange.cache_fields = _cache_fields(word, word, lookup.key)
            return stored
        (metrics.CACHE_BYPASS if lookup.is_partial else metrics.CACHE_MISSES).inc()
        if lookup.only_if_cached:
            raise NotCached
        return None

    def conditions(self, exchange: Exchange) -> Fields:
        """See ResponseSource."""
        return [] if exchange.lookup is None else exchange.lookup.conditions()

    # -- looking up ---------------------------------------------------------------------------------------------------

    def _inquiry(self, directives: RequestDirectives, exchange: Exchange, digest: str | None) -> CacheLookup:
        request, provider = exchange.request, exchange.lane.provider
        return CacheLookup(
            self._cache,
            directives,
            project=exchange.known_token.project_id,
            provider=provider.name,
            method=request.method,
            path=provider.mount + request.path,  # as clients know it, and purges name it
            query=request.query,
            fields=request.fields,
            values=request.values,
            digest=digest,
        )

    def _find(self, exchange: Exchange, lookup: CacheLookup) -> StoredResponse | None:
        entry, verdict = lookup.decide()
        if entry is not None and verdict is Verdict.SERVE:
            return lookup.serve(entry)
        if entry is not None and verdict is Verdict.SERVE_AND_REFRESH and self._refresh(exchange, lookup):
            return lookup.serve(entry)
        if lookup.only_if_cached:
            return None
        fetch = lookup.join()
        if fetch is None:
            return None
        entry = self._wait(exchange, lookup, fetch)
        return None if entry is None else lookup.serve(entry)

    def _refresh(self, exchange: Exchange, lookup: CacheLookup) -> bool:
        """Fetch a stale response again, unless that is under way; return False where it cannot be done."""
        request = exchange.request
        if request.method == "POST" or not monkey.is_module_patched("socket"):
            return False
        fetch = lookup.join()
        if fetch is None or not fetch.is_leader:
            return fetch is not None
        if not self._cache.singleflight.is_free(fetch):
            fetch.finish()
            return True
        gevent.spawn(self._fetch, request.again(_NOT_AGAIN), exchange.known_token, fetch)
        return True

    def _fetch(self, request: ProxyRequest, token: TokenSnapshot, fetch: SharedFetch) -> None:
        try:
            self._background(request, token)
        finally:
            fetch.finish()

    def _wait(self, exchange: Exchange, lookup: CacheLookup, fetch: SharedFetch | None) -> Entry | None:
        """Return what another's exchange has stored; None: this request makes its own, for others too if it leads."""
        until = time.monotonic() + WAIT_S
        while fetch is not None:
            if fetch.is_leader:
                return self._lead(exchange, lookup, fetch, until)
            entry = self._follow(exchange, lookup, fetch, until)
            if entry is not None or not fetch.was_abandoned:
                return entry
            fetch = lookup.join()
        return None

    def _follow(self, exchange: Exchange, lookup: CacheLookup, fetch: SharedFetch, until: float) -> Entry | None:
        wait = _Wait(fetch)
        exchange.attach(wait)
        is_finished = self._cache.singleflight.wait(fetch, until)
        wait.check()
        return (lookup.accept(fetch) or _fresh(lookup)) if is_finished else None

    def _lead(self, exchange: Exchange, lookup: CacheLookup, fetch: SharedFetch, until: float) -> Entry | None:
        """Make sure that no other worker makes the exchange already, or has just made it."""
        lookup.fetch = fetch
        singleflight = self._cache.singleflight
        entry: Entry | None = None
        if singleflight.is_free(fetch):
            if not lookup.is_outdated:
                return None
            entry = _fresh(lookup)  # another exchange ended between the look-up and now
        else:
            wait = _Wait(fetch)
            exchange.attach(wait)

            def is_over() -> bool:
                return wait.is_cut() or lookup.is_store_away

            if singleflight.wait_for_machine(fetch, until, is_over, lambda: _fresh(lookup) is not None):
                entry = _fresh(lookup)
            wait.check()
        if entry is not None:
            lookup.finish()
        return entry

    # -- the provider's response --------------------------------------------------------------------------------------

    def on_response(
        self, exchange: Exchange, status: int, reason: bytes, fields: Fields, *, is_framed: bool
    ) -> StoredResponse | DataTap | None:
        """See ResponseSource; of a request that bypasses the cache, a successful write is noted."""
        lookup = exchange.lookup
        if lookup is None:
            exchange.cache_fields = _BYPASS
            if 200 <= status < 400 and exchange.request.method not in SAFE_METHODS:
                path = exchange.lane.provider.mount + exchange.request.path
                self._cache.invalidate(exchange.known_token.project_id, path, fields)
            return None
        lookup.is_framed = is_framed
        sent_at = exchange.timing.sent_ns / 1e9
        decision = lookup.responded(status, reason.decode("latin-1"), fields, requested_at=sent_at)
        if decision.result is not None:
            metrics.cache_revalidations[decision.result].inc()
        if decision.entry is not None:
            return self._instead(exchange, lookup, decision.entry, is_fresh=decision.result == "fresh")
        exchange.cache_fields = self._fields_of_miss(lookup, decision.reason)
        return decision.recorder

    @staticmethod
    def _instead(exchange: Exchange, lookup: CacheLookup, entry: Entry, *, is_fresh: bool) -> StoredResponse:
        """Return a stored response in place of the provider's: validated by it, or stale and better than its error."""
        if is_fresh:
            exchange.served = REVALIDATED
        else:
            exchange.is_stale_served = True
        word = "revalidated" if is_fresh else "hit"
        exchange.cache_fields = _cache_fields(word, word, lookup.key)
        return lookup.serve(entry)

    def on_error(self, exchange: Exchange, error: LlmProxyError) -> StoredResponse | None:
        """No response came: return a stale one, where stale-if-error allows it."""
        lookup = exchange.lookup
        if lookup is None or exchange.status is not None or not isinstance(error, UpstreamError | CircuitOpen):
            return None
        entry = lookup.failed()
        if entry is None:
            return None
        if exchange.is_dispatched:
            exchange.is_stale_served = True
        else:
            exchange.served = HIT
        exchange.cache_fields = _cache_fields("hit", "hit", lookup.key)
        return lookup.serve(entry)

    def _fields_of_miss(self, lookup: CacheLookup, reason: str | None) -> tuple[tuple[str, str], ...]:
        """Return the fields that tell what the cache did with a response that the provider gave."""
        if lookup.recorder is not None:
            status = "stored (forced)" if lookup.recorder.is_forced else "stored"
            return _cache_fields("stored", status, lookup.key)
        fields = _BYPASS if lookup.is_partial else _cache_fields("miss", "miss", lookup.key)
        return (*fields, ("X-CACHE-DEBUG", reason)) if self._is_debug and reason is not None else fields


def row_of_hit(stored: StoredResponse) -> Row:
    """Return the row of the accounting table of a stored response that is served without the provider."""
    return LOCAL_304 if stored.is_conditional else HIT


def _cache_fields(word: str, status: str, key: str) -> tuple[tuple[str, str], ...]:
    return ("X-PROXY-CACHE", word), ("X-PROXY-CACHE-KEY", key), ("Cache-Status", f"llm-proxy; {status}")


def _fresh(lookup: CacheLookup) -> Entry | None:
    entry, verdict = lookup.decide()
    return entry if verdict is not Verdict.VALIDATE else None


def _digest(body: Body | None) -> str:
    """Return a body's SHA-256 in hex, made in short turns."""
    digest = hashlib.sha256()
    if isinstance(body, HeldBody):
        in_short_turns(body.pieces(), digest.update)
    else:
        assert body is None or isinstance(body, bytes)  # `begin` asked for it to be held
        digest.update(body or b"")
    return digest.hexdigest()
