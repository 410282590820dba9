"""What is tidied up by one leader among all workers and replicas, in small batches.

Leader is who holds a row of `locks`; when it ends, or is not heard of for a while, another takes over. Every job may be
broken off and repeated, so two leaders for a moment do no harm.
"""

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, delete, func, insert, inspect, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.expression import TableClause, column, table

from llm_proxy.accounting import leases
from llm_proxy.audit.pruning import Pruner
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.idempotency import KEPT as IDEMPOTENCY_KEPT
from llm_proxy.db.models import AdminSessionRow, IdempotencyRow, LockRow, SignInRow, TokenRow, UsageRow
from llm_proxy.db.session import reading, writing
from llm_proxy.db.types import UtcTime
from llm_proxy.runtime.clock import utc_now
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
    "admin_sessions",
    "leases",
)
LEASE = timedelta(seconds=30)
TURN_S = 10.0  # how often a worker looks whether it leads
HOURLY = timedelta(hours=1)
FIRST = timedelta(minutes=5)  # after the start, so that servers which are often restarted tidy up, too
OBJECTS_KEPT = timedelta(days=40)
_BATCH = 500  # rows a transaction: longer ones stop admission on SQLite
_NAME = "housekeeping"


@dataclass(frozen=True, slots=True)
class _Job:
    """Something that is done every `interval`; returns how many rows it touched."""

    name: str
    interval: timedelta
    run: Callable[[], int]


class Housekeeper:
    """One worker's share: it does nothing but look, unless it leads.

    Args:
        counted: Called with a job of `JOBS` and the number of rows, for a counter.
        changed: Called with the id of each token that was revoked.
        now: The present instant.
    """

    def __init__(
        self,
        engine: Engine,
        audit: AuditWriter,
        settings: Settings,
        *,
        counted: Callable[[str, int], None] = lambda job, rows: None,
        changed: Callable[[str], None] = lambda token_id: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine, self._audit, self._counted, self._changed, self._now = engine, audit, counted, changed, now
        self._holder = f"{socket.gethostname()[:64]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._is_leader = False
        self._jobs = list(self._wanted(settings))
        self._due_at = {job.name: now() + min(job.interval, FIRST) for job in self._jobs}
        shortest = min((job.interval.total_seconds() for job in self._jobs), default=TURN_S)
        self.turn_s = max(1.0, min(TURN_S, shortest / 2))

    def turn(self) -> bool:
        """Look whether this worker leads, and do what is due. Never raises; returns whether it led."""
        try:
            self._is_leader = self._leads()
            if not self._is_leader:
                return False
            self._work()
        except Exception as error:
            level = logging.WARNING if is_unavailable(error) else logging.ERROR
            _LOG.log(level, "housekeeping stopped for now: %s", type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """Let another lead at once, if this one does. Never raises."""
        if not self._is_leader:
            return
        try:
            with writing(self._engine) as connection:
                mine = (LockRow.name == _NAME, LockRow.holder == self._holder)
                connection.execute(delete(LockRow).where(*mine))
        except Exception as error:  # the lease ends by itself
            _LOG.debug("housekeeping's lock was not given back: %s", type(error).__name__)

    def _leads(self) -> bool:
        now = self._now()
        with reading(self._engine) as connection:
            found = connection.execute(select(LockRow.holder, LockRow.expires_at).where(LockRow.name == _NAME)).first()
        if found is not None and found.holder != self._holder and found.expires_at > now:
            return False
        values = {"holder": self._holder, "expires_at": now + LEASE}
        try:
            with writing(self._engine) as connection:
                if found is None:
                    connection.execute(insert(LockRow).values(name=_NAME, **values))
                    return True
                same = (LockRow.name == _NAME, LockRow.holder == found.holder, LockRow.expires_at == found.expires_at)
                return connection.execute(update(LockRow).where(*same).values(**values)).rowcount == 1
        except IntegrityError:  # another one was first
            return False

    def _work(self) -> None:
        done = dict[str, int]()
        for job in self._jobs:
            now = self._now()
            if now < self._due_at[job.name]:
                continue
            self._due_at[job.name] = now + job.interval
            rows = job.run()
            if rows:
                self._counted(job.name, rows)
                done[job.name] = rows
        names = {"tokens_revoked": "revoked", "tokens_deleted": "deleted", "audit": "audit_deleted"}
        details = {told: done[name] for name, told in names.items() if name in done}
        if details:
            self._audit.record(AuditEvent("system.cleanup", "system", "success", details=details))

    def _wanted(self, settings: Settings) -> Iterator[_Job]:
        if settings.token_cleanup_interval_s:
            yield _Job("tokens_revoked", timedelta(seconds=settings.token_cleanup_interval_s), self._revoke_expired)
        if settings.token_retention_days:
            kept = timedelta(days=settings.token_retention_days)
            yield _Job("tokens_deleted", HOURLY, lambda: pruning.prune(self._engine, self._now() - kept))
        if settings.audit_retention_days:
            for_days = timedelta(days=settings.audit_retention_days)
            yield _Job("audit", HOURLY, lambda: self._prune_audit(self._now() - for_days))
        if settings.usage_retention_days:
            sums_kept = timedelta(days=settings.usage_retention_days)
            yield _Job("usage", HOURLY, lambda: self._drop_usage((self._now() - sums_kept).date()))
        yield _Job("idempotency_keys", HOURLY, self._drop_idempotency_keys)
        yield _Job("usage_objects", HOURLY, self._drop_usage_objects)
        yield _Job("admin_sessions", HOURLY, self._drop_sessions)
        yield _Job("leases", HOURLY, self._forget_leases)

    def _revoke_expired(self) -> int:
        """Soft-revoke what has expired, a batch a transaction; a row that changes meanwhile is judged as it is then."""
        total = 0
        while True:
            now = self._now()
            is_over = (TokenRow.is_active.is_(True), TokenRow.expires_at < now)
            with reading(self._engine) as connection:
                ids = list(connection.execute(select(TokenRow.id).where(*is_over).limit(_BATCH)).scalars())
            if not ids:
                return total
            values = {
                "is_active": False,
                "deactivated_at": func.coalesce(TokenRow.deactivated_at, now, type_=TokenRow.deactivated_at.type),
                "lease_version": TokenRow.lease_version + 1,
            }
            with writing(self._engine) as connection:
                total += connection.execute(
                    update(TokenRow).where(TokenRow.id.in_(ids), *is_over).values(values)
                ).rowcount
            for token_id in ids:
                self._changed(token_id)

    def _prune_audit(self, before: datetime) -> int:
        done = Pruner(self._engine, self._audit.chain, now=self._now).prune(before)
        for fault in done.faults:
            _LOG.error("audit records are kept from a fault in their chain on: %s", fault)
        return done.rows

    def _drop_idempotency_keys(self) -> int:
        is_old = IdempotencyRow.created_at < self._now() - IDEMPOTENCY_KEPT
        return _drop(self._engine, IdempotencyRow.__table__, ("path", "key"), is_old)

    def _drop_usage(self, before: date) -> int:
        key = tuple(column.name for column in UsageRow.__table__.primary_key)
        return _drop(self._engine, UsageRow.__table__, key, UsageRow.day < before)

    def _drop_usage_objects(self) -> int:
        """Where the accounting of usage has its table."""
        if not inspect(self._engine).has_table("usage_objects"):
            return 0
        names = ("project_id", "object_id")
        objects = table("usage_objects", *(column(name) for name in names), column("counted_at", UtcTime()))
        return _drop(self._engine, objects, names, objects.c.counted_at < self._now() - OBJECTS_KEPT)

    def _forget_leases(self) -> int:
        """Workers that were not heard of for a day: what they held stays charged, and their key goes.

        A token that is in use forgets them itself; this is for those that nobody uses any more.
        """
        total, after, now_s = 0, "", self._now().timestamp()
        query = select(TokenRow.id, TokenRow.leases, TokenRow.lease_version).where(TokenRow.leases.is_not(None))
        while True:
            with reading(self._engine) as connection:
                found = connection.execute(query.where(TokenRow.id > after).order_by(TokenRow.id).limit(_BATCH)).all()
            if not found:
                return total
            after = found[-1].id
            changes = [(row, *_without_silent(row.leases, now_s)) for row in found]
            with writing(self._engine) as connection:
                for row, kept, charged in (change for change in changes if change[1] != change[0].leases):
                    same = (TokenRow.id == row.id, TokenRow.lease_version == row.lease_version)
                    values = {
                        "leases": kept,
                        "request_count": TokenRow.request_count + charged,
                        "lease_version": TokenRow.lease_version + 1,
                    }
                    total += connection.execute(update(TokenRow).where(*same).values(values)).rowcount

    def _drop_sessions(self) -> int:
        now = self._now()
        dropped = _drop(self._engine, SignInRow.__table__, ("state_hash",), SignInRow.expires_at < now)
        return dropped + _drop(self._engine, AdminSessionRow.__table__, ("id_hash",), AdminSessionRow.expires_at < now)


def _without_silent(stored: str, now_s: float) -> tuple[str, int] | tuple[None, int]:
    """The leases to store, the very text when nothing is to go, and the units that become final."""
    try:
        known = leases.parse(stored)
    except (ValueError, TypeError):  # not ours to judge
        return stored, 0
    kept = {name: entry for name, entry in known.items() if now_s - entry.seen_s <= leases.FORGOTTEN_S}
    if len(kept) == len(known):
        return stored, 0
    charged = sum(max(0, entry.granted - entry.settled) for name, entry in known.items() if name not in kept)
    rendered = leases.render(kept)
    return (None, charged) if rendered is None else (rendered, charged)


def _drop(engine: Engine, of: Any, key: tuple[str, ...], is_old: ColumnElement[bool]) -> int:
    source: TableClause = of
    columns = [source.c[name] for name in key]
    dropped = 0
    while True:
        with reading(engine) as connection:
            found = [tuple(row) for row in connection.execute(select(*columns).where(is_old).limit(_BATCH))]
        if not found:
            return dropped
        chosen = columns[0].in_([row[0] for row in found]) if len(key) == 1 else tuple_(*columns).in_(found)
        with writing(engine) as connection:
            gone = connection.execute(delete(source).where(chosen, is_old)).rowcount
        dropped += gone
