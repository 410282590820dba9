"""The rounds that keep a worker's leases and the database together, several a second."""

import logging
import math
import random
import threading
from collections.abc import Callable, Iterable, Mapping

import gevent

from llm_proxy import metrics
from llm_proxy.accounting.lease_settlement import LeaseSettlement
from llm_proxy.accounting.lease_slot import IDLE_S, LARGEST_SLICE, SYNC_S, LeaseSlot
from llm_proxy.accounting.lease_table import LeaseTable, is_odd
from llm_proxy.accounting.rows import Rows
from llm_proxy.accounting.uses import PendingUses
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.model.token import TokenSnapshot

_LOG = logging.getLogger(__name__)
_CLOSE_LIMIT_S = 5.0
_SocketWatch = tuple[Callable[[], Iterable[str]], Callable[[str, TokenSnapshot | None], None]]


class LeaseSync:
    """Settles every slot in rounds, returns what is not needed, and learns what has changed.

    Args:
        rows: Of its own, so that a round does not queue behind requests.
        grace_s: DATABASE_OUTAGE_GRACE.
        warm: Called by each round once the database has responded: requests should not have to open connections.
        pause: Lets others run for so many seconds.
    """

    def __init__(
        self,
        table: LeaseTable,
        settlement: LeaseSettlement,
        uses: PendingUses,
        rows: Rows,
        health: DatabaseHealth,
        *,
        grace_s: float,
        warm: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        self._table, self._settlement, self._uses, self._rows = table, settlement, uses, rows
        self._health, self._clock, self._grace_s = health, health.clock, grace_s
        self._warm, self._pause = warm, pause
        self._streams: Callable[[], Iterable[str]] = tuple
        self._cut: Callable[[str], None] = lambda token_id: None
        self._cuts_with_project = True
        self._socket_watches: list[_SocketWatch] = []
        self._running, self._wake = threading.Lock(), threading.Event()
        self._rounds: gevent.Greenlet | None = None

    def cut_streams(
        self, streams: Callable[[], Iterable[str]], cut: Callable[[str], None], *, with_project: bool
    ) -> None:
        """See `Quota`."""
        self._streams, self._cut, self._cuts_with_project = streams, cut, with_project

    def watch_sockets(
        self, tokens: Callable[[], Iterable[str]], seen: Callable[[str, TokenSnapshot | None], None]
    ) -> None:
        """See `Quota`."""
        self._socket_watches.append((tokens, seen))

    # -- rounds -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run a round now, and further ones in a greenlet."""
        if self._rounds is None:
            self.run()  # before the first request: what a killed host left is settled first
            self._rounds = gevent.spawn(self._run_on)

    def wake(self) -> None:
        """Run the next round now."""
        self._wake.set()

    def run(self) -> None:
        """Run one round. Never raises."""
        if not self._running.acquire(blocking=False):
            return
        try:
            self._round()
        except Exception as error:
            self._health.failed()
            metrics.FLUSH_FAILURES.inc()
            _LOG.warning("quotas could not be synced: %s", type(error).__name__, exc_info=is_odd(error))
        finally:
            self._running.release()

    def _run_on(self) -> None:
        while not self._table.is_closing:
            until = self._clock() + SYNC_S * random.uniform(0.9, 1.1)  # noqa: S311
            self.run()
            self._wake.wait(max(SYNC_S / 8, until - self._clock()))
            self._wake.clear()

    def _round(self) -> None:
        self._table.opened(self._rows)
        slots, streaming = list(self._table.slots.values()), set(self._streams())
        watches = [(set(tokens()), seen) for tokens, seen in self._socket_watches]
        ids = list(streaming.union(*(watched for watched, _ in watches), (slot.token_id for slot in slots)))
        found = self._rows.read(ids) if ids else {}
        if self._health.is_down and not ids:
            self._rows.database_id()
        self._health.succeeded()
        self._warm()
        self._cut_revoked(streaming, found)
        for watched, seen in watches:
            for token_id in watched:
                seen(token_id, found.get(token_id))
        for slot in sorted(slots, key=self._holds_nothing):  # units that others may take for lost come first
            self._settle(slot, found.get(slot.token_id))
        if self._table.recovery is not None:
            self._apart(self._table.recovery.settle, "what dead workers left")
        self._apart(lambda: self._uses.write(self._rows), "times of use")
        self._table.sweep()

    def _apart(self, write: Callable[[], object], what: str) -> None:
        """Write something that may wait for the next round. Raises where the database does not answer reads either."""
        try:
            write()
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._rows.database_id()  # raises where it is the database, and not a lock
            _LOG.warning("%s could not be written in time", what)

    def _cut_revoked(self, streaming: Iterable[str], found: Mapping[str, TokenSnapshot]) -> None:
        for token_id in streaming:
            row = found.get(token_id)
            if row is None or not row.is_active or (self._cuts_with_project and not row.project.is_active):
                self._cut(token_id)

    def _holds_nothing(self, slot: LeaseSlot) -> bool:
        return slot.limit == math.inf or self._table.ledger is None or self._table.spent(slot) >= slot.granted

    def _settle(self, slot: LeaseSlot, row: TokenSnapshot | None) -> None:
        """Settle one token. Raises what means an outage; one bad row must not keep the others from being settled."""
        if not slot.lock.acquire(blocking=False):
            return  # a request syncs it just now
        try:
            if self._table.slots.get(slot.token_id) is slot:
                self._settlement.settle(slot, self._rows, row, is_closing=self._resize(slot))
        except Exception as error:
            if is_unavailable(error):
                self._rows.database_id()  # raises where it is the database, and not this locked row
                _LOG.warning("token %s could not be settled in time", slot.token_id)
                return
            _LOG.exception("token %s could not be settled", slot.token_id)
        finally:
            slot.lock.release()

    def _resize(self, slot: LeaseSlot) -> bool:
        """Hold what was used twice over, nothing when that is nothing; True when the lease is to be closed.

        A token that was used once is closed as it is settled. Of thousands that are used now and then, each would cost
        one or two more swaps a use, until rounds take so long that others count unspent units as lost.
        """
        spent = self._table.spent(slot)
        used, slot.spent_at_sync = spent - slot.spent_at_sync, spent
        slot.is_warm = slot.is_warm or used > 1
        slot.size = min(LARGEST_SLICE, max(0, 2 * used)) if slot.is_warm else 0
        is_rare = used == 1 and not slot.is_warm and slot.refusal is None
        is_rare = is_rare and (slot.limit < math.inf or not self._grace_s)
        if is_rare and not slot.pending and not slot.waiters:
            self._table.closes(slot)
            return True
        is_busy = used or slot.pending or slot.waiters or self._table.last_s(slot) != slot.settled_last_s
        if is_busy:
            slot.used_at = self._clock()
        # An outage is outlasted on what a worker knows: with a grace, unlimited tokens are known for as long.
        idle_s = max(IDLE_S, self._grace_s) if slot.limit == math.inf else IDLE_S
        return not is_busy and self._clock() - slot.used_at >= idle_s

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Settle everything for the last time. Tries for at most 5 seconds; the rest is recovered from the ledger."""
        self._table.is_closing = True
        self._wake.set()
        if self._rounds is not None:
            self._rounds.join(timeout=_CLOSE_LIMIT_S)
        until = self._clock() + _CLOSE_LIMIT_S
        while not self._settle_all() and self._clock() < until:
            self._pause(0.1)
        self._table.close()
        if self._uses:
            _LOG.error("hits or times of use of %d tokens could not be written", len(self._uses))

    def _settle_all(self) -> bool:
        slots = self._table.slots
        try:
            for slot in list(slots.values()):
                with slot.lock:
                    if slots.get(slot.token_id) is slot:
                        slot.pending = 0
                        self._settlement.settle(slot, self._rows, None, is_closing=True)
            self._uses.write(self._rows)
        except Exception as error:
            _LOG.warning("counts could not be settled yet: %s", type(error).__name__, exc_info=is_odd(error))
            metrics.FLUSH_FAILURES.inc()
        return not slots and not self._uses
