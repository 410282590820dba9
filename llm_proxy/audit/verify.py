"""Proving the chains in the table whole, or naming the first broken record of each.

Records are read in the order of their chain, some at a time, a short transaction each, so that servers go on writing.
What is read first can only be overtaken in the harmless direction: a record is there before the row that counts it is
read, and a gap is a fault only if it was not pruned meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select

from llm_proxy.audit.chain import START, Fault, Link, entry_of_row, follow
from llm_proxy.audit.rows import Head, after, head, newest_anchor, seq_bounds, writers
from llm_proxy.db.models import AuditRow
from llm_proxy.db.session import read_transaction

_CHUNK = 200
FAULTS = 100  # chains whose faults are told


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        records: Records that are where they belong, unchanged.
        writers: Chains.
        without_chain: Records that claim no place in a chain: from before there was one. Nothing is proven of them.
        newest_without_chain: When the newest of those was written.
        unreadable: Lines of a file that are no record.
        faults: The first fault of each broken chain, at most `FAULTS`.
        ends: Writer → its newest record, to be kept elsewhere.
        unchecked: Why missing tails can't be seen; None when they can.
    """

    records: int = 0
    writers: int = 0
    without_chain: int = 0
    newest_without_chain: datetime | None = None
    unreadable: int = 0
    faults: list[Fault] = field(default_factory=list)
    ends: dict[str, Link] = field(default_factory=dict)
    unchecked: str | None = None


def verify_table(
    engine: Engine, known: dict[str, Link] | None = None, rest: Callable[[], None] = lambda: None
) -> Report:
    """Look at every chain.

    Args:
        known: Ends from an earlier report; each must still be there, or have been pruned.
        rest: Called after each few records, so that other work of the process gets its turn.
    """
    report = Report()
    with read_transaction(engine) as connection:
        loose = select(func.count(), func.max(AuditRow.timestamp)).where(AuditRow.writer.is_(None))
        report.without_chain, report.newest_without_chain = connection.execute(loose).one()
    expected = dict(known or {})
    for writer in writers(engine):
        chain = _Chain(engine, writer, report, expected.pop(writer, None), rest)
        if (fault := chain.fault()) is not None and len(report.faults) < FAULTS:
            report.faults.append(fault)
    for writer, link in expected.items():
        with read_transaction(engine) as connection:
            removed = newest_anchor(connection, writer)
        if removed is None or removed.seq < link.seq:
            report.faults.append(Fault("missing chain", writer, link.seq, "it was there before, and left no anchor"))
    return report


class _Chain:
    """One writer's chain on the way through it."""

    def __init__(
        self, engine: Engine, writer: str, report: Report, known: Link | None, rest: Callable[[], None]
    ) -> None:
        self._engine, self._writer, self._report, self._known = engine, writer, report, known
        self._rest = rest

    def fault(self) -> Fault | None:
        """Return the first fault; None for a chain that is whole, or was pruned to its end meanwhile."""
        with read_transaction(self._engine) as connection:
            bounds = seq_bounds(connection, self._writer)
            found = head(connection, self._writer)
        if found is None:
            return self._unknown()
        self._report.writers += 1
        if (fault := self._no_number(found, bounds)) is not None:
            return fault
        self._report.ends[self._writer] = found.last
        if bounds is not None and bounds[1] > found.last.seq:
            said = f"its row says that seq {found.last.seq} is the last, and seq {bounds[1]} is there"
            return Fault("changed writer", self._writer, found.last.seq + 1, said)
        if found.removed.seq >= found.last.seq and found.removed != found.last:
            said = f"its row says that seq {found.removed.seq} was removed, and that seq {found.last.seq} is the last"
            return Fault("changed writer", self._writer, found.last.seq, said)
        if self._known is not None and found.last.seq < self._known.seq:
            said = f"seq {self._known.seq} was there before"
            return Fault("missing tail", self._writer, found.last.seq + 1, said)
        return self._anchor(found) or self._walk(found)

    def _no_number(self, found: Head, bounds: tuple[Any, Any] | None) -> Fault | None:
        """Numbers that were never assigned: below the first, or (SQLite stores anything) none at all."""
        if not all(isinstance(seq, int) for seq in (found.last.seq, found.removed.seq)):
            return Fault("changed writer", self._writer, 1, "its row holds something else than numbers")
        if bounds is None:
            return None
        if not isinstance(bounds[1], int):  # sorted behind all numbers
            return Fault("changed record", self._writer, found.last.seq + 1, "a record has no number as its seq")
        if bounds[0] < 1:
            return Fault("changed record", self._writer, int(bounds[0]), "the first record of a chain is seq 1")
        return None

    def _unknown(self) -> Fault | None:
        with read_transaction(self._engine) as connection:
            bounds = seq_bounds(connection, self._writer)
        if bounds is None:  # pruned meanwhile
            return None
        return Fault("unknown writer", self._writer, bounds[0], "its records are there, its row is not")

    def _anchor(self, found: Head) -> Fault | None:
        """Whether what the row says was removed has an anchor, and is really gone."""
        if found.removed == START:
            return None
        with read_transaction(self._engine) as connection:
            bounds = seq_bounds(connection, self._writer)
            if bounds is not None and bounds[0] <= found.removed.seq:
                said = f"seq {found.removed.seq} and those before are said to be removed, seq {bounds[0]} is there"
                return Fault("changed writer", self._writer, bounds[0], said)
            anchored = newest_anchor(connection, self._writer)
            now = head(connection, self._writer)
        if anchored == found.removed or now is None:
            return None
        if now.removed != found.removed:  # pruned meanwhile
            return self._anchor(now)
        said = f"its row says that seq {found.removed.seq} and those before were removed, no anchor says the same"
        return Fault("changed writer", self._writer, found.removed.seq + 1, said)

    def _walk(self, found: Head) -> Fault | None:
        at, last = found.removed, found.last
        while at.seq < last.seq:
            at, fault = self._chunk(at, last)
            self._rest()
            if fault is None:
                continue
            with read_transaction(self._engine) as connection:
                now = head(connection, self._writer)
            if now is None:
                return self._unknown()
            if now.removed.seq <= at.seq:
                return fault
            if (changed := self._anchor(now)) is not None:
                return changed
            at = now.removed  # pruned meanwhile
        return None

    def _chunk(self, at: Link, last: Link) -> tuple[Link, Fault | None]:
        """How far the next records are whole, up to the last, and the fault behind."""
        with read_transaction(self._engine) as connection:
            rows = after(connection, self._writer, at.seq, _CHUNK)
        if not rows:
            return at, Fault("missing tail", self._writer, at.seq + 1, f"its last record is seq {last.seq}")
        for row in rows:
            if at.seq == last.seq:
                break
            entry = entry_of_row(row)
            if (fault := follow(entry, at) or self._differs(entry.link, last)) is not None:
                return at, fault
            at = entry.link
            self._report.records += 1
        return at, None

    def _differs(self, link: Link, last: Link) -> Fault | None:
        """Whether a record is another one than its row, or an earlier report, says."""
        if link.seq == last.seq and link != last:
            return Fault("changed record", self._writer, link.seq, "its row names another hash for it")
        if self._known is not None and link.seq == self._known.seq and link != self._known:
            return Fault("changed record", self._writer, link.seq, "it had another hash before")
        return None
