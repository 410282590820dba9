"""The lock under which migrations run: one process of all replicas at a time."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from llm_proxy.db.connector import connector_of
from llm_proxy.db.errors import MigrationError

_POSTGRES_KEY = 3141592653
_MYSQL_NAME = "llm-proxy-migrations"
_POLL_S = 0.1


@contextmanager
def migration_lock(engine: Engine, timeout_s: float) -> Iterator[None]:
    """Hold the lock for the block; it is freed by the kernel or the server when this process dies.

    Raises:
        MigrationError: Another process held it for all of `timeout_s`.
    """
    connector = connector_of(engine)
    if connector.is_single:
        yield
    elif connector.dialect == "sqlite":
        with _file_lock(Path(connector.where), timeout_s):
            yield
    else:
        # Its own connection for the whole run: these locks belong to the session that took them.
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            with _session_lock(connection, timeout_s):
                yield


@contextmanager
def _file_lock(database: Path, timeout_s: float) -> Iterator[None]:
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = database.with_name(database.name + ".migrate.lock")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:

        def take() -> bool:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _wait(take, timeout_s)
        yield
    finally:
        os.close(descriptor)  # frees the lock; the file stays, so that no process locks an unlinked one


@contextmanager
def _session_lock(connection: Connection, timeout_s: float) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        take, free = text("SELECT pg_try_advisory_lock(:key)"), text("SELECT pg_advisory_unlock(:key)")
        values: dict[str, object] = {"key": _POSTGRES_KEY}
    else:
        # Named by schema: GET_LOCK is server-wide, and two installations may share a server.
        take, free = text("SELECT GET_LOCK(:key, 0)"), text("SELECT RELEASE_LOCK(:key)")
        name = connection.execute(text("SELECT concat(:key, '@', database())"), {"key": _MYSQL_NAME}).scalar_one()
        values = {"key": name[:64]}
    _wait(lambda: bool(connection.execute(take, values).scalar()), timeout_s)
    try:
        yield
    finally:
        connection.execute(free, values)


def _wait(take: Callable[[], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not take():
        if time.monotonic() > until:
            raise MigrationError(f"another process has held the migration lock for {timeout_s:g} s")
        time.sleep(_POLL_S)
