"""This process's chain of records in the table.

A number is given out under the lock of the writer's row, which is held until the transaction ends: what is rolled back
leaves no gap, and greenlets of one worker take turns. SQLite has one writer at a time anyway.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Executable, Select, insert, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from llm_proxy.audit.chain import START, Link, chained_row
from llm_proxy.db.models import AuditRow, AuditWriterRow

_UNCOMMITTED_S = 30.0  # no transaction of this program is open for longer


class TableChain:
    """Appends rows to the chain of the process that it is used in. Opens nothing; one for a process, made lazily.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._naming = threading.Lock()  # threads that begin together must end with one name
        self._pid = 0
        self._writer = ""
        self._made_at: float | None = None

    @property
    def writer(self) -> str:
        """This process's name in the chain; another one after a fork."""
        if self._pid != os.getpid():
            with self._naming:
                if self._pid != os.getpid():
                    self.renew()
        return self._writer

    def renew(self) -> None:
        """Begin a chain of another name: the one so far can't be continued."""
        self._writer, self._made_at = str(uuid.uuid4()), None
        self._pid = os.getpid()  # last: it tells other threads that the name is there

    def append(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert the rows as the next of the chain, in the connection's transaction. Take other locks before."""
        writer, at = self._locked(connection)
        chained = list[dict[str, Any]]()
        for row in rows:
            chained.append(chained_row(row, writer, at))
            at = Link(chained[-1]["seq"], chained[-1]["hash"])
        if not chained:
            return
        connection.execute(insert(AuditRow), chained)
        values = {"last_seq": at.seq, "last_hash": at.hash}
        connection.execute(update(AuditWriterRow).where(AuditWriterRow.writer == writer).values(values))

    def is_spent(self, connection: Connection) -> bool:
        """Whether the numbers that come next are there already, because the writer's row was changed."""
        last_seq = select(AuditWriterRow.last_seq).where(AuditWriterRow.writer == self.writer).scalar_subquery()
        query = select(AuditRow.seq).where(AuditRow.writer == self.writer, AuditRow.seq > last_seq).limit(1)
        return connection.execute(query).first() is not None

    def _locked(self, connection: Connection) -> tuple[str, Link]:
        while True:
            writer = self.writer
            found = connection.execute(locked(writer)).one_or_none()
            if found is not None:
                return writer, Link(found.last_seq, found.last_hash)
            now = self._clock()
            if self._made_at is not None and now - self._made_at > _UNCOMMITTED_S:
                self.renew()  # pruned after a long silence: a name is never used twice
                continue
            self._made_at = now
            connection.execute(_unless_there(connection.dialect.name, writer))


def locked(writer: str) -> Select[Any]:
    """Return the writer's row, locked until the transaction ends."""
    return select(AuditWriterRow.__table__).where(AuditWriterRow.writer == writer).with_for_update()


def _unless_there(dialect: str, writer: str) -> Executable:
    """INSERT that waits for another transaction which does the same, and then does nothing.

    MySQL's IGNORE would leave a shared lock behind, and two of those can't both become exclusive.
    """
    row = {
        "writer": writer,
        "last_seq": START.seq,
        "last_hash": START.hash,
        "removed_seq": START.seq,
        "removed_hash": START.hash,
    }
    if dialect == "postgresql":
        return postgresql.insert(AuditWriterRow).values(row).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(AuditWriterRow).values(row).on_conflict_do_nothing()
    return mysql.insert(AuditWriterRow).values(row).on_duplicate_key_update(writer=writer)
