"""The response cache as its users see it: one `Inquiry` for each request that a stored response may serve.

It makes no exchange itself. A user asks `decide`, and serves what is found; or sends the request, with `conditions`
where there is something to validate, and tells what came back by `answered`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from llm_proxy.cache import ranges
from llm_proxy.cache.capture import Answered, Capture
from llm_proxy.cache.coalesce import Flight, Flights
from llm_proxy.cache.conditional import CONDITIONALS, conditions, is_not_modified, is_unchanged
from llm_proxy.cache.directives import values
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.key import DEFAULT_VARY, canonical_target, primary_key, variant_key
from llm_proxy.cache.marks import Marks
from llm_proxy.cache.near import Generation
from llm_proxy.cache.policy import (
    Heard,
    Refused,
    Rules,
    Verdict,
    Wishes,
    freshened,
    is_for_others,
    judge,
    keep_s,
    may_serve_on_error,
    storable,
    wishes,
)
from llm_proxy.cache.purges import Purges
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.store import Store

Pairs = list[tuple[str, str]]

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_IN_304: Final = frozenset(
    ("etag", "last-modified", "cache-control", "cdn-cache-control", "expires", "vary", "date", "content-location")
)
_NEITHER: Final = frozenset(("IF-MATCH", "IF-UNMODIFIED-SINCE"))
_STALE_KEPT_HERE_S: Final = 60.0  # for max-stale, where room costs nothing
_LOCATIONS: Final = frozenset(("location", "content-location"))
_LOCATION_CHARS: Final = frozenset(len(name) for name in _LOCATIONS)


@dataclass(slots=True)
class Counts:
    """Where the engine counts; each is called for one event."""

    stored: Callable[[], object] = lambda: None


class Served(NamedTuple):
    """An answer made from an entry. `is_conditional`: it is a 304 that we decided on."""

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


class ResponseCache:
    """A worker's cache for one provider.

    Args:
        store: Keeps entries.
        marks: When paths were written to.
        purges: What was taken away.
        flights: Exchanges that others wait for.
        rules: What the operator decided.
        provider: Name of the provider, part of every key.
        counts: Where stores are counted.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        *,
        marks: Marks,
        purges: Purges,
        flights: Flights,
        rules: Rules,
        provider: str = "",
        counts: Counts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.marks, self.purges, self.flights, self.rules = store, marks, purges, flights, rules
        self.provider, self.counts, self.clock = provider, counts or Counts(), clock

    def wishes(
        self, method: str, fields: Sequence[tuple[str, str]], values: Mapping[str, str], length: int | None
    ) -> Wishes | None:
        """Whether a stored response may serve a request, and what it asks for; None: it bypasses the cache.

        Args:
            fields: In order, names in upper case.
            values: NAME → value of the first line.
            length: Content-Length; None without a body, or when it is chunked.
        """
        if method == "POST":
            if "CACHE-CONTROL" not in values or not length or length > self.rules.most_bytes or "RANGE" in values:
                return None
            asked = wishes([value for name, value in fields if name == "CACHE-CONTROL"])
            return asked if asked.forced_s and not asked.no_store else None
        if method not in ("GET", "HEAD") or length or "TRANSFER-ENCODING" in values:
            return None
        if not _NEITHER.isdisjoint(values):
            return None
        asked = wishes(
            [value for name, value in fields if name == "CACHE-CONTROL"] if "CACHE-CONTROL" in values else (),
            [values["PRAGMA"]] if "PRAGMA" in values else (),
        )
        return None if asked.no_store else asked

    def wrote(self, project: str, path: str, fields: Iterable[tuple[str, str]] = ()) -> None:
        """An unsafe request to `path` succeeded, with these fields: what it changed is fetched anew (RFC 9111 §4.4)."""
        if self.store.is_local and not self.marks.is_armed:
            return
        self._forget(project, path)
        for name, value in fields:
            if len(name) in _LOCATION_CHARS and name.lower() in _LOCATIONS:
                other = _path_of(value, path)
                if other is not None:
                    self._forget(project, other)

    def _forget(self, project: str, path: str) -> None:
        self.marks.mark(project, path)
        self.store.forget_path(project, path)

    def keep(self, entry: Entry) -> bool:
        """Store an entry for as long as it is of use."""
        left_s = entry.lifetime_s - entry.age_s(self.clock())
        more_s = keep_s(entry) or (_STALE_KEPT_HERE_S if self.store.is_local else 0.0)
        is_kept = self.store.put(entry, max(0.0, left_s) + more_s)
        if is_kept:
            self.counts.stored()
        return is_kept

    def purge(self, scope: Scope) -> int:
        """Take away what a scope covers, on every replica; how many entries were here. Raises what the database raises.

        Committed when it returns. Of what is fetched before, nothing is served afterwards.
        """
        number = self.purges.add(scope)
        self.store.announce(number)
        return self.store.remove(scope, number)

    def close(self) -> None:
        """Let go of files and connections."""
        self.store.flush()
        self.store.close()
        self.flights.close()
        self.marks.close()


class Inquiry:
    """One request that a stored response may serve.

    Attributes:
        flight: The exchange that others wait for; None where nobody does.
        number: The last purge that is known; None: purges are not known, so nothing is served or stored.
    """

    __slots__ = (
        "_cache", "_conditionals", "_fields", "_is_authorized", "_is_post", "_key", "_landings", "_method", "_path",
        "_primary", "_project", "_range", "_target", "_values", "_wishes", "flight", "found", "number",
    )  # fmt: skip

    def __init__(
        self,
        cache: ResponseCache,
        asked: Wishes,
        *,
        project: str,
        method: str,
        path: str,
        query: str,
        fields: Sequence[tuple[str, str]],
        values: Mapping[str, str],
        content: bytes | None = None,
        is_authorized: bool = True,
    ) -> None:
        self._cache, self._wishes, self._project, self._method, self._path = cache, asked, project, method, path
        self._fields, self._values, self._is_authorized = fields, values, is_authorized
        self._is_post = method == "POST"
        self._target = canonical_target(method, path, query)
        lifetime = asked.lifetime if self._is_post else ""
        self._primary = primary_key(project, cache.provider, self._target, fields, content, lifetime)
        self._range = values.get("RANGE") if method == "GET" else None
        self._conditionals = not CONDITIONALS.isdisjoint(values)
        self._key: str | None = None
        self._landings: Generation | None = None
        self.flight: Flight | None = None
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
        return self._wishes.only_if_cached

    @property
    def is_store_local(self) -> bool:
        """Whether storing takes no longer than a request may wait."""
        return self._cache.store.is_local

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
        self._landings = cache.flights.landings(self._primary)
        entries = cache.store.find(self._primary, self._fields)
        self.number, self.found = None, NOTHING
        if not cache.purges.is_known(cache.store.announced()):
            return NOTHING
        self.number = cache.purges.number
        for entry in entries:
            if self._is_usable(entry):
                self._key = entry.key
                self.found = Found(entry, judge(entry, self._wishes, cache.clock()))
                return self.found
        cache.marks.arm()
        return NOTHING

    def _is_usable(self, entry: Entry) -> bool:
        cache = self._cache
        if entry.primary != self._primary or not cache.purges.are_past(entry):
            return False
        return self._is_post or cache.marks.last(self._project, self._path) < entry.requested_at

    def serve(self, entry: Entry) -> Served:
        """The answer that an entry gives to this request."""
        now = self._cache.clock()
        age = str(int(entry.age_s(now)))
        if not self._is_post and self._conditionals and entry.status == 200 and self._is_not_modified(entry):
            kept = [field for field in entry.fields if field[0].lower() in _IN_304]
            return Served(304, "Not Modified", [*kept, ("Age", age)], b"", True)
        fields = [field for field in entry.fields if field[0].lower() != "content-length"]
        fields.append(("Age", age))
        content = entry.content
        if self._range is not None and entry.status == 200 and is_unchanged(entry, self._values.get("IF-RANGE")):
            span = ranges.wanted(self._range, len(content))
            if span is not None:
                start, end = span
                fields.append(("Content-Range", f"bytes {start}-{end - 1}/{len(content)}"))
                fields.append(("Content-Length", str(end - start)))
                return Served(206, "Partial Content", fields, content[start:end], False)
        if entry.is_stream:
            fields.append(("X-Accel-Buffering", "no"))
        elif entry.status != 204:
            fields.append(("Content-Length", str(len(content))))
        return Served(entry.status, entry.reason, fields, b"" if self._method == "HEAD" else content, False)

    def _is_not_modified(self, entry: Entry) -> bool:
        lines = [value for name, value in self._fields if name == "IF-NONE-MATCH"]
        return is_not_modified(entry, lines, self._values.get("IF-MODIFIED-SINCE"))

    # -- sharing one exchange -----------------------------------------------------------------------------------------

    def board(self) -> Flight | None:
        """Lead or join the exchange of others who ask the same; None where this request needs one of its own."""
        entry = self.found.entry
        if self._method == "HEAD" or self._conditionals or self.is_partial or self.number is None:
            return None
        if self._wishes.no_cache or self._wishes.max_age_s == 0 or self.is_store_away:
            return None
        if entry is not None and not is_for_others(entry):
            return None
        return self._cache.flights.board(variant_key(self._primary, DEFAULT_VARY, self._fields))

    def accept(self, flight: Flight) -> Entry | None:
        """What a flight has brought, if it answers this request, too. Asked after `decide`, for what purges are known.

        A purge that was confirmed before this request came is among those, however lately it came to the flight.
        """
        entry = flight.brought
        if entry is None or entry.key != variant_key(self._primary, entry.vary, self._fields):
            return None
        if not self._is_usable(entry) or judge(entry, self._wishes, self._cache.clock()) is Verdict.VALIDATE:
            return None
        self._key, self.found = entry.key, Found(entry, Verdict.SERVE)
        return entry

    @property
    def is_outdated(self) -> bool:
        """Whether somebody's exchange of this kind has ended since the look-up, so that another may find its answer."""
        return self._landings != self._cache.flights.landings(self._primary)

    def land(self, *, is_storable: bool = True, is_abandoned: bool = False) -> None:
        """The exchange is over, or its answer is not one that is stored: the others go on. Repeats do nothing."""
        if self.flight is not None:
            self.flight.land(is_storable=is_storable, is_abandoned=is_abandoned)

    # -- the provider's answer ----------------------------------------------------------------------------------------

    def conditions(self) -> Pairs:
        """Fields to add to the request that is sent, in upper case; none where the client has conditions of its own."""
        entry = self.found.entry
        return conditions(entry) if entry is not None and not self._conditionals and not self.is_partial else []

    def failed(self) -> Entry | None:
        """There was no answer: the stale entry that may be served instead (RFC 5861)."""
        entry = self.found.entry
        is_allowed = entry is not None and may_serve_on_error(entry, self._wishes, None, self._cache.clock())
        return entry if is_allowed else None

    def answered(self, status: int, reason: str, fields: Sequence[tuple[str, str]], *, requested_at: float) -> Answered:
        """A head has come: serve an entry in its place, or capture its body, or let it pass."""
        heard = Heard(
            status,
            reason,
            fields,
            requested_at,
            self._cache.clock(),
            self._wishes,
            is_authorized=self._is_authorized,
            is_opted_in=self._is_post,
        )
        reaction = self._react(heard)
        if reaction.capture is None:
            self.land(is_storable=reaction.entry is not None)
        elif not reaction.capture.is_for_others:
            self.land(is_storable=False)
        return reaction

    def keep(self, entry: Entry) -> bool:
        """Store an answer that came whole, and let those go on who wait for it."""
        if self.flight is not None:
            self.flight.bring(entry)
        try:
            return self._cache.keep(entry)
        finally:
            self.land()

    def _react(self, heard: Heard) -> Answered:
        entry = None if self.is_partial else self.found.entry
        is_validating = entry is not None and bool(conditions(entry))
        if entry is not None and heard.status == 304 and self._is_validated(entry):
            return Answered(self._freshen(entry, heard), "fresh")
        if entry is not None and may_serve_on_error(entry, self._wishes, heard.status, heard.received_at):
            return Answered(entry, "failed" if is_validating else None)
        result = None if not is_validating else "changed" if heard.status < 500 else "failed"
        if self._method == "HEAD" or self.is_partial:
            return Answered(None, result, None, "method-or-range")
        if self.number is None:
            return Answered(None, result, None, "purges-unknown")
        judged = storable(heard, self._cache.rules)
        if isinstance(judged, Refused):
            return Answered(None, result, None, judged.reason)
        key = variant_key(self._primary, judged.vary, self._fields)
        length = next(iter(values(heard.fields, "content-length")), "")
        self._key = key
        named = replace(judged, key=key, target=self._target, number=self.number)
        is_counted = length.isdigit() and not judged.is_stream and self._cache.store.is_local
        capture = Capture(
            named,
            keep=self.keep,
            give_up=lambda: self.land(is_storable=False),
            most_bytes=self._cache.rules.most_bytes,
            expected_bytes=int(length[:18]) if is_counted else None,
        )
        return Answered(None, result, capture)

    def _is_validated(self, entry: Entry) -> bool:
        """Whether a 304 is about our entry: we asked, or the client asked by the same validator."""
        return not self._conditionals or self._is_not_modified(entry)

    def _freshen(self, entry: Entry, heard: Heard) -> Entry:
        cache = self._cache
        fresh = freshened(entry, heard, cache.rules)
        if self.number is not None:
            fresh = replace(fresh, number=self.number)
            cache.keep(fresh)
        return fresh


def _path_of(location: str, base: str) -> str | None:
    """The path that a location names, whatever its origin: a path of another one's is fetched anew once in vain."""
    try:
        return urlsplit(urljoin(base, location.strip())).path or None
    except ValueError:
        return None
