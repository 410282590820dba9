"""Writes audit records: management's at once, refusals through a queue, to file and table independently."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import gevent
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from llm_proxy.audit.chain import Link
from llm_proxy.audit.file import AuditFile
from llm_proxy.audit.file_heads import record_head
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.table import TableChain
from llm_proxy.audit.throttle import SERVER_PER_MINUTE, WINDOW_S, Throttle
from llm_proxy.db.errors import is_lost_race
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.errors import AuditUnavailable
from llm_proxy.settings import Settings

_LOG = logging.getLogger(__name__)

QUEUE = 1000
_PAUSE_S = 0.2
_BATCH = 100  # rows in one transaction


class AuditWriter:
    """The process's way to the audit trail.

    Args:
        table: Engine of the table sink; None = not to the table.
        file: The file sink; None = no file.
        required: A mutation that cannot be recorded is refused (AUDIT_REQUIRED).
        failed: Called with `file`, `table` or `queue` for each record that a sink lost, for a counter.
        clock: Monotonic seconds.
        workers: Processes that share the budget of refusals.

    Attributes:
        chain: This process's chain in the table.
    """

    def __init__(
        self,
        *,
        table: Engine | None = None,
        file: AuditFile | None = None,
        required: bool = False,
        failed: Callable[[str], None] = lambda sink: None,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
    ) -> None:
        self._table, self._file, self._required, self._failed = table, file, required, failed
        self.chain = TableChain()
        self._noted: Link | None = None
        self._queue: deque[AuditEvent] = deque()
        self._throttle = Throttle(clock, max(1, SERVER_PER_MINUTE // workers))
        self._wake = threading.Event()
        self._worker: gevent.Greenlet | None = None
        self._is_closing = self._is_moved = False
        self._flushing = threading.Lock()

    @classmethod
    def from_settings(
        cls, engine: Engine | None, settings: Settings, failed: Callable[[str], None] = lambda sink: None
    ) -> "AuditWriter":
        """Return the sinks that the settings ask for. Raises OSError when the file cannot be opened."""
        table = engine if settings.operation.audit_enabled and settings.operation.audit_store_in_db else None
        return cls(
            table=table,
            file=AuditFile.from_settings(settings.operation),
            required=settings.operation.audit_required,
            failed=failed,
            workers=settings.workers,
        )

    def record(self, event: AuditEvent, connection: Connection | None = None) -> None:
        """Write now. With `connection` it is a mutation's record: the row belongs to that transaction.

        A sink that fails is logged and counted, and the other one is still written.

        Raises:
            AuditUnavailable: A sink failed, records are required, and `connection` was given: roll back.
            DBAPIError: The database has undone the mutation to end a deadlock: it must not be taken for done.
        """
        event = event.redacted()
        lost = [*self._to_table([event], connection), *self._to_file([event])]
        if lost and self._required and connection is not None:
            raise AuditUnavailable
        if self._worker is not None:
            self._wake.set()  # its turn notes where the file's chain is
        elif connection is None:
            self._note()

    def offer(self, event: AuditEvent) -> None:
        """Queue a refusal; never waits, never raises. More than 60 a minute from one address are counted instead.

        An IPv6 address counts as its /64; all addresses together have a budget as well.
        """
        if self._table is None and self._file is None:
            return
        for passed in self._throttle.passed(event):
            self._put(passed)

    def start(self) -> None:
        """Begin to write what is offered, in a greenlet of this worker."""
        if self._worker is None:
            self._worker = gevent.spawn(self._run)

    def flush(self) -> None:
        """Write what was offered so far."""
        with self._flushing:
            if self._is_moved:
                self._is_moved = False
                self._to_file([])
            while self._queue:
                batch = [self._queue.popleft().redacted().bounded() for _ in range(min(_BATCH, len(self._queue)))]
                self._to_table(batch, None)
                self._to_file(batch)
            self._note()

    def close(self) -> None:
        """Write what is queued, and how many were left out; the file stays open for what still comes."""
        self._is_closing = True
        self._wake.set()
        if self._worker is not None:
            self._worker.join(timeout=5)
        for event in self._throttle.rest():
            self._put(event)
        self.flush()

    def reopen(self) -> None:
        """Follow the file's name (SIGUSR1); the next turn begins a new file with its anchor."""
        if self._file is not None:
            self._file.reopen()
            self._is_moved = True
            self._wake.set()

    def _put(self, event: AuditEvent) -> None:
        if len(self._queue) >= QUEUE:
            self._failed("queue")
            return
        self._queue.append(event)
        self._wake.set()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(WINDOW_S / 2)
            self._wake.clear()
            for event in self._throttle.ended():
                self._put(event)
            self.flush()
            gevent.sleep(_PAUSE_S)  # refusals come in bursts: one transaction for many

    def _to_table(self, events: list[AuditEvent], connection: Connection | None) -> list[str]:
        if self._table is None:
            return []
        try:
            try:
                self._append(self._table, events, connection)
            except IntegrityError:
                if not self._is_spent(self._table, connection):
                    raise
                self.chain.renew()  # the old one stays as it is, broken
                self._append(self._table, events, connection)
        except Exception as error:
            if connection is not None and isinstance(error, DBAPIError) and error.orig and is_lost_race(error.orig):
                raise
            return self._lost("table", error, len(events))
        return []

    def _append(self, table: Engine, events: list[AuditEvent], connection: Connection | None) -> None:
        rows = [event.row() for event in events]
        if connection is None:
            with write_transaction(table) as own:
                self.chain.append(own, rows)
        else:
            with connection.begin_nested():  # a refused row must not take the mutation with it
                self.chain.append(connection, rows)

    def _is_spent(self, table: Engine, connection: Connection | None) -> bool:
        if connection is not None:
            return self.chain.is_spent(connection)
        with read_transaction(table) as own:
            return self.chain.is_spent(own)

    def _note(self) -> None:
        """Keep in the database where the chain of the file is, so that a tail that goes missing is missed."""
        if self._file is None or self._table is None:
            return
        place, position = self._file.place, self._file.position
        if place is None or position is None or position.link == self._noted:
            return
        try:
            with write_transaction(self._table) as connection:
                record_head(connection, place, position.writer, position.link)
            self._noted = position.link
        except Exception as error:  # the next turn tries again
            _LOG.warning("the end of the audit file could not be noted: %s", type(error).__name__)

    def _to_file(self, events: list[AuditEvent]) -> list[str]:
        if self._file is None:
            return []
        try:
            self._file.append(events)
        except Exception as error:
            return self._lost("file", error, len(events))
        return []

    def _lost(self, sink: str, error: Exception, count: int) -> list[str]:
        _LOG.error("audit %s could not be written (%d records): %s", sink, count, type(error).__name__)
        for _ in range(count):
            self._failed(sink)
        return [sink]
