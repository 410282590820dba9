"""The numbered list of purges in the database, and what a worker knows of it (data-plane issue "response cache", 7).

An entry carries the number of the last purge that was known when its request left. It is served only if no later purge
covers it, so that neither an entry that a replica still holds nor one that is stored after the purge but was fetched
before it can come back. A worker's knowledge is at most half a second old when it serves a hit.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import Engine, delete, func, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.scopes import Scope
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.models import CachePurgeRow
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.db.session import write_transaction
from llm_proxy.runtime.clock import utc_now

KNOWN_FOR_S = 0.5
REMEMBERED = 4096  # an entry from before the oldest one of these is not used any more
_KEPT_ROWS = 20_000
_ATTEMPTS = 20
_MOST = 1 << 62
_SINCE = "SELECT number, scope FROM cache_purges WHERE number > ? ORDER BY number"
_LAST = "SELECT MAX(number) FROM cache_purges"
_log = logging.getLogger(__name__)


class PurgeList(Protocol):
    """Where purges are written down."""

    def add(self, scope: Scope) -> int:
        """Commit a purge; its number."""

    def last(self) -> int:
        """Return the highest number; 0 without any."""

    def since(self, number: int) -> list[tuple[int, Scope]]:
        """Those with higher numbers, in order."""


class PurgeTable:
    """The table `cache_purges`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = RawConnectionPool(engine, 1, limit_s=0.3)

    def add(self, scope: Scope) -> int:
        """See PurgeList. Numbers are given in the order of commits: each is the last one's plus one, or collides."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._add(scope)
            except (
                IntegrityError,
                OperationalError,
            ) as error:  # another purge was faster, or both waited for each other
                if is_unavailable(error) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.005 * attempt)
        raise AssertionError("unreachable")

    def _add(self, scope: Scope) -> int:
        with write_transaction(self._engine) as connection:
            following = select(func.coalesce(func.max(CachePurgeRow.number), 0) + 1)
            number = int(connection.execute(following).scalar_one())
            values = {"number": number, "scope": scope.to_text(), "created_at": utc_now()}
            connection.execute(insert(CachePurgeRow).values(values))
            if number % 100 == 0:
                connection.execute(delete(CachePurgeRow).where(CachePurgeRow.number <= number - _KEPT_ROWS))
        return number

    def last(self) -> int:
        """See PurgeList."""
        return int(self._statements.read(_LAST, ())[0][0] or 0)

    def since(self, number: int) -> list[tuple[int, Scope]]:
        """See PurgeList."""
        return [(int(row[0]), Scope.from_text(row[1])) for row in self._statements.read(_SINCE, (number,))]

    def close(self) -> None:
        """Close the connection."""
        self._statements.close()


class PurgesInMemory:
    """A list of this process alone: for a cache without a database, as it is mounted by itself."""

    def __init__(self) -> None:
        self._scopes: list[Scope] = []

    def add(self, scope: Scope) -> int:
        """See PurgeList."""
        self._scopes.append(scope)
        return len(self._scopes)

    def last(self) -> int:
        """See PurgeList."""
        return len(self._scopes)

    def since(self, number: int) -> list[tuple[int, Scope]]:
        """See PurgeList."""
        return list(enumerate(self._scopes[number:], number + 1))


class Purges:
    """What one worker knows of the list.

    Args:
        table: The list.
        apply: Gets purges that are new here, with their numbers, to take what they cover out of this machine's store;
            may raise nothing.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        table: PurgeList,
        apply: Callable[[Sequence[tuple[int, Scope]]], None] = lambda purges: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._apply, self._clock = table, apply, clock
        self._known: list[tuple[int, Scope]] = []
        self._oldest = -1  # numbers above it are all in `_known`
        self.number = -1
        self._looked_at = -1e9
        self._failed_at = -1e9
        self._refuted = 0
        self._lock = threading.Lock()

    def is_known(self, at_least: int = 0) -> bool:
        """Whether what is known is recent enough to serve by; looks at the list when it is not. Never raises.

        Args:
            at_least: A number that a worker has heard of: knowledge below it is old, whatever its age.
        """
        if self._clock() - self._looked_at < KNOWN_FOR_S and max(self.number, self._refuted) >= at_least:
            return True
        if self._clock() - self._failed_at < KNOWN_FOR_S:
            return False
        with self._lock:
            if self._clock() - self._looked_at < KNOWN_FOR_S and max(self.number, self._refuted) >= at_least:
                return True  # another request has looked meanwhile
            is_known = self._look()
            self._refuted = at_least if is_known else 0  # a number that the database does not have is no purge
            return is_known

    def _look(self) -> bool:
        began = self._clock()
        try:
            last = self._table.last()
            is_new = last < self.number or self.number < 0  # the first look, or another database than before
            after = max(0 if is_new else self.number, last - REMEMBERED)
            found = self._table.since(after) if last > after else []
        except Exception as error:
            self._failed_at = self._clock()
            _log.warning("purges are not known, nothing is served from the cache: %s", type(error).__name__)
            return False
        if is_new:
            self._begin_again(last, after, found)
        else:
            self._learn(after, found)
        self._looked_at = began
        return True

    def _begin_again(self, last: int, after: int, found: list[tuple[int, Scope]]) -> None:
        if self.number >= 0:
            self._apply([(_MOST, Scope(is_all=True))])
        self._known, self._oldest = found, after
        self.number = max(last, found[-1][0] if found else 0)

    def _learn(self, after: int, found: list[tuple[int, Scope]]) -> None:
        if not found:
            return
        known = found if after > self.number else [*self._known, *found]
        known = known[-REMEMBERED:]
        self._oldest = max(self._oldest, known[0][0] - 1)
        self._known, self.number = known, known[-1][0]
        self._apply(found)

    def add(self, scope: Scope) -> int:
        """Commit a purge, and know of it here at once. Raises what the database raises."""
        number = self._table.add(scope)
        self._looked_at = -1e9  # whatever is served from now on is looked up first
        return number

    def are_past(self, entry: Entry) -> bool:
        """Whether no purge after the entry's request covers it. Asked only after `is_known`."""
        if entry.number >= self.number:
            return True
        if entry.number < self._oldest:
            return False
        return not any(number > entry.number and scope.covers(entry) for number, scope in reversed(self._known))
