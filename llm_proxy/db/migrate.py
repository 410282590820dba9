"""Migrations up and down, and what state the schema is in."""

import logging
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from sqlalchemy import Connection, Engine, String, column, inspect, select, table

from llm_proxy.db.connector import connector_of
from llm_proxy.db.engine import unhurried
from llm_proxy.db.errors import MigrationError, SchemaBehind, SchemaTooNew, WouldLoseData
from llm_proxy.db.locks import migration_lock
from llm_proxy.db.session import read_transaction

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """`version` and `head` as integers, 0 = none; `pending` revisions in the order in which they will run."""

    version: int
    head: int
    pending: list[str] = field(default_factory=list)

    @property
    def is_too_new(self) -> bool:
        """Whether a newer release has migrated the database."""
        return self.version > self.head


def head() -> int:
    """Return the version that this program works with."""
    return int(revisions()[-1])


@cache
def revisions() -> tuple[str, ...]:
    """Return all revisions, the oldest first, by the names of their files: Alembic takes long to import."""
    files = (resources.files("llm_proxy.db.migrations") / "versions").iterdir()
    return tuple(sorted({entry.name[:4] for entry in files if entry.name[:4].isdigit()}))


def status(engine: Engine) -> Status:
    """Where the schema is. Changes nothing; a SQLite file that is missing is not made."""
    connector = connector_of(engine)
    if connector.dialect == "sqlite" and not connector.is_single and not Path(connector.where).exists():
        return _status(0)
    with read_transaction(engine) as connection:
        return _status(version(connection))


def version(connection: Connection) -> int:
    """Return the version written in the database; 0 = never migrated. Raises MigrationError for an unknown version."""
    if "alembic_version" not in inspect(connection).get_table_names():
        return 0
    query = select(column("version_num", String())).select_from(table("alembic_version"))
    written = connection.execute(query).scalars().all()
    if not written:
        return 0
    if len(written) > 1 or not written[0].isdigit():
        raise MigrationError("alembic_version holds what is no version of this program")
    return int(written[0])


def up(engine: Engine, lock_timeout_s: float) -> list[str]:
    """Run what is pending, under the lock; returns the revisions that this call has run.

    Raises:
        SchemaTooNew: A newer release was here; nothing is changed.
        MigrationError: The lock was not free in time, or a step failed (the cause is chained).
    """
    before = status(engine)
    _refuse_newer(before)
    if not before.pending:
        return []
    with migration_lock(engine, lock_timeout_s):
        before = status(engine)  # the holder before may have done it
        _refuse_newer(before)
        if before.pending:
            _run(engine, "upgrade", "head")
            _LOG.info("database migrated from version %d to %d", before.version, before.head)
    return before.pending


def down(engine: Engine, lock_timeout_s: float, *, may_lose_data: bool = False) -> int:
    """Undo the last revision, under the lock; returns the version reached.

    Raises:
        WouldLoseData: Tables or columns that it drops hold data, and `may_lose_data` is False.
        MigrationError: Nothing to undo, a newer schema, no lock, or a failed step.
    """
    with migration_lock(engine, lock_timeout_s):
        now = status(engine)
        _refuse_newer(now)
        if now.version == 0:
            raise MigrationError("no migration to roll back")
        lost = [] if may_lose_data else _losses(engine, f"{now.version:04d}")
        if lost:
            raise WouldLoseData(lost)
        _run(engine, "downgrade", "-1")
    return status(engine).version


def require_current(engine: Engine) -> None:
    """Raise SchemaTooNew or SchemaBehind unless the schema is this program's."""
    now = status(engine)
    _refuse_newer(now)
    if now.pending:
        raise SchemaBehind(
            f"database schema is at version {now.version}, this program needs {now.head}: run llm-proxy migrate up"
        )


def _refuse_newer(now: Status) -> None:
    if now.is_too_new:
        raise SchemaTooNew(
            f"database schema is at version {now.version}, newer than this program's {now.head}: "
            "start the newer release, or roll back with it first"
        )


def _status(at: int) -> Status:
    return Status(at, head(), [revision for revision in revisions() if int(revision) > at])


def _losses(engine: Engine, revision: str) -> list[str]:
    """Return what of the revision's tables and columns holds data."""
    from llm_proxy.db.revisions import parts_of

    holds = parts_of(revision)
    lost = []
    with read_transaction(engine) as connection:
        for part in holds:
            name, _, of_column = part.partition(".")
            query = select(1).select_from(table(name)).limit(1)
            if of_column:
                query = query.where(column(of_column).is_not(None))
            if name in inspect(connection).get_table_names() and connection.execute(query).first():
                lost.append(part)
    return lost


def _run(engine: Engine, step: str, target: str) -> None:
    from llm_proxy.db.revisions import run

    with unhurried(engine).connect() as connection:
        try:
            run(connection, step, target)
        except Exception as error:
            raise MigrationError(f"database migration failed: {type(error).__name__}") from error
