"""One request's look-up in the response cache.

It makes no exchange itself. A user asks `decide`, and serves what is found; or sends the request, with `conditions`
where there is something to validate, tells what came back by `responded`, and the end by `ended`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import gevent
from gevent import monkey

from llm_proxy.cache import ranges
from llm_proxy.cache.body_recorder import BodyRecorder, StoreDecision
from llm_proxy.cache.conditional import CONDITIONALS, conditions, is_not_modified, is_unchanged
from llm_proxy.cache.directives import values
from llm_proxy.cache.engine import ResponseCache
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.key import DEFAULT_VARY, canonical_target, primary_key, variant_key
from llm_proxy.cache.l1 import Generation
from llm_proxy.cache.policy import (
    ReceivedResponse,
    Refused,
    RequestDirectives,
    Verdict,
    freshened,
    is_for_others,
    judge,
    may_serve_on_error,
    storable,
)
from llm_proxy.cache.singleflight import SharedFetch

Pairs = list[tuple[str, str]]

_IN_304: Final = frozenset(
    ("etag", "last-modified", "cache-control", "cdn-cache-control", "expires", "vary", "date", "content-location")
)
_log = logging.getLogger(__name__)


class StoredResponse(NamedTuple):
    """A response made from an entry. `is_conditional`: it is a 304 of the cache."""

    status: int
    reason: str
    fields: Pairs
    content: bytes
    is_conditional: bool


class Found(NamedTuple):
    """What a look-up found: nothing, or an entry and what may be done with it."""

    entry: Entry | None
    verdict: Verdict


NOTHING: Final = Found(None, Verdict.VALIDATE)


class CacheLookup:
    """One request that a stored response may serve.

    Attributes:
        capture: Collects the response that will be stored; None: it is not stored.
        is_framed: Whether the end of the response's body is marked by more than the connection's.
        fetch: The exchange that others wait for; None where none waits.
        number: The last purge that is known; None: purges are not known, so nothing is served or stored.
    """

    __slots__ = (
        "_cache", "_conditionals", "_directives", "_fields", "_finishes", "_is_authorized", "_is_post", "_key",
        "_method", "_path", "_primary", "_project", "_range", "_target", "_values", "fetch", "found", "is_framed",
        "number", "recorder",
    )  # fmt: skip

    def __init__(
        self,
        cache: ResponseCache,
        asked: RequestDirectives,
        *,
        project: str,
        method: str,
        path: str,
        query: str,
        fields: Sequence[tuple[str, str]],
        values: Mapping[str, str],
        digest: str | None = None,
        is_authorized: bool = True,
        provider: str = "",
    ) -> None:
        self._cache, self._directives, self._project, self._method, self._path = cache, asked, project, method, path
        self._fields, self._values, self._is_authorized = fields, values, is_authorized
        self._is_post = method == "POST"
        self._target = canonical_target(method, path, query)
        lifetime = asked.lifetime if self._is_post else ""
        self._primary = primary_key(project, provider or cache.provider, self._target, fields, digest, lifetime)
        self._range = values.get("RANGE") if method == "GET" else None
        self._conditionals = not CONDITIONALS.isdisjoint(values)
        self._key: str | None = None
        self._finishes: Generation | None = None
        self.recorder: BodyRecorder | None = None
        self.is_framed = True
        self.fetch: SharedFetch | None = None
        self.number: int | None = None
        self.found = NOTHING

    @property
    def key(self) -> str:
        """X-PROXY-CACHE-KEY: the entry's where one was found or is stored, else by the usual fields."""
        if self._key is None:
            self._key = variant_key(self._primary, DEFAULT_VARY, self._fields)
        return self._key

    @property
    def only_if_cached(self) -> bool:
        """RFC 9111 §5.2.1.7."""
        return self._directives.only_if_cached

    @property
    def is_store_away(self) -> bool:
        """Whether waiting for what others store would be in vain."""
        return self._cache.store.is_left_alone

    @property
    def is_partial(self) -> bool:
        """It asks for a range: a whole fresh entry may answer it, nothing else is done for it."""
        return self._range is not None

    # -- looking up ---------------------------------------------------------------------------------------------------

    def decide(self) -> Found:
        """Look up, and judge."""
        cache = self._cache
        self._finishes = cache.singleflight.finishes(self._primary)
        entries = cache.store.find(self._primary, self._fields)
        self.number, self.found = None, NOTHING
        if not cache.purges.is_known(cache.store.announced()):
            return NOTHING
        self.number = cache.purges.number
        for entry in entries:
            if self._is_usable(entry):
                self._key = entry.key
                self.found = Found(entry, judge(entry, self._directives, cache.clock()))
                return self.found
        cache.writes.enable()
        return NOTHING

    def _is_usable(self, entry: Entry) -> bool:
        cache = self._cache
        if entry.primary != self._primary or not cache.purges.are_past(entry):
            return False
        return self._is_post or cache.writes.last_write(self._project, self._path) < entry.requested_at

    def serve(self, entry: Entry) -> StoredResponse:
        """Return the response that an entry gives to this request."""
        now = self._cache.clock()
        age = str(int(entry.age_s(now)))
        if not self._is_post and self._conditionals and entry.status == 200 and self._is_not_modified(entry):
            kept = [field for field in entry.fields if field[0].lower() in _IN_304]
            return StoredResponse(304, "Not Modified", [*kept, ("Age", age)], b"", True)
        fields = [field for field in entry.fields if field[0].lower() != "content-length"]
        fields.append(("Age", age))
        content = entry.content
        if self._range is not None and entry.status == 200 and is_unchanged(entry, self._values.get("IF-RANGE")):
            span = ranges.wanted(self._range, len(content))
            if span is not None:
                start, end = span
                fields.append(("Content-Range", f"bytes {start}-{end - 1}/{len(content)}"))
                fields.append(("Content-Length", str(end - start)))
                return StoredResponse(206, "Partial Content", fields, content[start:end], False)
        if entry.is_stream:
            fields.append(("X-Accel-Buffering", "no"))
        elif entry.status != 204:
            fields.append(("Content-Length", str(len(content))))
        return StoredResponse(entry.status, entry.reason, fields, b"" if self._method == "HEAD" else content, False)

    def _is_not_modified(self, entry: Entry) -> bool:
        lines = [value for name, value in self._fields if name == "IF-NONE-MATCH"]
        return is_not_modified(entry, lines, self._values.get("IF-MODIFIED-SINCE"))

    # -- sharing one exchange -----------------------------------------------------------------------------------------

    def join(self) -> SharedFetch | None:
        """Lead or join the exchange of equal requests; None where this request needs an exchange by itself."""
        entry = self.found.entry
        if self._method == "HEAD" or self._conditionals or self.is_partial or self.number is None:
            return None
        if self._directives.no_cache or self._directives.max_age_s == 0 or self.is_store_away:
            return None
        if entry is not None and not is_for_others(entry):
            return None
        return self._cache.singleflight.join(variant_key(self._primary, DEFAULT_VARY, self._fields))

    def accept(self, fetch: SharedFetch) -> Entry | None:
        """Return what a fetch has published, if it fits this request, too. Call it after `decide`, which knows purges.

        A purge that was confirmed before this request came is among those, however lately it came to the fetch.
        """
        entry = fetch.published
        if entry is None or entry.key != variant_key(self._primary, entry.vary, self._fields):
            return None
        if not self._is_usable(entry) or judge(entry, self._directives, self._cache.clock()) is Verdict.VALIDATE:
            return None
        self._key, self.found = entry.key, Found(entry, Verdict.SERVE)
        return entry

    @property
    def is_outdated(self) -> bool:
        """Whether another exchange of this kind has ended since the look-up, so that another may find its response."""
        return self._finishes != self._cache.singleflight.finishes(self._primary)

    def finish(self, *, is_storable: bool = True, is_abandoned: bool = False) -> None:
        """End the exchange, or a response that is not stored: the others go on. Repeats do nothing."""
        if self.fetch is not None:
            self.fetch.finish(is_storable=is_storable, is_abandoned=is_abandoned)

    # -- the provider's response ---------------------------------------------------------------------------------------

    def conditions(self) -> Pairs:
        """Fields to add to the request that is sent, in upper case; none where the client has its own conditions."""
        entry = self.found.entry
        return conditions(entry) if entry is not None and not self._conditionals and not self.is_partial else []

    def failed(self) -> Entry | None:
        """There was no response: the stale entry that may be served instead (RFC 5861)."""
        entry = self.found.entry
        is_allowed = entry is not None and may_serve_on_error(entry, self._directives, None, self._cache.clock())
        return entry if is_allowed else None

    def responded(
        self, status: int, reason: str, fields: Sequence[tuple[str, str]], *, requested_at: float
    ) -> StoreDecision:
        """Decide on a response's head: serve an entry in its place, or capture its body, or let it pass."""
        received = ReceivedResponse(
            status,
            reason,
            fields,
            requested_at,
            self._cache.clock(),
            self._directives,
            is_authorized=self._is_authorized,
            is_opted_in=self._is_post,
        )
        reaction = self._react(received)
        self.recorder = reaction.recorder
        if reaction.recorder is None:
            self.finish(is_storable=reaction.entry is not None)
        elif not reaction.recorder.is_for_others:
            self.finish(is_storable=False)
        return reaction

    def ended(self, *, is_whole: bool, is_abandoned: bool = False) -> None:
        """End the request: what was captured whole is stored, and the requests that wait go on.

        Args:
            is_whole: The provider ended its response as it should, and the client took all of it.
            is_abandoned: The client left, or the exchange was cut; that says nothing of the provider.
        """
        try:
            recorder = self.recorder
            store = recorder.finish(is_whole=is_whole, is_framed=self.is_framed) if recorder is not None else None
            if store is None:
                self.finish(is_abandoned=is_abandoned)
            elif self._cache.store.is_local or not monkey.is_module_patched("socket"):
                store()
            else:
                gevent.spawn(store)
        except Exception:
            self.finish()
            _log.exception("a response was not stored")

    def keep(self, entry: Entry) -> bool:
        """Store a response that came whole, and let the requests that wait for it go on."""
        if self.fetch is not None:
            self.fetch.publish(entry)
        try:
            return self._cache.keep(entry)
        finally:
            self.finish()

    def _react(self, received: ReceivedResponse) -> StoreDecision:
        entry = None if self.is_partial else self.found.entry
        is_validating = entry is not None and bool(conditions(entry))
        if entry is not None and received.status == 304 and self._is_validated(entry):
            return StoreDecision(self._freshen(entry, received), "fresh")
        if entry is not None and may_serve_on_error(entry, self._directives, received.status, received.received_at):
            return StoreDecision(entry, "failed" if is_validating else None)
        result = None if not is_validating else "changed" if received.status < 500 else "failed"
        if self._method == "HEAD" or self.is_partial:
            return StoreDecision(None, result, None, "method-or-range")
        if self.number is None:
            return StoreDecision(None, result, None, "purges-unknown")
        judged = storable(received, self._cache.rules)
        if isinstance(judged, Refused):
            return StoreDecision(None, result, None, judged.reason)
        key = variant_key(self._primary, judged.vary, self._fields)
        length = next(iter(values(received.fields, "content-length")), "")
        self._key = key
        named = replace(judged, key=key, target=self._target, number=self.number)
        is_counted = length.isdigit() and not judged.is_stream and self._cache.store.is_local
        recorder = BodyRecorder(
            named,
            keep=self.keep,
            give_up=lambda: self.finish(is_storable=False),
            most_bytes=self._cache.rules.most_bytes,
            expected_bytes=int(length[:18]) if is_counted else None,
        )
        return StoreDecision(None, result, recorder)

    def _is_validated(self, entry: Entry) -> bool:
        """Whether a 304 is about the entry: the cache asked, or the client asked by the same validator."""
        return not self._conditionals or self._is_not_modified(entry)

    def _freshen(self, entry: Entry, received: ReceivedResponse) -> Entry:
        cache = self._cache
        fresh = freshened(entry, received, cache.rules)
        if self.number is not None:
            fresh = replace(fresh, number=self.number)
            cache.keep(fresh)
        return fresh
