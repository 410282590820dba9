"""Deleting old records from the table without breaking a chain.

Of each chain a prefix goes: all up to the first record that is young enough. Its last number and hash stay, in the
writer's row and in an anchor, which is a record in the chain of the process that prunes. A chain is pruned up to its
first fault and no further, so that pruning never tidies a fault away.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, or_, select, update

from llm_proxy.audit.chain import ANCHOR, Entry, Fault, Link, entry_of_row, follow
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.rows import Head, Row, after, head, removed_by, writers
from llm_proxy.audit.table import TableChain, locked
from llm_proxy.db import pagination
from llm_proxy.db.clock import now_of
from llm_proxy.db.models import AuditFileRow, AuditRow, AuditWriterRow
from llm_proxy.db.session import read_transaction, write_transaction

BATCH = 1000
_PART = 200  # of them read at once
SILENT = timedelta(days=1)  # whose newest record is older has ended; longer than clocks differ
NOTES_KEPT = timedelta(days=30)  # at least; a note of a file is all that shows that its end is missing


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class _Raced(Exception):
    """Another process changed the chain meanwhile."""


@dataclass(slots=True)
class Pruned:
    """What was done: rows deleted, and the chains that were left alone from a fault on."""

    rows: int = 0
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class _Prefix:
    """Old records at the head of a chain: their number, the last of them, and the one before it.

    Attributes:
        anchors: Writer → what the last anchor among them says was removed of its chain.
        fault: What is wrong with the record behind them.
        is_end: Whether a young record, or a fault, is behind them.
    """

    to: Link
    rows: int = 0
    anchors: dict[str, Link] = field(default_factory=dict)
    fault: Fault | None = None
    is_end: bool = False
    _before: Link | None = None

    def add(self, entry: Entry, row: Row) -> None:
        """One more."""
        self._before, self.to, self.rows = self.to, entry.link, self.rows + 1
        link = removed_by(row) if row["action"] == ANCHOR else None
        if link is not None and row["correlation_id"] is not None:
            self.anchors[row["correlation_id"]] = link

    def drop(self) -> None:
        """One less. An anchor in it counts still: one too many does no harm."""
        assert self._before is not None
        self.to, self.rows = self._before, self.rows - 1


class Pruner:
    """Deletes records from before an instant, a batch a transaction.

    Args:
        chain: The chain that anchors are written into.
        actor: The actor of anchors.
        past_faults: Delete what is old behind a fault, too, and chains without their writer.
        progress: Called with the rows of each batch.
        now: The present instant; by default the database's.
        batch: Most rows of a transaction.
    """

    def __init__(
        self,
        engine: Engine,
        chain: TableChain,
        *,
        actor: str = "system",
        past_faults: bool = False,
        progress: Callable[[int], None] = lambda rows: None,
        now: Callable[[], datetime] | None = None,
        batch: int = BATCH,
    ) -> None:
        self._engine, self._chain, self._actor, self._progress = engine, chain, actor, progress
        self._past_faults, self._now = past_faults, now or (lambda: now_of(engine))
        self._batch_rows = batch
        self._now_at = _LONG_AGO

    def prune(self, before: datetime) -> Pruned:
        """Delete what is older. What another process prunes meanwhile is not counted."""
        done = Pruned()
        for _ in self.steps(before, done):
            pass
        return done

    def steps(self, before: datetime, done: Pruned) -> Iterator[int]:
        """Do the same step by step, into `done`; yield after each read or write how many rows it deleted."""
        self._now_at = now_at = self._now()
        yield from self._loose(before, done)
        for writer in writers(self._engine):
            yield from self._chain_of(writer, before, done)
        with write_transaction(self._engine) as connection:
            is_old = AuditFileRow.updated_at < min(before, now_at - NOTES_KEPT)
            connection.execute(delete(AuditFileRow).where(is_old))

    def _loose(self, before: datetime, done: Pruned) -> Iterator[int]:
        """Rows that no chain knows; the past's, or with `past_faults` those of writers that are gone."""
        is_loose: Any = AuditRow.writer.is_(None)
        if self._past_faults:
            known = select(AuditWriterRow.writer).where(AuditWriterRow.writer == AuditRow.writer)
            is_loose = or_(is_loose, ~known.where(AuditWriterRow.removed_seq < AuditRow.seq).exists())
        elif self._are_all_chained():
            return
        is_old = (AuditRow.timestamp < before, pagination.opaque(is_loose))  # in the order of time, not all loose ones
        query = select(AuditRow.timestamp, AuditRow.id).where(*is_old)
        query = query.order_by(AuditRow.timestamp, AuditRow.id).limit(self._batch_rows)
        last: tuple[datetime, str] | None = None
        while True:
            with read_transaction(self._engine) as connection:
                rows = connection.execute(query if last is None else query.where(*_behind(*last))).all()
            if not rows:
                return
            last = (rows[-1][0], rows[-1][1])
            with write_transaction(self._engine) as connection:
                chosen = AuditRow.id.in_([row[1] for row in rows])
                gone = connection.execute(delete(AuditRow).where(chosen, *is_old)).rowcount
            self._told(gone, done)
            yield gone

    def _are_all_chained(self) -> bool:
        with read_transaction(self._engine) as connection:
            return connection.execute(select(AuditRow.id).where(AuditRow.writer.is_(None)).limit(1)).first() is None

    def _told(self, rows: int, done: Pruned) -> None:
        done.rows += rows
        self._progress(rows)

    def _chain_of(self, writer: str, before: datetime, done: Pruned) -> Iterator[int]:
        """Delete all batches of one chain."""
        is_more = True
        while is_more:
            with read_transaction(self._engine) as connection:
                known = head(connection, writer)
            if known is None:
                return
            rows = done.rows
            with contextlib.suppress(_Raced):
                prefix = yield from self._prefix(known, before)
                is_more = self._batch(known, prefix, before, done)
            yield done.rows - rows

    def _batch(self, known: Head, prefix: "_Prefix", before: datetime, done: Pruned) -> bool:
        """Delete one batch; return whether there may be more. Raises _Raced."""
        fault = prefix.fault
        if fault is not None and not self._past_faults:
            self._recheck(known)
            done.faults.append(fault)
        to = known.last if fault is not None and self._past_faults else prefix.to
        is_silent = before <= self._now_at - SILENT and known.writer != self._chain.writer
        ends = is_silent and to == known.last
        if to.seq > known.removed.seq or ends:
            with write_transaction(self._engine) as connection:
                self._remove(connection, known, prefix, to, ends=ends)
            if prefix.rows:
                self._told(prefix.rows, done)
        return prefix.rows > 0 and not prefix.is_end

    def _recheck(self, known: Head) -> None:
        """Raise _Raced when another process has pruned the chain between two looks at it."""
        with read_transaction(self._engine) as connection:
            now = head(connection, known.writer)
        if now is None or now.removed != known.removed:
            raise _Raced

    def _prefix(self, known: Head, before: datetime) -> Generator[int, None, _Prefix]:
        """Return what is old at the head of the chain, up to the first that is young, a fault, or a batch of them.

        Yields after each read, which deletes nothing.
        """
        found = _Prefix(known.removed)
        for row in self._records(known):
            if row is None:
                yield 0
                continue
            entry = entry_of_row(row)
            found.fault = None if self._past_faults else follow(entry, found.to)
            is_young = isinstance(row["timestamp"], datetime) and row["timestamp"] >= before
            if found.fault is not None or is_young:
                found.is_end = True
                if found.fault is not None and found.rows and found.fault.seq == found.to.seq:
                    found.drop()  # it is the one before that was changed
                return found
            found.add(entry, row)
        if found.rows == 0 and known.removed.seq < known.last.seq:
            said = f"its last record is seq {known.last.seq}"
            found.fault = Fault("missing tail", known.writer, known.removed.seq + 1, said)
        return found

    def _records(self, known: Head) -> Iterator[Row | None]:
        """Yield the next batch of the chain, read in parts because records may be long; None after each part."""
        at, left, part = known.removed.seq, self._batch_rows, _PART
        while left and part == _PART:
            with read_transaction(self._engine) as connection:
                rows = after(connection, known.writer, at, _PART)
            yield from rows
            yield None
            part = len(rows)
            at, left = rows[-1]["seq"] if rows else at, left - part

    def _remove(self, connection: Connection, known: Head, prefix: _Prefix, to: Link, *, ends: bool) -> None:
        """One transaction. Raises _Raced when the chain is not as it was read."""
        for name in sorted({known.writer, self._chain.writer}):  # an order prevents deadlocks
            connection.execute(locked(name)).all()
        now = head(connection, known.writer)
        if now is None or now.removed != known.removed or (ends and now.last != known.last):
            raise _Raced
        mine = (AuditRow.writer == known.writer, AuditRow.seq > known.removed.seq, AuditRow.seq <= to.seq)
        if prefix.rows and connection.execute(delete(AuditRow).where(*mine)).rowcount != prefix.rows:
            raise _Raced
        row = AuditWriterRow.writer == known.writer
        if ends:
            connection.execute(delete(AuditWriterRow).where(row))
        else:
            values = {"removed_seq": to.seq, "removed_hash": to.hash}
            connection.execute(update(AuditWriterRow).where(row).values(values))
        anchors = [
            self._anchor(known.writer, to, is_end=ends),
            *self._carried(connection, known.writer, prefix.anchors),
        ]
        self._chain.append(connection, [anchor.row() for anchor in anchors])

    def _anchor(self, writer: str, link: Link, *, is_end: bool = False) -> AuditEvent:
        details = link.details(writer) | ({"is_end": True} if is_end else {})
        return AuditEvent(ANCHOR, self._actor, "success", correlation_id=writer, details=details)

    def _carried(self, connection: Connection, writer: str, anchors: dict[str, Link]) -> Iterator[AuditEvent]:
        """Anchors of other chains that are deleted with this batch, but hold still."""
        for other in sorted(anchors.keys() - {writer}):
            known = head(connection, other)
            if known is not None and known.removed == anchors[other]:
                yield self._anchor(other, known.removed)


def _behind(timestamp: datetime, row_id: str) -> tuple[Any, ...]:
    """Return the conditions of rows behind that one, in the order of time and id."""
    return AuditRow.timestamp >= timestamp, or_(AuditRow.timestamp > timestamp, AuditRow.id > row_id)


def count(engine: Engine, before: datetime) -> int:
    """How many `Pruner.prune` would delete now, if no chain is broken."""
    total = 0
    with read_transaction(engine) as connection:
        query = select(func.count()).select_from(AuditRow).where(AuditRow.timestamp < before)
        total += int(connection.execute(query.where(AuditRow.writer.is_(None))).scalar_one())
    for writer in writers(engine):
        with read_transaction(engine) as connection:
            young = select(func.min(AuditRow.seq)).where(AuditRow.writer == writer, AuditRow.timestamp >= before)
            first = connection.execute(young).scalar_one()
            mine = select(func.count()).select_from(AuditRow).where(AuditRow.writer == writer)
            total += int(connection.execute(mine if first is None else mine.where(AuditRow.seq < first)).scalar_one())
    return total
