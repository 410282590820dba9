"""SQLite connections: WAL, foreign keys, and waiting for a lock without stopping the event loop."""

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import gevent

from llm_proxy.db.connector import Connector, is_cooperative

BUSY_LIMIT_S = 10.0
_CACHE = -16_000  # KiB of pages for long work, which touches many; 2,000 for other connections
# Pages of the log after which a commit on the event loop writes them back itself, which waits for the disk. Commits of
# `_off_loop` do it from 1,000 pages on; housekeeping makes one each ten seconds.
_LOOP_PAGES = 4_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05


def connector(path: str) -> Connector:
    """Return the connector of one SQLite file, or of `:memory:`.

    The file and its folder are made at the first connection, for the owner alone.
    """
    if path == ":memory:":
        return Connector("sqlite", "sqlite://", lambda: _open(":memory:"), ":memory:", is_single=True)

    def connect() -> sqlite3.Connection:
        make_file(Path(path))
        return _open(path)

    return Connector("sqlite", f"sqlite:///{Path(path).absolute()}", connect, path, off_loop=lambda: _off_loop(path))


def make_file(path: Path) -> None:
    """Make the folder (0700) and the empty file (0600) where they are missing; what is there keeps its mode."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        if error.errno != errno.EEXIST:  # another worker was first
            raise


def _open(path: str, factory: type[sqlite3.Connection] | None = None) -> sqlite3.Connection:
    patient = is_cooperative()
    # isolation_level=None: transactions are begun here. The pool hands a connection to one user at a time.
    connection = sqlite3.connect(
        path,
        timeout=0.0 if patient else BUSY_LIMIT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=factory or (PatientConnection if patient else sqlite3.Connection),
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    if patient and factory is None:
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOOP_PAGES}")
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII alone
    return connection


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether a lock of another connection was in the way and the statement may be repeated.

    Not so for SQLITE_BUSY_SNAPSHOT: the transaction has read what is no longer true, only its owner can start over.
    """
    code = error.sqlite_errorcode
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT


def patiently(call: Callable[[], Any], limit_s: float = BUSY_LIMIT_S) -> Any:
    """Run `call`, again after 1 to 50 ms while the database is locked, for at most `limit_s` in all."""
    pause_s, until = _FIRST_PAUSE_S, time.monotonic() + limit_s
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() + pause_s > until:
                raise
        gevent.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class PatientCursor(sqlite3.Cursor):
    """Waits for locks in gevent, because SQLite's own busy handler sleeps in C and stops every other request."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """As sqlite3's."""
        execute = super().execute
        try:
            return execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        patiently(lambda: execute(sql, parameters))
        return self


class PatientConnection(sqlite3.Connection):
    """A connection whose cursors are `PatientCursor`s."""

    def cursor(self, factory: Any = PatientCursor) -> Any:
        """As sqlite3's."""
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As sqlite3's."""
        return self.cursor().execute(sql, parameters)  # type: ignore[no-any-return]


# -- long work beside the event loop ----------------------------------------------------------------------------------


def _off_loop(path: str) -> sqlite3.Connection:
    """Open a connection for long work: its statements run in threads, so that pages and fsync stop no request."""
    if not is_cooperative():
        return _open(path)
    connection = _open(path, OffLoopConnection)
    connection.execute(f"PRAGMA cache_size={_CACHE}")
    return connection


def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Run a call in a thread of gevent's pool and wait for its end, also when killed; other greenlets run."""
    job = gevent.get_hub().threadpool.spawn(call, *args)
    try:
        return job.get()
    except BaseException:
        job.wait()  # the connection is in use until then
        raise


class OffLoopCursor(sqlite3.Cursor):
    """Runs statements in a thread, and waits for locks in gevent."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """Run as sqlite3's."""
        execute = super().execute
        patiently(lambda: in_thread(execute, sql, parameters))
        return self

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        """Run as sqlite3's."""
        in_thread(super().executemany, sql, parameters)
        return self

    def fetchall(self) -> list[Any]:
        """Fetch as sqlite3's."""
        return in_thread(super().fetchall)  # type: ignore[no-any-return]


class OffLoopConnection(sqlite3.Connection):
    """A connection whose cursors are `OffLoopCursor`s, and whose commits run in a thread as well."""

    def cursor(self, factory: Any = OffLoopCursor) -> Any:
        """Return as sqlite3's."""
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run as sqlite3's."""
        return self.cursor().execute(sql, parameters)  # type: ignore[no-any-return]

    def commit(self) -> None:
        """Commit as sqlite3's: it may write the log back into the file, and wait for the disk."""
        in_thread(super().commit)

    def rollback(self) -> None:
        """Roll back as sqlite3's."""
        in_thread(super().rollback)
