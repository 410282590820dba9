"""A worker's response cache: its store, what was written to or purged, and the exchanges that others wait for."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.invalidation import WriteTimes
from llm_proxy.cache.policy import (
    RequestDirectives,
    Rules,
    keep_s,
    request_directives,
)
from llm_proxy.cache.purges import Purges
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.singleflight import SingleFlight
from llm_proxy.cache.store import Store

Pairs = list[tuple[str, str]]

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_NEITHER: Final = frozenset(("IF-MATCH", "IF-UNMODIFIED-SINCE"))
_STALE_KEPT_HERE_S: Final = 60.0  # for max-stale, where room costs nothing
_LOCATIONS: Final = frozenset(("location", "content-location"))
_LOCATION_CHARS: Final = frozenset(len(name) for name in _LOCATIONS)


@dataclass(slots=True)
class Counts:
    """Where the engine counts; each is called for one event."""

    stored: Callable[[], object] = lambda: None


class ResponseCache:
    """A worker's cache for one provider.

    Args:
        store: Keeps entries.
        writes: When paths were written to.
        purges: What was taken away.
        singleflight: Exchanges that others wait for.
        rules: What the operator decided.
        provider: Name of the provider, part of every key.
        counts: Where stores are counted.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        *,
        writes: WriteTimes,
        purges: Purges,
        singleflight: SingleFlight,
        rules: Rules,
        provider: str = "",
        counts: Counts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.writes, self.purges, self.singleflight, self.rules = store, writes, purges, singleflight, rules
        self.provider, self.counts, self.clock = provider, counts or Counts(), clock

    def request_directives(
        self, method: str, fields: Sequence[tuple[str, str]], values: Mapping[str, str], length: int | None
    ) -> RequestDirectives | None:
        """Whether a stored response may serve a request, and what it asks for; None: it bypasses the cache.

        Args:
            fields: In order, names in upper case.
            values: NAME → value of the first line.
            length: Content-Length; None without a body, or when it is chunked.
        """
        if method == "POST":
            if "CACHE-CONTROL" not in values or not length or length > self.rules.most_bytes or "RANGE" in values:
                return None
            asked = request_directives([value for name, value in fields if name == "CACHE-CONTROL"])
            return asked if asked.forced_s and not asked.no_store else None
        if method not in ("GET", "HEAD") or length or "TRANSFER-ENCODING" in values:
            return None
        if not _NEITHER.isdisjoint(values):
            return None
        asked = request_directives(
            [value for name, value in fields if name == "CACHE-CONTROL"] if "CACHE-CONTROL" in values else (),
            [values["PRAGMA"]] if "PRAGMA" in values else (),
        )
        return None if asked.no_store else asked

    def invalidate(self, project: str, path: str, fields: Iterable[tuple[str, str]] = ()) -> None:
        """Invalidate what an unsafe request to `path` changed, given the fields of its success (RFC 9111 §4.4)."""
        if self.store.is_local and not self.writes.is_enabled:
            return
        self._forget(project, path)
        for name, value in fields:
            if len(name) in _LOCATION_CHARS and name.lower() in _LOCATIONS:
                other = _path_of(value, path)
                if other is not None:
                    self._forget(project, other)

    def _forget(self, project: str, path: str) -> None:
        self.writes.record(project, path)
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
        """Release files and connections."""
        self.store.flush()
        self.store.close()
        self.singleflight.close()
        self.writes.close()


def _path_of(location: str, base: str) -> str | None:
    """Return the path that a location names, whatever its origin: at worst one path is fetched again in vain."""
    try:
        return urlsplit(urljoin(base, location.strip())).path or None
    except ValueError:
        return None
