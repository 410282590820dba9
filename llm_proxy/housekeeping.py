"""What one leader among all workers and replicas tidies up, in small transactions.

The leader holds a row of `locks`; when it ends, or does not renew its lease, another takes over. Every job may be
broken off and repeated, so two leaders for a moment do no harm. A job is a generator that yields after each
transaction: other writers then have their turn for as long as the transaction took. On SQLite the statements run in
threads (`db.engine.off_loop`). A turn is bounded; the next one goes on where it ended.

Expiry and age are judged by the database's clock. SQLite has none: there nothing is done once this machine's clock was
set by more than a minute, until it is back or the server is restarted.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import gevent
from sqlalchemy import ColumnElement, Engine, and_, case, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.expression import TableClause

from llm_proxy.accounting import leases
from llm_proxy.audit.pruning import Pruned, Pruner
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, WallClockGuard, database_now
from llm_proxy.db.connector import connector_of
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.idempotency import KEPT as IDEMPOTENCY_KEPT
from llm_proxy.db.models import (
    TRAFFIC,
    AdminSessionRow,
    IdempotencyRow,
    LockRow,
    OutcomeRow,
    RefusalRow,
    SignInRow,
    TokenRow,
    UsageObjectRow,
    UsageRow,
)
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.model.token import idled_out, passed_expiry
from llm_proxy.settings import Settings
from llm_proxy.tokens import pruning

_LOG = logging.getLogger(__name__)

JOBS = (
    "tokens_revoked",
    "tokens_deleted",
    "audit",
    "usage",
    "idempotency_keys",
    "usage_objects",
    "outcomes",
    "admin_sessions",
    "leases",
)
LEASE = timedelta(seconds=30)
TURN_S = 10.0  # how often a worker looks whether it leads
HOURLY = timedelta(hours=1)
FIRST = timedelta(minutes=5)  # after the start, so that servers which are often restarted tidy up, too
OBJECTS_KEPT = timedelta(days=40)
OUTCOMES_KEPT = timedelta(days=31)
BATCH = 100  # rows a transaction: writers wait meanwhile on SQLite
TURN_LIMIT_S = 20.0  # of work and pauses; what is left is the next turn's
LONGEST_LEASE = LEASE + timedelta(seconds=5)  # as another database server of a cluster may see it
USES_WRITTEN = timedelta(minutes=1)  # after a use: then its time is in the row
_NAME = "housekeeping"


class _Lost(Exception):
    """Another worker leads now."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Something that is done again and again."""

    name: str
    interval: timedelta  # from one beginning to the next
    steps: Callable[[datetime], Iterator[int]]  # given the present instant, yields rows by transaction


class Housekeeper:
    """One worker's share: it does nothing but look, unless it leads.

    Args:
        counted: Called with a job of `JOBS` and the number of rows, for a counter.
        changed: Called with the id of each token that was revoked.
        now: The present instant; by default the database's.
        clock: Monotonic seconds.
        pause: Lets this worker do other things for so many seconds.
        guard: Tells whether this machine's clock was set; asked where the database has no clock.
    """

    def __init__(
        self,
        engine: Engine,
        audit: AuditWriter,
        settings: Settings,
        *,
        counted: Callable[[str, int], None] = lambda job, rows: None,
        changed: Callable[[str], None] = lambda token_id: None,
        now: Clock = database_now,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = gevent.sleep,
        guard: WallClockGuard | None = None,
    ) -> None:
        self._engine, self._audit, self._counted, self._changed, self._now = engine, audit, counted, changed, now
        self._clock, self._pause = clock, pause
        has_clock = connector_of(engine).dialect != "sqlite"
        self._guard = None if has_clock else guard or WallClockGuard()
        self._is_stopped = False
        self._holder = f"{socket.gethostname()[:64]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._is_leader, self._renewed_at = False, float("-inf")
        self._running: dict[str, Iterator[int]] = {}  # jobs that the last turn did not finish
        self._jobs = list(self._wanted(settings))
        self._due_at = {job.name: clock() + min(job.interval, FIRST).total_seconds() for job in self._jobs}
        shortest = min((job.interval.total_seconds() for job in self._jobs), default=TURN_S)
        self.turn_s = max(1.0, min(TURN_S, shortest / 2))

    def turn(self) -> bool:
        """Look whether this worker leads, and do what is due. Never raises; returns whether it led."""
        try:
            is_trusted = self._trusts_clock()
            self._is_leader = self._leads()
            if not self._is_leader:
                self._running.clear()
                return False
            if is_trusted:
                self._work()
        except _Lost:
            self._is_leader = False
            self._running.clear()
            return False
        except Exception as error:
            self._running.clear()
            level = logging.WARNING if is_unavailable(error) else logging.ERROR
            _LOG.log(level, "housekeeping stopped for now: %s", type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """Let another lead at once, if this one does. Never raises."""
        if not self._is_leader:
            return
        try:
            with write_transaction(self._engine) as connection:
                connection.execute(delete(LockRow).where(*self._mine()))
        except Exception as error:  # the lease ends by itself
            _LOG.debug("housekeeping's lock was not given back: %s", type(error).__name__)

    def _trusts_clock(self) -> bool:
        """Whether expiry can be judged: always by a database's clock, by this machine's unless it was set."""
        drift_s = 0.0 if self._guard is None else self._guard.drift_s()
        if drift_s and not self._is_stopped:
            _LOG.error(
                "housekeeping is stopped: this machine's clock was set by %+.0f s; set it back, or restart the server"
                " if the clock is right now",
                drift_s,
            )
        elif self._is_stopped and not drift_s:
            _LOG.info("housekeeping goes on: this machine's clock is back")
        self._is_stopped = bool(drift_s)
        return not self._is_stopped

    def _mine(self) -> tuple[ColumnElement[bool], ...]:
        return LockRow.name == _NAME, LockRow.holder == self._holder

    def _leads(self) -> bool:
        with read_transaction(self._engine) as connection:
            found = connection.execute(select(LockRow.holder, LockRow.expires_at).where(LockRow.name == _NAME)).first()
            now = self._now(connection)
        # A lease beyond its longest was written by a clock that is wrong, and says nothing.
        if found is not None and found.holder != self._holder and now < found.expires_at <= now + LONGEST_LEASE:
            return False
        values = {"holder": self._holder, "expires_at": now + LEASE}
        self._renewed_at = self._clock()
        try:
            with write_transaction(self._engine) as connection:
                if found is None:
                    connection.execute(insert(LockRow).values(name=_NAME, **values))
                    return True
                same = (LockRow.name == _NAME, LockRow.holder == found.holder, LockRow.expires_at == found.expires_at)
                return connection.execute(update(LockRow).where(*same).values(**values)).rowcount == 1
        except IntegrityError:  # another one was first
            return False

    def _renew(self) -> None:
        """Renew the lease in a long turn. Raises _Lost when another worker holds it."""
        if self._clock() - self._renewed_at < LEASE.total_seconds() / 3:
            return
        self._renewed_at = self._clock()
        with write_transaction(self._engine) as connection:
            values = {"expires_at": self._now(connection) + LEASE}
            if connection.execute(update(LockRow).where(*self._mine()).values(**values)).rowcount != 1:
                raise _Lost

    def _work(self) -> None:
        done, until = dict[str, int](), self._clock() + TURN_LIMIT_S
        try:
            for job in self._jobs:
                if self._due_at[job.name] <= self._clock() < until and not self._is_stopped:
                    self._do(job, until, done)
        finally:
            self._tell(done)

    def _do(self, job: _Job, until: float, done: dict[str, int]) -> None:
        """Begin a job, or go on with it, until it is finished or the turn is over."""
        steps = self._running.pop(job.name, None)
        if steps is None:
            with read_transaction(self._engine) as connection:
                now = self._now(connection)
            if not self._trusts_clock():  # after `now` was read, so that no wrong instant passes
                return
            steps = job.steps(now)
        began = time.perf_counter()
        for rows in steps:
            if rows:
                self._counted(job.name, rows)
                done[job.name] = done.get(job.name, 0) + rows
            self._pause(time.perf_counter() - began)
            self._renew()
            if self._clock() >= until:
                self._running[job.name] = steps
                return
            began = time.perf_counter()
        self._due_at[job.name] = self._clock() + job.interval.total_seconds()

    def _tell(self, done: Mapping[str, int]) -> None:
        names = {"tokens_revoked": "revoked", "tokens_deleted": "deleted", "audit": "audit_deleted"}
        details = {told: done[name] for name, told in names.items() if name in done}
        if details:
            self._audit.record(AuditEvent(AuditAction.SYSTEM_CLEANUP, "system", "success", details=details))

    def _wanted(self, settings: Settings) -> Iterator[_Job]:
        if settings.tokens.cleanup_interval_s:
            yield _Job("tokens_revoked", timedelta(seconds=settings.tokens.cleanup_interval_s), self._revoke_expired)
        if settings.tokens.retention_days:
            kept = timedelta(days=settings.tokens.retention_days)
            yield _Job("tokens_deleted", HOURLY, lambda now: pruning.steps(self._engine, now - kept))
        if settings.operation.audit_retention_days:
            for_days = timedelta(days=settings.operation.audit_retention_days)
            yield _Job("audit", HOURLY, lambda now: self._prune_audit(now, now - for_days))
        if settings.tokens.usage_retention_days:
            sums_kept = timedelta(days=settings.tokens.usage_retention_days)
            yield _Job("usage", HOURLY, lambda now: self._drop_usage((now - sums_kept).date()))
        yield _Job("idempotency_keys", HOURLY, self._drop_idempotency_keys)
        yield _Job("usage_objects", HOURLY, self._drop_usage_objects)
        yield _Job("outcomes", HOURLY, self._drop_outcomes)
        yield _Job("admin_sessions", HOURLY, self._drop_sessions)
        yield _Job("leases", HOURLY, self._forget_leases)

    def _revoke_expired(self, now: datetime) -> Iterator[int]:
        """Soft-revoke what has expired or idled out; a row that changes meanwhile is judged as it is then.

        Times of use are written a moment after the use, so an idle token is revoked a minute after its time.
        """
        yield from self._revoke(TokenRow.expires_at, passed_expiry(now), now)
        yield from self._revoke(TokenRow.idle_timeout_minutes, idled_out(now - USES_WRITTEN), now)

    def _revoke(self, column: Any, is_over: ColumnElement[bool], now: datetime) -> Iterator[int]:
        """Walk the active tokens that have a value in an indexed column, and revoke those that `is_over` selects."""
        is_active, last = TokenRow.is_active.is_(True), None
        chosen = is_over if column is TokenRow.expires_at else column.is_not(None)  # the rest of it needs no look
        query = select(column, TokenRow.id, case((is_over, 1), else_=0)).where(is_active, chosen)
        query = query.order_by(column, TokenRow.id).limit(BATCH)
        while True:
            behind = () if last is None else (column >= last[0], or_(column > last[0], TokenRow.id > last[1]))
            with read_transaction(self._engine) as connection:
                rows = connection.execute(query.where(*behind)).all()
            if not rows:
                return
            last = rows[-1]
            yield self._revoke_these([row[1] for row in rows if row[2]], is_over, now)

    def _revoke_these(self, ids: Sequence[str], is_over: ColumnElement[bool], now: datetime) -> int:
        if not ids:
            return 0
        values = {
            "is_active": False,
            "deactivated_at": func.coalesce(TokenRow.deactivated_at, now, type_=TokenRow.deactivated_at.type),
            "lease_version": TokenRow.lease_version + 1,
        }
        with write_transaction(self._engine) as connection:
            revoked = connection.execute(update(TokenRow).where(*still_active(ids, is_over)).values(values)).rowcount
        for token_id in ids:
            self._changed(token_id)
        return revoked

    def _prune_audit(self, now: datetime, before: datetime) -> Iterator[int]:
        done = Pruned()
        yield from Pruner(self._engine, self._audit.chain, now=lambda: now, batch=BATCH).steps(before, done)
        for fault in done.faults:
            _LOG.error("audit records are kept from a fault in their chain on: %s", fault)

    def _drop_idempotency_keys(self, now: datetime) -> Iterator[int]:
        is_old = IdempotencyRow.created_at < now - IDEMPOTENCY_KEPT
        return _drop(self._engine, IdempotencyRow.__table__, ("path", "key"), is_old)

    def _drop_usage(self, before: date) -> Iterator[int]:
        key = tuple(column.name for column in UsageRow.__table__.primary_key)
        return _drop(self._engine, UsageRow.__table__, key, UsageRow.day < before)

    def _drop_usage_objects(self, now: datetime) -> Iterator[int]:
        is_old = UsageObjectRow.counted_at < now - OBJECTS_KEPT
        return _drop(self._engine, UsageObjectRow.__table__, ("project_id", "object_id"), is_old)

    def _drop_outcomes(self, now: datetime) -> Iterator[int]:
        key = tuple(column.name for column in OutcomeRow.__table__.primary_key)
        yield from _drop(self._engine, OutcomeRow.__table__, key, OutcomeRow.hour < now - OUTCOMES_KEPT)
        yield from _drop(self._engine, TRAFFIC, ("project_id", "hour"), TRAFFIC.c.hour < now - OUTCOMES_KEPT)
        is_old = RefusalRow.refused_at < now - OUTCOMES_KEPT
        yield from _drop(self._engine, RefusalRow.__table__, ("token_id", "code"), is_old)

    def _forget_leases(self, now: datetime) -> Iterator[int]:
        """Forget workers that were not heard of for a day: what they held stays charged, and their key goes.

        A token that is in use forgets them itself; this is for those that are not used any more.
        """
        after, now_s = "", now.timestamp()
        query = select(TokenRow.id, TokenRow.leases, TokenRow.lease_version).order_by(TokenRow.id).limit(BATCH)
        while True:
            with read_transaction(self._engine) as connection:
                found = connection.execute(query.where(TokenRow.id > after)).all()
            if not found:
                return
            after = found[-1].id
            yield self._forget_these([row for row in found if row.leases is not None], now_s)

    def _forget_these(self, rows: Sequence[Any], now_s: float) -> int:
        changes = [(row, *_without_silent(row.leases, now_s)) for row in rows]
        changes = [change for change in changes if change[1] != change[0].leases]
        total = 0
        if not changes:
            return total
        with write_transaction(self._engine) as connection:
            for row, kept, charged in changes:
                same = (TokenRow.id == row.id, TokenRow.lease_version == row.lease_version)
                values = {
                    "leases": kept,
                    "request_count": TokenRow.request_count + charged,
                    "lease_version": TokenRow.lease_version + 1,
                }
                total += connection.execute(update(TokenRow).where(*same).values(values)).rowcount
        return total

    def _drop_sessions(self, now: datetime) -> Iterator[int]:
        yield from _drop(self._engine, SignInRow.__table__, ("state_hash",), SignInRow.expires_at < now)
        yield from _drop(self._engine, AdminSessionRow.__table__, ("id_hash",), AdminSessionRow.expires_at < now)


def still_active(ids: Sequence[str], is_over: ColumnElement[bool]) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of those among some tokens that are still to be revoked.

    They are found by id: an index of what has expired would lead through all of it in each batch.
    """
    return TokenRow.id.in_(ids), pagination.opaque(and_(TokenRow.is_active.is_(True), is_over))


def _without_silent(stored: str, now_s: float) -> tuple[str, int] | tuple[None, int]:
    """Return the leases to store, the very text when nothing is to go, and the units that become final."""
    try:
        known = leases.parse(stored)
    except (ValueError, TypeError):  # judged elsewhere
        return stored, 0
    kept = {name: entry for name, entry in known.items() if now_s - entry.seen_s <= leases.FORGOTTEN_S}
    if len(kept) == len(known):
        return stored, 0
    charged = sum(max(0, entry.granted - entry.settled) for name, entry in known.items() if name not in kept)
    rendered = leases.render(kept)
    return (None, charged) if rendered is None else (rendered, charged)


def _drop(engine: Engine, of: Any, key: tuple[str, ...], is_old: ColumnElement[bool]) -> Iterator[int]:
    """Delete old rows; the column that dates them is indexed or first in the key, so that each look is short."""
    source: TableClause = of
    columns = [source.c[name] for name in key]
    while True:
        with read_transaction(engine) as connection:
            found = [tuple(row) for row in connection.execute(select(*columns).where(is_old).limit(BATCH))]
        if not found:
            return
        chosen = columns[0].in_([row[0] for row in found]) if len(key) == 1 else tuple_(*columns).in_(found)
        with write_transaction(engine) as connection:
            gone = connection.execute(delete(source).where(chosen, pagination.opaque(is_old))).rowcount
        yield gone
