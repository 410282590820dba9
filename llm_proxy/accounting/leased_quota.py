"""Exact quotas by leases: units are reserved in slices, noted before dispatch, settled in rounds (ADR 0090).

A worker's side of each token in use is a `LeaseSlot`. A request notes its unit in the ledger, without asking the
database, while the slot's facts are fresh and its slice lasts; else it syncs with the row, or waits for other workers.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import Engine

from llm_proxy import metrics
from llm_proxy.accounting.lease_settlement import LeaseSettlement
from llm_proxy.accounting.lease_slot import (
    FIRST_SLICE,
    FRESH_S,
    LARGEST_SLICE,
    POLL_S,
    STATEMENT_S,
    WAIT_S,
    LeaseSlot,
    LeaseUnit,
)
from llm_proxy.accounting.lease_sync import LeaseSync
from llm_proxy.accounting.lease_table import LeaseTable, is_odd
from llm_proxy.accounting.ledger import root_of
from llm_proxy.accounting.rows import DatabaseRows, Refresh, Rows
from llm_proxy.accounting.uses import PendingUses
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.errors import Overloaded, QuotaExhausted, ServiceUnavailable
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.settings import Settings

_LOG = logging.getLogger(__name__)


class LeasedQuota:
    """Implements `quota.Quota`.

    Args:
        rows: For requests.
        sync_rows: For the rounds, which must not queue behind requests.
        root: LEDGER_DIR.
        health: What is known of the database.
        fresh_s: Shortens FRESH_S.
        grace_s: DATABASE_OUTAGE_GRACE.
        early_at: Tokens with something to write behind before a round that comes early.
        warm: See `LeaseSync`.
        pause: Lets others run for so many seconds.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        root: Path,
        health: DatabaseHealth,
        sync_rows: Rows | None = None,
        fresh_s: float = FRESH_S,
        grace_s: float = 0.0,
        early_at: int = 1000,
        warm: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rows, self._sync_rows = rows, sync_rows or rows
        self._health, self._clock, self._pause = health, health.clock, pause
        self._fresh_s, self._grace_s, self._early_at = min(fresh_s, FRESH_S), grace_s, early_at
        self._table = LeaseTable(root, self._sync_rows, health, self._fresh_s)
        self._slots, self._spend, self._guard = self._table.slots, self._table.spend, self._table.guard
        self._settlement, self._uses = LeaseSettlement(self._table, health, pause), PendingUses(self._guard)
        self._sync = LeaseSync(
            self._table, self._settlement, self._uses, self._sync_rows, health, grace_s=grace_s, warm=warm, pause=pause
        )

    @classmethod
    def build(
        cls,
        settings: Settings,
        engine: Engine,
        statements: RawConnectionPool,
        refresh: Refresh,
        health: DatabaseHealth,
    ) -> "LeasedQuota":
        """Return a worker's quota.

        Args:
            statements: Those of requests; rounds have a connection that does not queue behind them.
            refresh: Reads tokens, for this worker's requests as well.
        """
        rounds = RawConnectionPool(engine, 1, limit_s=STATEMENT_S, open_limit_s=1.0)
        return cls(
            DatabaseRows(statements, refresh),
            sync_rows=DatabaseRows(rounds, refresh),
            root=root_of(settings),
            health=health,
            fresh_s=settings.tokens.cache_ttl_s,
            grace_s=settings.storage.outage_grace_s,
            early_at=settings.tokens.cache_stats_buffer_size,
            warm=statements.warm,
        )

    # -- a request ----------------------------------------------------------------------------------------------------

    def check(self, token: TokenSnapshot) -> None:
        """See `Quota`."""
        slot = self._slots.get(token.id)
        if slot is not None and slot.refusal is QuotaExhausted and self._table.is_fresh(slot):
            raise QuotaExhausted
        if token.max_requests is not None and token.request_count >= token.max_requests:
            raise QuotaExhausted

    def reserve(self, token: TokenSnapshot) -> LeaseUnit:
        """See `Quota`."""
        slot = self._slots.get(token.id)
        if slot is not None and self._spend(slot):
            return LeaseUnit(slot)
        return self._reserve_slowly(token)

    def commit(self, unit: LeaseUnit) -> None:
        """See `Quota`."""
        if unit.is_open:
            unit.is_open = False
            with self._guard:
                unit.slot.pending -= 1

    def release(self, unit: LeaseUnit) -> None:
        """See `Quota`."""
        if unit.is_open:
            unit.is_open = False
            self._table.unspend(unit.slot)

    def touch(self, token: TokenSnapshot) -> None:
        """See `Quota`."""
        now_s = self._health.now_s()
        if not self._table.touch(token.id, now_s):
            self._write_behind(token.id, used_s=now_s)

    def count_hit(self, token: TokenSnapshot) -> None:
        """See `Quota`."""
        now_s = self._health.now_s()
        self._write_behind(token.id, hits=1, used_s=None if self._table.touch(token.id, now_s) else now_s)

    def forget(self, token_id: str) -> None:
        """See `Quota`."""
        slot = self._slots.get(token_id)
        if slot is not None:
            slot.synced_at = -math.inf

    def _write_behind(self, token_id: str, *, hits: int = 0, used_s: float | None) -> None:
        self._uses.add(token_id, hits=hits, used_s=used_s)
        if len(self._uses) >= self._early_at:
            self._sync.wake()

    # -- a request that finds no unit at once --------------------------------------------------------------------------

    def _reserve_slowly(self, token: TokenSnapshot) -> LeaseUnit:
        until, has_waited, slot = self._clock() + WAIT_S, False, self._enter(token.id)
        try:
            while True:
                if self._slots.get(token.id) is not slot:  # it waited out a closing: a new lease
                    slot.waiters -= 1
                    slot = self._enter(token.id)
                unit = self._attempt(slot, token)
                if unit is not None:
                    break
                if self._clock() >= until:
                    metrics.quota_waits["timeout"].inc()
                    raise ServiceUnavailable
                if self._slots.get(token.id) is slot:
                    has_waited = True
                    self._pause(POLL_S)
        except QuotaExhausted:
            if has_waited:
                metrics.quota_waits["refused"].inc()
            raise
        finally:
            slot.waiters -= 1
        if has_waited:
            metrics.quota_waits["unit"].inc()
        return unit

    def _enter(self, token_id: str) -> LeaseSlot:
        slot = self._table.enter(token_id, self._rows, self._close_idlest)
        if slot is None:
            raise Overloaded
        return slot

    def _attempt(self, slot: LeaseSlot, token: TokenSnapshot) -> LeaseUnit | None:
        """Return a unit now; None: wait, or start over. Raises what `reserve` raises."""
        with slot.lock:
            if self._slots.get(slot.token_id) is not slot:
                return None
            if self._spend(slot) or (self._health.is_down and self._admit_during_outage(slot)):
                return LeaseUnit(slot)
            if self._health.is_down:
                raise ServiceUnavailable
            if slot.refusal is not None and self._table.is_fresh(slot):
                raise slot.refusal
            if self._clock() - slot.dry_at < POLL_S:
                return None  # another request has just asked
            if not self._settle_wanted(slot, token):
                return LeaseUnit(slot)  # the outage is young
            if self._spend(slot, is_synced=True):
                return LeaseUnit(slot)
            if slot.refusal is not None:
                raise slot.refusal
            slot.dry_at = self._clock()
            return None

    def _settle_wanted(self, slot: LeaseSlot, token: TokenSnapshot) -> bool:
        """Settle for a call; False: the database failed, and a unit was noted all the same."""
        slot.size = min(LARGEST_SLICE, max(FIRST_SLICE if slot.is_warm else 1, 2 * slot.size))
        is_recent = token.database_s and self._clock() - token.read_at < self._fresh_s / 2
        try:
            self._settlement.settle(slot, self._rows, token if is_recent else None, is_wanted=True)
        except Exception as error:
            if self._admit_during_outage(slot):
                return False
            _LOG.warning("quota could not be settled: %s", type(error).__name__, exc_info=is_odd(error))
            raise ServiceUnavailable from error
        return True

    def _admit_during_outage(self, slot: LeaseSlot) -> bool:
        """Note a unit of an unlimited token on facts that an outage has kept from being fresh."""
        age_s = self._clock() - slot.synced_at
        return slot.limit == math.inf and age_s < self._fresh_s + self._grace_s and self._spend(slot, is_synced=True)

    def _close_idlest(self) -> None:
        """Close an unused lease, because all slots are taken."""
        for slot in sorted(self._slots.values(), key=lambda slot: slot.used_at)[:10]:
            if not slot.pending and not slot.waiters and slot.lock.acquire(blocking=False):
                try:
                    is_there = self._slots.get(slot.token_id) is slot
                    if is_there and self._settlement.settle(slot, self._rows, None, is_closing=True):
                        return
                except Exception as error:
                    _LOG.warning("a lease could not be closed: %s", type(error).__name__)
                    return
                finally:
                    slot.lock.release()

    # -- rounds and the end -------------------------------------------------------------------------------------------

    def cut_streams(
        self, streams: Callable[[], Iterable[str]], cut: Callable[[str], None], *, with_project: bool = True
    ) -> None:
        """See `Quota`."""
        self._sync.cut_streams(streams, cut, with_project=with_project)

    def watch_sockets(
        self, tokens: Callable[[], Iterable[str]], seen: Callable[[str, TokenSnapshot | None], None]
    ) -> None:
        """See `Quota`."""
        self._sync.watch_sockets(tokens, seen)

    def start(self) -> None:
        """See `Quota`."""
        self._sync.start()

    def sync(self) -> None:
        """See `Quota`."""
        self._sync.run()

    def close(self) -> None:
        """See `Quota`."""
        self._sync.close()
        for rows in {id(rows): rows for rows in (self._rows, self._sync_rows)}.values():
            rows.close()
