"""Statements of the hot path: cursors of the driver on a few connections, autocommit, no ORM.

SQL is written once, with `?` for parameters; times are bound by `time()` and read by `types.from_column`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import gevent
from sqlalchemy import Engine

from llm_proxy.db.connector import connector_of, is_cooperative
from llm_proxy.db.errors import DatabaseAway
from llm_proxy.db.types import to_column

Parameters = Sequence[Any]
_LOG = logging.getLogger(__name__)

CONNECTIONS = 4
_TRUSTED_S = 1.0  # a connection that was idle for longer is looked at before it is used
LIMIT_S = 1.0  # of a statement, its connection included
WARM_LIMIT_S = 1.0  # of a connection that no request waits for
BATCH_LIMIT_S = 5.0
WAIT_S = 1.0  # for a connection, before the database counts as away
_STEPS = 5

_UNLIMITED = nullcontext()


class _Patience:
    """Raises DatabaseAway in its block after so many seconds in which this worker could have taken a response.

    Counted in steps, of which a turn of the event loop takes one at most: what a busy loop, or a process that gets no
    processor, did not come round to read is not the database's silence.
    """

    def __init__(self, limit_s: float) -> None:
        self._left, self._step_s = _STEPS, limit_s / _STEPS

    def __enter__(self) -> None:
        self._timer = gevent.get_hub().loop.timer(self._step_s, self._step_s)
        self._timer.start(self._step, gevent.getcurrent())

    def __exit__(self, *about: object) -> None:
        self._timer.stop()
        self._timer.close()

    def _step(self, waiting: Any) -> None:
        self._left -= 1
        if self._left == 0:
            waiting.throw(DatabaseAway("the database did not answer in time"))


class RawConnectionPool:
    """Runs single statements, each its own transaction, and small batches in one transaction.

    Connections are opened when first needed, at most `connections` at once, and kept. One whose statement failed is
    closed and never used again. Drivers' errors are let through; `db.errors.is_unavailable` judges them.

    Args:
        limit_s: Bound of a statement, its connection included; on SQLite only where it is given, under gevent alone.
        open_limit_s: The same for a statement that has to open a connection first; default: the same.
        lock_limit_s: The same on SQLite, where a statement waits for nothing but a lock that another process holds.
        connect_failed: Called when a connection could not be made.
    """

    def __init__(
        self,
        engine: Engine,
        connections: int = CONNECTIONS,
        *,
        limit_s: float | None = None,
        open_limit_s: float | None = None,
        lock_limit_s: float | None = None,
        connect_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connector = connector_of(engine)
        self.dialect = self._connector.dialect
        self._single = engine if self._connector.is_single else None
        self._idle: list[tuple[float, Any]] = []  # since when, in the order in which they came back
        self._slots = threading.BoundedSemaphore(connections)
        self._begin = "BEGIN IMMEDIATE" if self.dialect == "sqlite" else "BEGIN"
        self._is_closed = False
        if self.dialect == "sqlite" and lock_limit_s is not None:
            limit_s = open_limit_s = lock_limit_s
        self._is_bounded = is_cooperative() and (self.dialect != "sqlite" or limit_s is not None)
        self._limit_s = LIMIT_S if limit_s is None else limit_s
        self._open_limit_s = self._limit_s if open_limit_s is None else open_limit_s
        # On SQLite those that wait for a lock hold the connections that others wait for.
        self._wait_s = WAIT_S if self.dialect != "sqlite" or lock_limit_s is None else lock_limit_s
        self._connect_failed = connect_failed
        self._ready: dict[str, str] = {}

    def time(self, instant: Any) -> Any:
        """Return an aware datetime as this database's driver binds it."""
        return to_column(self.dialect, instant)

    def warm(self) -> None:
        """Open a connection where there is none, so that no statement has to within its own bound. Never raises."""
        if self._idle or self._single is not None or self._is_closed or not self._slots.acquire(blocking=False):
            return
        try:
            with self._limit(WARM_LIMIT_S):
                self._idle.append((time.monotonic(), self._open()))
        except Exception as error:
            _LOG.info("no connection could be opened ahead: %s", type(error).__name__)
        finally:
            self._slots.release()

    def read(self, sql: str, parameters: Parameters) -> list[Any]:
        """All rows of a SELECT. Repeated once on a new connection when a kept one turns out to be dead."""
        return self._run(sql, parameters, lambda cursor: cursor.fetchall(), may_repeat=True)  # type: ignore[no-any-return]

    def write(self, sql: str, parameters: Parameters) -> int:
        """Rows that an INSERT, UPDATE or DELETE found. Never repeated: its outcome is unknown after an error."""
        return self._run(sql, parameters, lambda cursor: cursor.rowcount, may_repeat=False)  # type: ignore[no-any-return]

    def batch(self, statements: Sequence[tuple[str, Parameters]]) -> list[int]:
        """Rows found by each statement; all of them in one transaction, or none."""
        with self._limit(BATCH_LIMIT_S), self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute(self._begin)
            try:
                found = []
                for sql, parameters in statements:
                    cursor.execute(self._sql(sql), parameters)
                    found.append(cursor.rowcount)
                cursor.execute("COMMIT")
            except BaseException:
                self._roll_back(cursor)
                raise
            cursor.close()
            return found

    def probe(self) -> None:
        """Do what requests do: read tokens, and lock a row of them for a change. Raises when that is not done in time.

        A server that refuses to write is not reported: unlimited tokens work without. SQLite's locks are short.
        """
        self.read("SELECT id FROM tokens WHERE id = ?", ("",))
        if self.dialect == "sqlite":
            return
        try:
            self.write("UPDATE tokens SET lease_version = lease_version WHERE id = ?", ("",))
        except DatabaseAway:
            raise
        except Exception as error:
            _LOG.info("a probe could not write: %s", type(error).__name__)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._is_closed = True
        while self._idle:
            self._discard(self._idle.pop()[1])

    def _run(self, sql: str, parameters: Parameters, take: Any, *, may_repeat: bool) -> Any:
        was_kept = bool(self._idle)
        try:
            limit_s = self._limit_s if was_kept else self._open_limit_s
            with self._limit(limit_s), self._connection() as connection:
                cursor = connection.cursor()
                cursor.execute(self._sql(sql), parameters)
                taken = take(cursor)
                cursor.close()
                return taken
        except DatabaseAway:
            raise  # the time is used up
        except Exception:
            if not (may_repeat and was_kept) or self.dialect == "sqlite":
                raise
        self._drop_idle()  # they died together
        return self._run(sql, parameters, take, may_repeat=False)

    def _limit(self, limit_s: float) -> Any:
        """Bound a statement on this side: a server that hangs must not hold up the request."""
        if not self._is_bounded:
            return _UNLIMITED
        return _Patience(limit_s)

    def _sql(self, sql: str) -> str:
        if self.dialect == "sqlite":
            return sql
        ready = self._ready.get(sql)
        if ready is None:
            ready = self._ready[sql] = sql.replace("?", "%s")
        return ready

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self._single is not None:  # :memory: has one connection, the engine's
            with self._single.connect() as shared:
                yield shared.connection.dbapi_connection
            return
        if not self._slots.acquire(timeout=self._wait_s):
            raise DatabaseAway("no database connection was free in time")
        try:
            connection = self._kept() or self._open()
            try:
                yield connection
            except BaseException:
                self._discard(connection)
                raise
            if self._is_closed:
                self._discard(connection)
            else:
                self._idle.append((time.monotonic(), connection))
        finally:
            self._slots.release()

    def _kept(self) -> Any:
        """Return a connection that came back before, or None."""
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < _TRUSTED_S or self._connector.is_alive(connection):
                return connection
            self._discard(connection)
        return None

    def _open(self) -> Any:
        try:
            connection = self._connector.connect()
        except Exception:
            self._connect_failed()
            raise
        if self.dialect == "postgresql":
            connection.autocommit = True
        elif self.dialect == "mysql":
            connection.autocommit(True)
        return connection

    def _drop_idle(self) -> None:
        while self._idle:
            self._discard(self._idle.pop()[1])

    def _roll_back(self, cursor: Any) -> None:
        if self._single is None:
            return  # the connection is closed, which rolls back
        cursor.execute("ROLLBACK")

    @staticmethod
    def _discard(connection: Any) -> None:
        with suppress(Exception):  # a dead connection may fail to say goodbye; nothing depends on it
            connection.close()
