"""The two statements of accounting: read tokens, and change one whose version is still the one that was read.

Both are alone in their transaction, the same on three databases; no lock is held over a round trip.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from llm_proxy import metrics
from llm_proxy.accounting.leases import Plan, render
from llm_proxy.db.errors import is_lost_race
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.model.token import TokenSnapshot

_LATER = "last_used_at = CASE WHEN last_used_at IS NULL OR last_used_at < ? THEN ? ELSE last_used_at END"
_SWAP = f"""\
UPDATE tokens SET lease_version = lease_version + 1, request_count = ?, leases = ?, {_LATER}
 WHERE id = ? AND lease_version = ?"""  # noqa: S608
_COUNT_HITS = "UPDATE tokens SET cache_hit_count = cache_hit_count + ? WHERE id = ?"  # a counter alone
_COUNT_USE = f"""\
UPDATE tokens SET cache_hit_count = cache_hit_count + ?, lease_version = lease_version + 1, {_LATER}
 WHERE id = ?"""  # noqa: S608
_INSTANCE = "SELECT id FROM instance"


@dataclass(frozen=True, slots=True)
class Swap:
    """A change of one row."""

    token_id: str
    version: int  # that the row must still have
    plan: Plan
    used_s: float | None  # seconds since 1970; None leaves the time of use alone


@dataclass(slots=True)
class Use:
    """What is added to a row without a unit."""

    hits: int = 0
    used_s: float | None = None


class Rows(Protocol):
    """The tokens table, as accounting uses it. Every method may raise the driver's errors."""

    def read(self, token_ids: Sequence[str]) -> Mapping[str, TokenSnapshot]:
        """Tokens by id; what is not there does not exist."""

    def swap(self, swap: Swap) -> bool:
        """Whether the row was changed; False: another writer was first, and nothing was done."""

    def add(self, uses: Mapping[str, Use]) -> None:
        """Add hits and times of use; all or nothing. Tokens that are gone do not matter."""

    def database_id(self) -> str:
        """Names this database."""

    def close(self) -> None:
        """Close the connections."""


Refresh = Callable[[Sequence[str], RawConnectionPool], Mapping[str, TokenSnapshot]]


class DatabaseRows:
    """The real one.

    Args:
        refresh: Reads tokens for all that remember them.
    """

    def __init__(self, statements: RawConnectionPool, refresh: Refresh) -> None:
        self._statements, self._refresh = statements, refresh

    def read(self, token_ids: Sequence[str]) -> Mapping[str, TokenSnapshot]:
        """See `Rows`."""
        started = time.perf_counter()
        found = self._refresh(token_ids, self._statements)
        metrics.db_duration["read"].observe(time.perf_counter() - started)
        return found

    def swap(self, swap: Swap) -> bool:
        """See `Rows`."""
        plan, used_at = swap.plan, None if swap.used_s is None else self._time(swap.used_s)
        started = time.perf_counter()
        try:
            found = self._statements.write(
                _SWAP, (plan.count, render(plan.leases), used_at, used_at, swap.token_id, swap.version)
            )
        except Exception as error:
            if not is_lost_race(error):
                metrics.lease_swaps["failed"].inc()
                raise
            found = 0
        metrics.db_duration["swap"].observe(time.perf_counter() - started)
        metrics.lease_swaps["done" if found else "lost"].inc()
        return found == 1

    def add(self, uses: Mapping[str, Use]) -> None:
        """See `Rows`."""
        statements: list[tuple[str, tuple[object, ...]]] = []
        for token_id in sorted(uses):  # in one order everywhere: two workers cannot deadlock
            use = uses[token_id]
            if use.used_s is None:
                statements.append((_COUNT_HITS, (use.hits, token_id)))
            else:
                used_at = self._time(use.used_s)
                statements.append((_COUNT_USE, (use.hits, used_at, used_at, token_id)))
        self._statements.batch(statements)

    def database_id(self) -> str:
        """See `Rows`."""
        return str(self._statements.read(_INSTANCE, ())[0][0])

    def close(self) -> None:
        """See `Rows`."""
        self._statements.close()

    def _time(self, seconds: float) -> object:
        return self._statements.time(datetime.fromtimestamp(seconds, UTC))
