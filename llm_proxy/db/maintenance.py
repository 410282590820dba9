"""Copying, counting and tidying a database."""

import os
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, Engine, func, select, text

from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.connector import connector_of
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.models import AuditRow, ProjectRow, TokenRow
from llm_proxy.db.session import read_transaction
from llm_proxy.db.urls import parse

_TABLES = ("projects", "tokens", "audit_events")


@dataclass(frozen=True, slots=True)
class Stats:
    """What is in the database. `size_bytes` is None where the server does not tell."""

    size_bytes: int | None
    projects: int
    active_projects: int
    tokens: int
    active_tokens: int
    expired_tokens: int
    requests: int
    audit_events: int


def backup(database: Path, target: Path) -> None:
    """Copy a live SQLite database as of one moment, for its owner alone; servers keep running.

    Raises:
        DatabaseFault: There is no such database, or the target already exists.
    """
    if not database.is_file():
        raise DatabaseFault(f"{database} is not there")
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise DatabaseFault(f"{target} already exists") from None
    except OSError as error:
        raise DatabaseFault(f"{target} cannot be written: {error.strerror}") from None
    try:
        # VACUUM INTO takes an empty file for a new one, so the copy is never readable by others.
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise DatabaseFault(f"{database} could not be copied: {error.sqlite_errorname}") from error


def dump_command(url: str, target: str) -> str:
    """Return the shell line that dumps a PostgreSQL or MySQL database; it asks for the password. Raises UrlFault."""
    address = parse(url)
    host, port = address.hosts[0] if address.hosts else ("", 0)
    place = [("host", address.socket or host), ("port", str(port) if port else ""), ("user", address.user or "")]
    if address.driver == "postgres":
        names = {"host": "--host", "port": "--port", "user": "--username"}
        words = ["pg_dump", *_options(place, names), "--format=custom", f"--file={target}", address.database or ""]
    else:
        names = {"host": "--socket" if address.socket else "--host", "port": "--port", "user": "--user"}
        words = ["mysqldump", "--single-transaction", *_options(place, names), "--password"]
        words += [f"--result-file={target}", address.database or ""]
    return shlex.join(word for word in words if word)


def _options(place: list[tuple[str, str]], names: dict[str, str]) -> list[str]:
    return [f"{names[name]}={value}" for name, value in place if value]


def stats(
    engine: Engine, expired_before: Callable[[datetime], ColumnElement[bool]], now: Clock = database_now
) -> Stats:
    """Count, in one reading transaction. Tokens that were unused for too long are expired; both may be revoked.

    Args:
        expired_before: The condition that a token's row had expired at an instant.
    """
    with read_transaction(engine) as connection:
        is_over = expired_before(now(connection))

        def count(query: object) -> int:
            return int(connection.execute(query).scalar_one() or 0)  # type: ignore[call-overload]

        tokens = select(func.count()).select_from(TokenRow)
        projects = select(func.count()).select_from(ProjectRow)
        return Stats(
            size_bytes=_size(engine),
            projects=count(projects),
            active_projects=count(projects.where(ProjectRow.is_active)),
            tokens=count(tokens),
            active_tokens=count(tokens.where(TokenRow.is_active, ~is_over)),
            expired_tokens=count(tokens.where(is_over)),
            requests=count(select(func.sum(TokenRow.request_count))),
            audit_events=count(select(func.count()).select_from(AuditRow)),
        )


def _size(engine: Engine) -> int | None:
    connector = connector_of(engine)
    if connector.dialect == "sqlite":
        parts = [Path(connector.where + suffix) for suffix in ("", "-wal")]
        return None if connector.is_single else sum(part.stat().st_size for part in parts if part.exists())
    statement = (
        "SELECT pg_database_size(current_database())"
        if connector.dialect == "postgresql"
        else "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()"
    )
    with read_transaction(engine) as connection:
        found = connection.execute(text(statement)).scalar_one()
    return None if found is None else int(found)


def maintain(engine: Engine) -> None:
    """Reclaim space and renew the planner's statistics. On SQLite writers wait meanwhile: not at a busy hour."""
    connector = connector_of(engine)
    if connector.dialect == "sqlite":
        statements = ["VACUUM", "ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"]
    elif connector.dialect == "postgresql":
        statements = [f"VACUUM (ANALYZE) {table}" for table in _TABLES]
    else:
        statements = [f"{verb} TABLE {table}" for verb in ("OPTIMIZE", "ANALYZE") for table in _TABLES]
    if connector.dialect == "sqlite" and not connector.is_single:
        with closing(sqlite3.connect(connector.where, timeout=10, isolation_level=None)) as plain:
            for statement in statements:
                plain.execute(statement).fetchall()
        return
    with engine.connect() as connection:
        plain_connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            plain_connection.execute(text(statement)).close()
