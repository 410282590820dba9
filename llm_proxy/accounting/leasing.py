"""Exact quotas by leases: units are reserved in slices, noted before dispatch, settled by a beat (accounting.md).

A worker's side of each token in use is a `Slot`. A request notes its unit in the ledger, without asking the database,
while the slot's facts are fresh and its slice lasts; else it syncs with the row, or waits for what others hold.
"""

import logging
import math
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import gevent

from llm_proxy import metrics
from llm_proxy.accounting import leases
from llm_proxy.accounting import ledger as ledgers
from llm_proxy.accounting.ledger import LAST, SPENT, Ledger
from llm_proxy.accounting.mates import Mates
from llm_proxy.accounting.rows import Rows, Swap, Use
from llm_proxy.db.connector import is_cooperative
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.errors import (
    LlmProxyError,
    Overloaded,
    QuotaExhausted,
    ServiceUnavailable,
    TokenIdleExpired,
    TokenNotFound,
)
from llm_proxy.model.token import TokenSnapshot

_LOG = logging.getLogger(__name__)


BEAT_S = 0.4  # ± 10 %: workers should not beat in step
FRESH_S = 0.9  # facts and units older than this are not used without a sync
IDLE_S = 5.0  # then a lease is closed
WAIT_S = 3.0  # for units that others hold
POLL_S = 0.05  # while waiting
STATEMENT_S = 0.25
_LOST_PAUSE_S = 0.01  # at most, after a swap that another worker won
_ATTEMPTS = 20
WARM_S = 0.9  # a token that comes back so soon after its lease was closed is in use
_SocketWatch = tuple[Callable[[], Iterable[str]], Callable[[str, TokenSnapshot | None], None]]
_FIRST_SLICE, _LARGEST_SLICE = 4, 1 << 20
_BATCH = 200  # rows of one write behind
_CLOSE_LIMIT_S = 5.0
_SWEEP_S = 3600.0


class Slot:
    """A token in use: this worker's lease of it.

    Attributes:
        at: Its first word in the ledger; -1 once it was freed.
        limit: Units that may be spent in all; never more than the row grants.
        granted: What the row granted at the last sure swap.
        version: The row's version, as last seen.
        synced_at: When the facts were read, in monotonic seconds.
        refusal: Why nothing can be had.
        pending: Units taken whose first byte was not sent yet.
        is_warm: It is used more than now and then: it may hold units between two uses.
        waiters: Calls on their way to a unit.
        size: Units to hold unspent.
        dry_at: When a sync last had nothing to give.
        lock: One sync at a time.
    """

    __slots__ = (
        "at", "dry_at", "expires_s", "granted", "is_warm", "lease", "limit", "lock", "pending", "refusal",
        "settled_last_s", "size", "spent_at_beat", "synced_at", "token_id", "used_at", "version", "waiters",
    )  # fmt: skip

    def __init__(self, token_id: str, lease: int, at: int, now: float) -> None:
        self.token_id, self.lease, self.at, self.used_at = token_id, lease, at, now
        self.limit: float = 0
        self.granted = self.version = self.pending = self.waiters = self.size = self.spent_at_beat = 0
        self.synced_at = self.dry_at = -math.inf
        self.expires_s, self.settled_last_s = math.inf, 0.0
        self.refusal: type[LlmProxyError] | None = None
        self.is_warm = False
        self.lock = threading.Lock()


class SlotUnit:
    """See `admission.Unit`."""

    __slots__ = ("is_open", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot, self.is_open = slot, True


class LeasedAdmission:
    """See `admission.Admission`.

    Args:
        rows: For requests.
        beat_rows: For the beat, which must not queue behind requests.
        root: LEDGER_DIR.
        health: What is known of the database.
        fresh_s: Shortens FRESH_S.
        grace_s: DATABASE_OUTAGE_GRACE.
        early_at: Tokens with something to write behind before a beat that comes early.
        warm: Called by each beat once the database has answered: requests should not have to open connections.
        pause: Lets others run for so many seconds.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        root: Path,
        health: DatabaseHealth,
        beat_rows: Rows | None = None,
        fresh_s: float = FRESH_S,
        grace_s: float = 0.0,
        early_at: int = 1000,
        warm: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rows, self._beat_rows = rows, beat_rows or rows
        self._root, self._health, self._clock, self._pause = root, health, health.clock, pause
        self._fresh_s, self._grace_s, self._early_at = min(fresh_s, FRESH_S), grace_s, early_at
        self._warm = warm
        self._slots: dict[str, Slot] = {}
        self._uses: dict[str, Use] = {}
        self._closed_at: dict[str, float] = {}  # tokens whose leases were closed a moment ago
        self._ledger: Ledger | None = None
        self._mates: Mates | None = None
        self._opening, self._beating = threading.Lock(), threading.Lock()
        # Greenlets do not interrupt each other where nothing waits; threads do.
        self._guard: AbstractContextManager[object] = nullcontext() if is_cooperative() else threading.Lock()
        self._streams: Callable[[], Iterable[str]] = tuple
        self._cut: Callable[[str], None] = lambda token_id: None
        self._cuts_with_project = True
        self._socket_watches: list[_SocketWatch] = []
        self._wake = threading.Event()
        self._beats: gevent.Greenlet | None = None
        self._is_closing = False
        self._swept_at = -math.inf

    def cut_streams(
        self, streams: Callable[[], Iterable[str]], cut: Callable[[str], None], *, with_project: bool = True
    ) -> None:
        """REVOKE_CUTS_STREAMS: `streams` names the tokens that have live ones, `cut` ends those of a revoked one.

        With `with_project`, a token whose project is deactivated counts as revoked.
        """
        self._streams, self._cut, self._cuts_with_project = streams, cut, with_project

    def watch_sockets(
        self, tokens: Callable[[], Iterable[str]], seen: Callable[[str, TokenSnapshot | None], None]
    ) -> None:
        """See `Admission`."""
        self._socket_watches.append((tokens, seen))

    # -- a request ----------------------------------------------------------------------------------------------------

    def peek(self, token: TokenSnapshot) -> None:
        """See `Admission`."""
        slot = self._slots.get(token.id)
        if slot is not None and slot.refusal is QuotaExhausted and self._is_fresh(slot):
            raise QuotaExhausted
        if token.max_requests is not None and token.request_count >= token.max_requests:
            raise QuotaExhausted

    def take(self, token: TokenSnapshot) -> SlotUnit:
        """See `Admission`."""
        slot = self._slots.get(token.id)
        if slot is not None and self._note(slot):
            return SlotUnit(slot)
        return self._take_slowly(token)

    def sent(self, unit: SlotUnit) -> None:
        """See `Admission`."""
        if unit.is_open:
            unit.is_open = False
            with self._guard:
                unit.slot.pending -= 1

    def refund(self, unit: SlotUnit) -> None:
        """See `Admission`."""
        if unit.is_open:
            unit.is_open = False
            slot, ledger = unit.slot, self._ledger
            with self._guard:
                slot.pending -= 1
                if slot.at >= 0 and ledger is not None:
                    ledger.ints[slot.at + SPENT] -= 1

    def touch(self, token: TokenSnapshot) -> None:
        """See `Admission`."""
        self._used(token.id, hits=0)

    def hit(self, token: TokenSnapshot) -> None:
        """See `Admission`."""
        self._used(token.id, hits=1)

    def forget(self, token_id: str) -> None:
        """See `Admission`."""
        slot = self._slots.get(token_id)
        if slot is not None:
            slot.synced_at = -math.inf

    def _is_fresh(self, slot: Slot) -> bool:
        return self._clock() - slot.synced_at < self._fresh_s

    def _note(self, slot: Slot, *, is_synced: bool = False) -> bool:
        """Charge one unit if this worker may; False: sync first. Nothing yields from the first check to the last store.

        Args:
            is_synced: The caller answers for the age of the facts.
        """
        ledger = self._ledger
        assert ledger is not None  # there is a slot
        with self._guard:
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

    def _used(self, token_id: str, *, hits: int) -> None:
        slot, ledger, now_s = self._slots.get(token_id), self._ledger, self._health.now_s()
        with self._guard:
            if slot is not None and ledger is not None:
                ledger.floats[slot.at + LAST] = now_s
                if not hits:
                    return
            use = self._uses.get(token_id)
            if use is None:
                use = self._uses[token_id] = Use()
            use.hits += hits
            if slot is None:
                use.used_s = now_s
        if len(self._uses) >= self._early_at:
            self._wake.set()

    # -- a request that finds no unit at once --------------------------------------------------------------------------

    def _take_slowly(self, token: TokenSnapshot) -> SlotUnit:
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

    def _enter(self, token_id: str) -> Slot:
        """Return the token's slot, with one waiter more; a new one when it has none."""
        slot = self._slots.get(token_id)
        if slot is None:
            ledger = self._opened()
            with self._guard:
                slot = self._slots.get(token_id)  # opening may have yielded
                if slot is None:
                    slot = self._occupy(ledger, token_id)
            if slot is None:
                self._close_idlest()
                with self._guard:
                    slot = self._slots.get(token_id) or self._occupy(ledger, token_id)
            if slot is None:
                raise Overloaded
        slot.waiters += 1
        return slot

    def _occupy(self, ledger: Ledger, token_id: str) -> Slot | None:
        lease = secrets.randbits(63) | 1  # new for each activation: it is the fence
        at = ledger.occupy(token_id, lease)
        if at is None:
            return None
        slot = self._slots[token_id] = Slot(token_id, lease, at, self._clock())
        slot.is_warm = slot.used_at - self._closed_at.pop(token_id, -math.inf) < WARM_S
        return slot

    def _attempt(self, slot: Slot, token: TokenSnapshot) -> SlotUnit | None:
        """Return a unit now; None: wait, or start over. Raises what `take` raises."""
        with slot.lock:
            if self._slots.get(slot.token_id) is not slot:
                return None
            if self._note(slot) or (self._health.is_down and self._outlast(slot)):
                return SlotUnit(slot)
            if self._health.is_down:
                raise ServiceUnavailable
            if slot.refusal is not None and self._is_fresh(slot):
                raise slot.refusal
            if self._clock() - slot.dry_at < POLL_S:
                return None  # another request has just asked
            if not self._sync_wanted(slot, token):
                return SlotUnit(slot)  # the outage is young
            if self._note(slot, is_synced=True):
                return SlotUnit(slot)
            if slot.refusal is not None:
                raise slot.refusal
            slot.dry_at = self._clock()
            return None

    def _sync_wanted(self, slot: Slot, token: TokenSnapshot) -> bool:
        """Sync for a call; False: the database failed, and a unit was noted all the same."""
        slot.size = min(_LARGEST_SLICE, max(_FIRST_SLICE if slot.is_warm else 1, 2 * slot.size))
        is_recent = token.database_s and self._clock() - token.read_at < self._fresh_s / 2
        try:
            self._sync(slot, self._rows, token if is_recent else None, is_wanted=True)
        except Exception as error:
            if self._outlast(slot):
                return False
            _LOG.warning("quota could not be settled: %s", type(error).__name__, exc_info=_is_odd(error))
            raise ServiceUnavailable from error
        return True

    def _outlast(self, slot: Slot) -> bool:
        """Note a unit of an unlimited token on facts that an outage has kept from being fresh."""
        age_s = self._clock() - slot.synced_at
        return slot.limit == math.inf and age_s < self._fresh_s + self._grace_s and self._note(slot, is_synced=True)

    def _close_idlest(self) -> None:
        """All slots are taken: close an unused one."""
        for slot in sorted(self._slots.values(), key=lambda slot: slot.used_at)[:10]:
            if not slot.pending and not slot.waiters and slot.lock.acquire(blocking=False):
                try:
                    if self._slots.get(slot.token_id) is slot and self._sync(slot, self._rows, None, is_closing=True):
                        return
                except Exception as error:
                    _LOG.warning("a lease could not be closed: %s", type(error).__name__)
                    return
                finally:
                    slot.lock.release()

    # -- the sync -----------------------------------------------------------------------------------------------------

    def _sync(
        self, slot: Slot, rows: Rows, row: TokenSnapshot | None, *, is_closing: bool = False, is_wanted: bool = False
    ) -> bool:
        """Bring slot and row together; the caller holds the slot's lock. Raises the driver's errors.

        Args:
            row: What was read just now, if anything; an older one than the slot has seen is not used.
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

    def _swap(self, slot: Slot, rows: Rows, row: TokenSnapshot, *, is_closing: bool, is_wanted: bool) -> bool:
        ledger = self._ledger
        assert ledger is not None
        death = self._death(row)
        is_unlimited = row.max_requests is None and death is None and not is_closing
        now_s = row.database_s + max(0.0, self._clock() - row.read_at)
        with self._guard:  # nothing yields from reading what was spent to lowering the limit
            spent, last_s = ledger.ints[slot.at + SPENT], ledger.floats[slot.at + LAST]
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
            metrics.units_settled["owner"].inc(max(0, plan.delta))
            metrics.units_settled["silence"].inc(plan.charged)
        if is_closing:
            self._free(slot)
            return True
        slot.limit = math.inf if is_unlimited and plan.is_held else plan.granted  # raised only after a sure answer
        slot.granted, slot.settled_last_s = plan.granted, last_s
        slot.refusal = death or (QuotaExhausted if plan.is_exhausted else None)
        return True

    def _death(self, row: TokenSnapshot) -> type[LlmProxyError] | None:
        """Return why the row refuses further units. A use that is not written yet may have ended its idleness."""
        death = row.death(self._health.now())
        return None if death is TokenIdleExpired else death

    def _gone(self, slot: Slot) -> None:
        """Forget a row that does not exist any more: nothing is owed to it."""
        slot.limit, slot.refusal, slot.synced_at = 0, TokenNotFound, self._clock()
        if not slot.pending:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        assert self._ledger is not None
        with self._guard:
            self._ledger.clear(slot.at)
            slot.at, slot.limit = -1, 0
            del self._slots[slot.token_id]

    # -- the beat -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See `Admission`."""
        if self._beats is None:
            self.beat()  # before the first request: what a killed machine left is settled first
            self._beats = gevent.spawn(self._run)

    def beat(self) -> None:
        """See `Admission`."""
        if not self._beating.acquire(blocking=False):
            return
        try:
            self._beat()
        except Exception as error:
            self._health.failed()
            metrics.FLUSH_FAILURES.inc()
            _LOG.warning("a beat failed: %s", type(error).__name__, exc_info=_is_odd(error))
        finally:
            self._beating.release()

    def _run(self) -> None:
        while not self._is_closing:
            until = self._clock() + BEAT_S * random.uniform(0.9, 1.1)  # noqa: S311
            self.beat()
            self._wake.wait(max(BEAT_S / 8, until - self._clock()))
            self._wake.clear()

    def _beat(self) -> None:
        rows = self._beat_rows
        self._opened(rows)
        slots, streaming = list(self._slots.values()), set(self._streams())
        watches = [(set(tokens()), seen) for tokens, seen in self._socket_watches]
        ids = list(streaming.union(*(watched for watched, _ in watches), (slot.token_id for slot in slots)))
        found = rows.read(ids) if ids else {}
        if self._health.is_down and not ids:
            rows.database_id()
        self._health.answered()
        self._warm()
        for token_id in streaming:
            row = found.get(token_id)
            if row is None or not row.is_active or (self._cuts_with_project and not row.project.is_active):
                self._cut(token_id)
        for watched, seen in watches:
            for token_id in watched:
                seen(token_id, found.get(token_id))
        for slot in sorted(slots, key=self._holds_nothing):  # units that others may take for lost come first
            self._beat_slot(slot, found.get(slot.token_id))
        if self._mates is not None:
            self._mates.settle()
        self._write_uses()
        self._sweep()

    def _holds_nothing(self, slot: Slot) -> bool:
        return slot.limit == math.inf or self._ledger is None or self._ledger.ints[slot.at + SPENT] >= slot.granted

    def _beat_slot(self, slot: Slot, row: TokenSnapshot | None) -> None:
        """Settle one token. Raises what means an outage; one bad row must not keep the others from being settled."""
        if not slot.lock.acquire(blocking=False):
            return  # a request syncs it just now
        try:
            if self._slots.get(slot.token_id) is slot:
                self._sync(slot, self._beat_rows, row, is_closing=self._resize(slot))
        except Exception as error:
            if is_unavailable(error):
                self._beat_rows.database_id()  # raises where it is the database, and not this locked row
                _LOG.warning("token %s could not be settled in time", slot.token_id)
                return
            _LOG.exception("token %s could not be settled", slot.token_id)
        finally:
            slot.lock.release()

    def _resize(self, slot: Slot) -> bool:
        """Hold what was used twice over, nothing when that is nothing; True when the lease is to be closed.

        A token that was used once is closed as it is settled. Of thousands that are used now and then, each would cost
        one or two more swaps a use, until beats take so long that others count unspent units as lost.
        """
        assert self._ledger is not None
        spent = self._ledger.ints[slot.at + SPENT]
        used, slot.spent_at_beat = spent - slot.spent_at_beat, spent
        slot.is_warm = slot.is_warm or used > 1
        slot.size = min(_LARGEST_SLICE, max(0, 2 * used)) if slot.is_warm else 0
        is_rare = used == 1 and not slot.is_warm and slot.refusal is None
        is_rare = is_rare and (slot.limit < math.inf or not self._grace_s)
        if is_rare and not slot.pending and not slot.waiters:
            self._closed_at[slot.token_id] = self._clock()
            return True
        is_busy = used or slot.pending or slot.waiters or self._ledger.floats[slot.at + LAST] != slot.settled_last_s
        if is_busy:
            slot.used_at = self._clock()
        # An outage is outlasted on what a worker knows: with a grace, unlimited tokens are known for as long.
        idle_s = max(IDLE_S, self._grace_s) if slot.limit == math.inf else IDLE_S
        return not is_busy and self._clock() - slot.used_at >= idle_s

    def _write_uses(self) -> None:
        """Write hits and times of use; what could not be written stays."""
        with self._guard:
            taken, self._uses = self._uses, {}
        ids = sorted(taken)
        try:
            while ids:
                self._beat_rows.add({id_: taken[id_] for id_ in ids[:_BATCH]})
                del ids[:_BATCH]
        finally:
            for id_ in ids:
                self._keep(id_, taken[id_])

    def _keep(self, token_id: str, use: Use) -> None:
        with self._guard:
            later = self._uses.setdefault(token_id, Use())
            later.hits += use.hits
            if later.used_s is None:
                later.used_s = use.used_s

    def _sweep(self) -> None:
        if self._closed_at:
            recent = self._clock() - WARM_S
            self._closed_at = {id_: at for id_, at in self._closed_at.items() if at > recent}
        if self._ledger is not None and self._clock() - self._swept_at >= _SWEEP_S:
            self._swept_at = self._clock()
            with suppress(OSError):  # others sweep too
                ledgers.sweep(self._ledger.path.parent)

    def _opened(self, rows: Rows | None = None) -> Ledger:
        """Return the ledger; made at the first use, because its folder is named by the database."""
        if self._ledger is not None:
            return self._ledger
        if self._is_closing:
            raise ServiceUnavailable
        with self._opening:
            if self._ledger is None:
                try:
                    folder = ledgers.folder_of(self._root, (rows or self._rows).database_id())
                    self._ledger = Ledger.create(folder)
                except Exception as error:
                    _LOG.warning("no ledger could be opened: %s", type(error).__name__, exc_info=_is_odd(error))
                    raise ServiceUnavailable from error
                self._mates = Mates(folder, self._ledger.path, self._beat_rows)
        return self._ledger

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See `Admission`. Tries for at most 5 seconds; another worker settles the rest from the ledger."""
        self._is_closing = True
        self._wake.set()
        if self._beats is not None:
            self._beats.join(timeout=_CLOSE_LIMIT_S)
        until = self._clock() + _CLOSE_LIMIT_S
        while not self._settle_all() and self._clock() < until:
            self._pause(0.1)
        if self._ledger is not None:
            if self._slots:
                _LOG.error("%d tokens are left to be settled from the ledger", len(self._slots))
                self._ledger.let_go()
            else:
                self._ledger.remove()
            self._ledger = None
        if self._uses:
            _LOG.error("hits or times of use of %d tokens could not be written", len(self._uses))
        self._slots = {}
        for rows in {id(rows): rows for rows in (self._rows, self._beat_rows)}.values():
            rows.close()

    def _settle_all(self) -> bool:
        try:
            for slot in list(self._slots.values()):
                with slot.lock:
                    if self._slots.get(slot.token_id) is slot:
                        slot.pending = 0
                        self._sync(slot, self._beat_rows, None, is_closing=True)
            self._write_uses()
        except Exception as error:
            _LOG.warning("counts could not be settled yet: %s", type(error).__name__, exc_info=_is_odd(error))
            metrics.FLUSH_FAILURES.inc()
        return not self._slots and not self._uses


def _is_odd(error: BaseException) -> bool:
    """Whether a log line should say where it comes from: nothing that is expected when a database is unavailable."""
    return not isinstance(error, LlmProxyError) and not is_unavailable(error)
