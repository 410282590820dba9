"""Bring a slot and its token's row together: settle what was spent, and learn what may be spent next."""

import math
import random
from collections.abc import Callable

from llm_proxy import metrics
from llm_proxy.accounting import leases
from llm_proxy.accounting.lease_slot import LeaseSlot
from llm_proxy.accounting.lease_table import LeaseTable
from llm_proxy.accounting.rows import Rows, Swap
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.errors import LlmProxyError, QuotaExhausted, TokenIdleExpired, TokenNotFound
from llm_proxy.model.token import TokenSnapshot

_LOST_PAUSE_S = 0.01  # at most, after a swap that another worker won
_ATTEMPTS = 20


class LeaseSettlement:
    """Settles slots, one at a time, by compare-and-swap on the row's version.

    Args:
        pause: Lets others run for so many seconds.
    """

    def __init__(self, table: LeaseTable, health: DatabaseHealth, pause: Callable[[float], None]) -> None:
        self._table, self._health, self._clock, self._pause = table, health, health.clock, pause

    def settle(
        self,
        slot: LeaseSlot,
        rows: Rows,
        row: TokenSnapshot | None,
        *,
        is_closing: bool = False,
        is_wanted: bool = False,
    ) -> bool:
        """Bring slot and row together; the caller holds the slot's lock. Raises the driver's errors.

        Args:
            row: What was read just now, if anything; an older one than the slot has seen is not used.
            is_closing: The lease is closed, too.
            is_wanted: A call is about to use the token.

        Returns:
            False when others were faster too often.
        """
        for _ in range(_ATTEMPTS):
            if row is None or row.lease_version < slot.version:
                row = rows.read([slot.token_id]).get(slot.token_id)
            if row is None:
                self._gone(slot)
                return True
            if self._swap(slot, rows, row, is_closing=is_closing, is_wanted=is_wanted):
                return True
            row = None
            self._pause(random.uniform(0, _LOST_PAUSE_S))  # noqa: S311
        return False

    def _swap(self, slot: LeaseSlot, rows: Rows, row: TokenSnapshot, *, is_closing: bool, is_wanted: bool) -> bool:
        death = self._death(row)
        is_unlimited = row.max_requests is None and death is None and not is_closing
        now_s = row.database_s + max(0.0, self._clock() - row.read_at)
        with self._table.guard:  # nothing yields from reading what was spent to lowering the limit
            spent, last_s = self._table.spent(slot), self._table.last_s(slot)
            claim = leases.Claim(slot.lease, spent, slot.granted, slot.waiters, slot.size, is_closing)
            plan = leases.plan(row, claim, now_s, is_dead=death is not None)
            if not is_unlimited:
                slot.limit = min(slot.limit, plan.granted)  # lowered before asking
            if is_closing:
                slot.granted = spent  # if the response is lost and the key gone, nothing is owed
            slot.version, slot.synced_at = row.lease_version, max(slot.synced_at, row.read_at)
            slot.expires_s = math.inf if row.expires_at is None else row.expires_at.timestamp()
            slot.refusal = death or slot.refusal
        used_s = last_s if last_s != slot.settled_last_s else None
        if is_wanted and (is_unlimited or plan.granted > spent):
            used_s = max(now_s, last_s)
        if plan.is_change or used_s is not None:
            if not rows.swap(Swap(slot.token_id, row.lease_version, plan, used_s)):
                return False
            slot.version += 1
            metrics.count_settled("owner", plan.delta)
            metrics.count_settled("lapsed", plan.charged)
        if is_closing:
            self._table.free(slot)
            return True
        slot.limit = math.inf if is_unlimited and plan.is_held else plan.granted  # raised only after a sure response
        slot.granted, slot.settled_last_s = plan.granted, last_s
        slot.refusal = death or (QuotaExhausted if plan.is_exhausted else None)
        return True

    def _death(self, row: TokenSnapshot) -> type[LlmProxyError] | None:
        """Return why the row refuses further units. A use that is not written yet may have ended its idleness."""
        death = row.death(self._health.now())
        return None if death is TokenIdleExpired else death

    def _gone(self, slot: LeaseSlot) -> None:
        """Refuse further units: the row does not exist any more, so that nothing is owed to it."""
        slot.limit, slot.refusal, slot.synced_at = 0, TokenNotFound, self._clock()
        if not slot.pending:
            self._table.free(slot)
