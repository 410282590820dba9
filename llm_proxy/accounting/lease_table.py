"""A worker's leases: a slot for each token in use, and the ledger in which their units are noted."""

import logging
import math
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from llm_proxy.accounting import ledger as ledgers
from llm_proxy.accounting.lease_slot import WARM_S, LeaseSlot
from llm_proxy.accounting.ledger import LAST, SPENT, Ledger
from llm_proxy.accounting.recovery import LedgerRecovery
from llm_proxy.accounting.rows import Rows
from llm_proxy.db.connector import is_cooperative
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.errors import LlmProxyError, ServiceUnavailable

_LOG = logging.getLogger(__name__)
_SWEEP_S = 3600.0
_MOVE_S = 2.0  # between tries of a ledger that is in memory


class LeaseTable:
    """The slots of one worker. Nothing here asks the database, but for the name of the ledger's folder.

    Args:
        root: LEDGER_DIR.
        recovery_rows: For settling what dead workers left.
        fresh_s: How long facts are used without a sync.

    Attributes:
        slots: By token id.
        ledger: None until the first use.
        recovery: The ledgers of other workers; None like `ledger`.
        guard: Held where slots and ledger must not change together with another thread.
        is_closing: No ledger is opened any more.
    """

    def __init__(self, root: Path, recovery_rows: Rows, health: DatabaseHealth, fresh_s: float) -> None:
        self._root, self._recovery_rows, self._health = root, recovery_rows, health
        self._clock, self._fresh_s = health.clock, fresh_s
        self.slots: dict[str, LeaseSlot] = {}
        self.ledger: Ledger | None = None
        self.recovery: LedgerRecovery | None = None
        self.is_closing = False
        # Greenlets do not interrupt each other where nothing waits; threads do.
        self.guard: AbstractContextManager[object] = nullcontext() if is_cooperative() else threading.Lock()
        self._opening = threading.Lock()
        self._closed_at: dict[str, float] = {}  # tokens whose leases were closed a moment ago
        self._swept_at = self._moved_at = -math.inf

    def is_fresh(self, slot: LeaseSlot) -> bool:
        """Return whether the slot's facts may be used without a sync."""
        return self._clock() - slot.synced_at < self._fresh_s

    def spend(self, slot: LeaseSlot, *, is_synced: bool = False) -> bool:
        """Charge one unit if this worker may; False: sync first. Nothing yields from the first check to the last store.

        Args:
            is_synced: The caller answers for the age of the facts.
        """
        ledger = self.ledger
        assert ledger is not None  # there is a slot
        with self.guard:
            now = self._clock()
            if slot.refusal is not None or (now - slot.synced_at >= self._fresh_s and not is_synced):
                return False
            now_s, spent = now + self._health.offset_s, slot.at + SPENT
            if now_s > slot.expires_s or ledger.ints[spent] >= slot.limit:
                return False
            ledger.floats[slot.at + LAST] = now_s
            ledger.ints[spent] += 1
            slot.pending += 1
            return True

    def unspend(self, slot: LeaseSlot) -> None:
        """Return a unit that was not sent."""
        ledger = self.ledger
        with self.guard:
            slot.pending -= 1
            if slot.at >= 0 and ledger is not None:
                ledger.ints[slot.at + SPENT] -= 1

    def touch(self, token_id: str, now_s: float) -> bool:
        """Note a use without a charge; False when the token has no slot."""
        slot, ledger = self.slots.get(token_id), self.ledger
        with self.guard:
            if slot is None or ledger is None:
                return False
            ledger.floats[slot.at + LAST] = now_s
            return True

    def spent(self, slot: LeaseSlot) -> int:
        """Return the units that the ledger shows for a slot."""
        assert self.ledger is not None
        return self.ledger.ints[slot.at + SPENT]

    def last_s(self, slot: LeaseSlot) -> float:
        """Return when the ledger shows the last use."""
        assert self.ledger is not None
        return self.ledger.floats[slot.at + LAST]

    # -- slots come and go --------------------------------------------------------------------------------------------

    def enter(self, token_id: str, rows: Rows, make_room: Callable[[], None]) -> LeaseSlot | None:
        """Return the token's slot, with one waiter more, and a new one when it has none; None: all are taken."""
        slot = self.slots.get(token_id)
        if slot is None:
            ledger = self.opened(rows)
            slot = self._occupy(ledger, token_id)  # opening may have yielded
            if slot is None:
                make_room()
                slot = self._occupy(ledger, token_id)
        if slot is not None:
            slot.waiters += 1
        return slot

    def _occupy(self, ledger: Ledger, token_id: str) -> LeaseSlot | None:
        with self.guard:
            slot = self.slots.get(token_id)
            if slot is not None:
                return slot
            lease = secrets.randbits(63) | 1  # new for each activation: it is the fence
            at = ledger.occupy(token_id, lease)
            if at is None:
                return None
            slot = self.slots[token_id] = LeaseSlot(token_id, lease, at, self._clock())
            slot.is_warm = slot.used_at - self._closed_at.pop(token_id, -math.inf) < WARM_S
            return slot

    def closes(self, slot: LeaseSlot) -> None:
        """Remember that a lease is closed now: a token that comes back at once is in use."""
        self._closed_at[slot.token_id] = self._clock()

    def free(self, slot: LeaseSlot) -> None:
        """Remove a slot that owes nothing."""
        assert self.ledger is not None
        with self.guard:
            self.ledger.clear(slot.at)
            slot.at, slot.limit = -1, 0
            del self.slots[slot.token_id]

    # -- the ledger ---------------------------------------------------------------------------------------------------

    def opened(self, rows: Rows) -> Ledger:
        """Return the ledger; made at the first use, because its folder is named by the database.

        Raises:
            ServiceUnavailable: It cannot be made, or the worker ends.
        """
        if self.ledger is not None:
            return self.ledger
        if self.is_closing:
            raise ServiceUnavailable
        with self._opening:
            if self.ledger is None:
                try:
                    folder = ledgers.folder_of(self._root, rows.database_id())
                    self.ledger = _ledger_in(folder)
                except Exception as error:
                    _LOG.warning("no ledger could be opened: %s", type(error).__name__, exc_info=is_odd(error))
                    raise ServiceUnavailable from error
                self.recovery = LedgerRecovery(folder, self.ledger.path, self._recovery_rows)
        return self.ledger

    def sweep(self) -> None:
        """Forget what is old, move a ledger to its disk that had no room, and every hour remove what crashes left."""
        if self.ledger is not None and self.ledger.is_in_memory:
            self._move_to_disk(self.ledger)
        if self._closed_at:
            recent = self._clock() - WARM_S
            self._closed_at = {id_: at for id_, at in self._closed_at.items() if at > recent}
        if self.ledger is not None and self._clock() - self._swept_at >= _SWEEP_S:
            self._swept_at = self._clock()
            with suppress(OSError):  # others sweep too
                ledgers.sweep(self.ledger.path.parent)

    def _move_to_disk(self, ledger: Ledger) -> None:
        if self._clock() - self._moved_at < _MOVE_S:
            return
        self._moved_at = self._clock()
        with suppress(OSError), self.guard:  # there is still no room
            ledger.move_to_disk()
            _LOG.info("the ledger is in its folder now")

    def close(self) -> None:
        """Remove the ledger; one that still owes units stays for another worker to recover."""
        if self.ledger is not None:
            if self.slots:
                _LOG.error("%d tokens are left to be settled from the ledger", len(self.slots))
                self.ledger.release()
            else:
                self.ledger.remove()
            self.ledger = None
        self.slots.clear()


def _ledger_in(folder: Path) -> Ledger:
    """Return a new ledger in a folder; in memory where the disk is full or fails. Raises OSError."""
    try:
        return Ledger.create(folder)
    except OSError as error:
        _LOG.warning("LEDGER_DIR takes no ledger: it stays in memory until there is room (%s)", error.strerror)
        return Ledger.create_in_memory(folder)


def is_odd(error: BaseException) -> bool:
    """Return whether a log line should say where an error comes from: not for one that an outage brings."""
    return not isinstance(error, LlmProxyError) and not is_unavailable(error)
