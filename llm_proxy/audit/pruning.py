"""Deleting old records from the table without breaking a chain (MP-123).

Of each chain a prefix goes: all up to the first record that is young enough. Its last number and hash stay, in the
writer's row and in an anchor, which is a record in the chain of the process that prunes. A chain is pruned up to its
first fault and no further, so that pruning never tidies a fault away.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, or_, select, update

from llm_proxy.audit.chain import ANCHOR, Fault, Link, entry_of_row, follow
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.rows import Head, Row, after, head, removed_by, writers
from llm_proxy.audit.table import TableChain, locked
from llm_proxy.db.models import AuditFileRow, AuditRow, AuditWriterRow
from llm_proxy.db.session import reading, writing
from llm_proxy.db.types import utc_now

BATCH = 1000  # MP-123
SILENT = timedelta(days=1)  # whose newest record is older has ended; longer than clocks differ


NOTES_KEPT = timedelta(days=30)  # at least; a note of a file is all that shows that its end is missing


class _Raced(Exception):
    """Somebody else changed the chain meanwhile."""


@dataclass(slots=True)
class Pruned:
    """What was done: rows deleted, and the chains that were left alone from a fault on."""

    rows: int = 0
    faults: list[Fault] = field(default_factory=list)


class Pruner:
    """Deletes records from before an instant, a batch a transaction.

    Args:
        chain: The chain that anchors are written into.
        actor: The actor of anchors.
        past_faults: Delete what is old behind a fault, too, and chains without their writer.
        progress: Called with the rows of each batch.
        now: The present instant.
    """

    def __init__(
        self,
        engine: Engine,
        chain: TableChain,
        *,
        actor: str = "system",
        past_faults: bool = False,
        progress: Callable[[int], None] = lambda rows: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine, self._chain, self._actor, self._progress = engine, chain, actor, progress
        self._past_faults, self._now = past_faults, now

    def prune(self, before: datetime) -> Pruned:
        """Delete what is older. What another process prunes meanwhile is not counted."""
        done = Pruned()
        self._loose(before, done)
        for writer in writers(self._engine):
            self._chain_of(writer, before, done)
        with writing(self._engine) as connection:
            is_old = AuditFileRow.updated_at < min(before, self._now() - NOTES_KEPT)
            connection.execute(delete(AuditFileRow).where(is_old))
        return done

    def _loose(self, before: datetime, done: Pruned) -> None:
        """Rows that no chain knows; the past's, or with `past_faults` those of writers that are gone."""
        is_loose: Any = AuditRow.writer.is_(None)
        if self._past_faults:
            known = select(AuditWriterRow.writer).where(AuditWriterRow.writer == AuditRow.writer)
            is_loose = or_(is_loose, ~known.where(AuditWriterRow.removed_seq < AuditRow.seq).exists())
        is_old = (AuditRow.timestamp < before, is_loose)
        while True:
            with reading(self._engine) as connection:
                ids = list(connection.execute(select(AuditRow.id).where(*is_old).limit(BATCH)).scalars())
            if not ids:
                return
            with writing(self._engine) as connection:
                self._told(connection.execute(delete(AuditRow).where(AuditRow.id.in_(ids), *is_old)).rowcount, done)

    def _told(self, rows: int, done: Pruned) -> None:
        done.rows += rows
        self._progress(rows)

    def _chain_of(self, writer: str, before: datetime, done: Pruned) -> None:
        """All batches of one chain."""
        is_more = True
        while is_more:
            with reading(self._engine) as connection:
                known = head(connection, writer)
                rows = [] if known is None else after(connection, writer, known.removed.seq, BATCH)
            if known is None:
                return
            try:
                is_more = self._batch(known, rows, before, done)
            except _Raced:
                continue

    def _batch(self, known: Head, rows: Sequence[Row], before: datetime, done: Pruned) -> bool:
        """One batch; whether there may be more. Raises _Raced."""
        old, fault = self._prefix(rows, known.removed, before)
        to = entry_of_row(old[-1]).link if old else known.removed
        if fault is None and not rows and to.seq < known.last.seq:
            fault = Fault("missing tail", known.writer, to.seq + 1, f"its last record is seq {known.last.seq}")
        if fault is not None and not self._past_faults:
            self._recheck(known)
            done.faults.append(fault)
        elif fault is not None:
            to = known.last
        is_silent = before <= self._now() - SILENT and known.writer != self._chain.writer
        ends = is_silent and to == known.last
        if to.seq > known.removed.seq or ends:
            with writing(self._engine) as connection:
                self._remove(connection, known, old, to, ends=ends)
            if old:
                self._told(len(old), done)
        return bool(old) and len(old) == len(rows)

    def _recheck(self, known: Head) -> None:
        """Raises _Raced when another process has pruned the chain between two looks at it."""
        with reading(self._engine) as connection:
            now = head(connection, known.writer)
        if now is None or now.removed != known.removed:
            raise _Raced

    def _prefix(self, rows: Sequence[Row], at: Link, before: datetime) -> tuple[list[Row], Fault | None]:
        """The rows that are old, up to the first that is young or a fault; and the fault."""
        old = list[Row]()
        for row in rows:
            entry = entry_of_row(row)
            if (fault := follow(entry, at)) and not self._past_faults:
                return (old[:-1] if fault.seq == at.seq else old), fault
            if isinstance(row["timestamp"], datetime) and row["timestamp"] >= before:
                return old, None
            old.append(row)
            at = entry.link
        return old, None

    def _remove(self, connection: Connection, known: Head, old: list[Row], to: Link, *, ends: bool) -> None:
        """One transaction. Raises _Raced when the chain is not as it was read."""
        for name in sorted({known.writer, self._chain.writer}):  # an order, so that two who prune don't wait in a ring
            connection.execute(locked(name)).all()
        now = head(connection, known.writer)
        if now is None or now.removed != known.removed or (ends and now.last != known.last):
            raise _Raced
        mine = (AuditRow.writer == known.writer, AuditRow.seq > known.removed.seq, AuditRow.seq <= to.seq)
        if old and connection.execute(delete(AuditRow).where(*mine)).rowcount != len(old):
            raise _Raced
        row = AuditWriterRow.writer == known.writer
        if ends:
            connection.execute(delete(AuditWriterRow).where(row))
        else:
            values = {"removed_seq": to.seq, "removed_hash": to.hash}
            connection.execute(update(AuditWriterRow).where(row).values(values))
        anchors = [self._anchor(known.writer, to, is_end=ends), *self._carried(connection, known.writer, old)]
        self._chain.append(connection, [anchor.row() for anchor in anchors])

    def _anchor(self, writer: str, link: Link, *, is_end: bool = False) -> AuditEvent:
        details = link.details(writer) | ({"is_end": True} if is_end else {})
        return AuditEvent(ANCHOR, self._actor, "success", correlation_id=writer, details=details)

    def _carried(self, connection: Connection, writer: str, old: list[Row]) -> Iterator[AuditEvent]:
        """Anchors of other chains that are deleted with this batch, but hold still."""
        named = {row["correlation_id"]: removed_by(row) for row in old if row["action"] == ANCHOR}
        for other in sorted(name for name in named if name is not None and name != writer):
            known = head(connection, other)
            if known is not None and known.removed == named[other]:
                yield self._anchor(other, known.removed)


def count(engine: Engine, before: datetime) -> int:
    """How many `Pruner.prune` would delete now, if no chain is broken."""
    total = 0
    with reading(engine) as connection:
        query = select(func.count()).select_from(AuditRow).where(AuditRow.timestamp < before)
        total += int(connection.execute(query.where(AuditRow.writer.is_(None))).scalar_one())
    for writer in writers(engine):
        with reading(engine) as connection:
            young = select(func.min(AuditRow.seq)).where(AuditRow.writer == writer, AuditRow.timestamp >= before)
            first = connection.execute(young).scalar_one()
            mine = select(func.count()).select_from(AuditRow).where(AuditRow.writer == writer)
            total += int(connection.execute(mine if first is None else mine.where(AuditRow.seq < first)).scalar_one())
    return total
