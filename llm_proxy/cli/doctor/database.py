"""The database: reachable, sound, migrated, its sealed keys openable, its clock right."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.cli.doctor.skew import compare
from llm_proxy.cli.output import counted
from llm_proxy.crypto import KeyRing, check_key_ring, is_sealed, sealed_under
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault, is_unavailable
from llm_proxy.db.session import read_transaction

_LOCK_WAIT_S = 2.0
_CAUSES = (  # a driver's words, code, the finding's words, what to do
    (r"not a database", "not-a-database", "the file is no SQLite database", "correct DATABASE_PATH"),
    (r"malformed|corrupt|disk image", "corrupt", "the database is damaged", "restore a backup"),
    (r"locked|busy", "locked", "another process holds the write lock", "see fuser FILE; end long maintenance"),
    (r"password|access denied|authentication|no pg_hba", "authentication", "user or password is not accepted",
     "correct DATABASE_URL or DATABASE_PASSWORD"),
    (r"database \S+ does not exist|unknown database", "no-such-database", "there is no such database", "create it"),
    (r"translate host|name or service|getaddrinfo|resolution|unknown host", "unknown-host", "the host is not known",
     "correct the host in DATABASE_URL"),
    (r"ssl|tls|certificate", "tls", "no TLS connection came about", "check sslmode or tls in DATABASE_URL, and the CA"),
    (r"timed? ?out|timeout", "timeout", "no answer in time", "check host, port and firewall"),
    (r"refused", "refused", "the connection was refused", "start the server, or correct host and port in DATABASE_URL"),
    (r"unable to open|readonly|read-only", "not-writable", "the file cannot be opened for writing",
     "let this user write DATABASE_PATH and its folder"),
)  # fmt: skip


def database(context: CheckContext) -> Iterator[Finding]:
    """All of it, as far as each step lets the next one look."""
    settings = context.settings
    path = Path(settings.storage.path)
    if settings.storage.driver == "sqlite" and settings.storage.path != ":memory:" and not path.exists():
        yield good("database", f"{path} is not there yet; the start makes it")
        return
    try:
        engine = create_engine(settings.storage)
    except DatabaseFault as exc:
        yield fault("database.url", str(exc), "correct DATABASE_URL; docs/settings.md tells its forms")
        return
    try:
        yield from _connected(engine, context)
    except (DatabaseFault, SQLAlchemyError, sqlite3.Error, OSError) as exc:
        yield cause(exc, settings.storage.driver)
    finally:
        engine.dispose()


def reachable(context: CheckContext) -> Iterator[Finding]:
    """Whether it answers, its clock and its migrations; nothing that reads whole tables."""
    settings = context.settings
    engine = create_engine(settings.storage)
    try:
        asked_at_s = time.time()
        with read_transaction(engine) as connection:
            connection.execute(text("SELECT 1"))
            theirs_s = _now(connection, settings.storage.driver)
        yield good("database", f"{settings.storage.driver} answers")
        if theirs_s is not None:
            yield from compare("database", theirs_s, asked_at_s)
        yield from _migrations(engine, context)
    except (DatabaseFault, SQLAlchemyError, sqlite3.Error, OSError) as exc:
        yield cause(exc, settings.storage.driver)
    finally:
        engine.dispose()


def cause(error: BaseException, driver: str) -> Finding:
    """Return a driver's error in the project's words; the driver's may hold host, user and statement."""
    words = " ".join(str(part) for part in _chain(error)).lower()
    for pattern, code, what, remedy in _CAUSES:
        if re.search(pattern, words):
            return fault(f"database.{code}", f"{driver}: {what}", remedy)
    kind = type(error.orig if isinstance(error, DBAPIError) and error.orig else error).__name__
    code = "database.away" if is_unavailable(error) else "database.error"
    return fault(code, f"{driver}: {kind}", "look into the database server's log")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def _connected(engine: Engine, context: CheckContext) -> Iterator[Finding]:
    driver = context.settings.storage.driver
    asked_at_s = time.time()
    with read_transaction(engine) as connection:
        connection.execute(text("SELECT 1"))
        theirs_s = _now(connection, driver)
        if driver == "sqlite":
            yield from _sound(connection)
    yield good("database", f"{driver} answers")
    if theirs_s is not None:
        yield from compare("database", theirs_s, asked_at_s)
    if driver == "sqlite" and context.settings.storage.path != ":memory:":
        _take_write_lock(context.settings.storage.path)
    is_current = True
    for finding in _migrations(engine, context):
        is_current = is_current and finding.level == "good"
        yield finding
    if is_current:
        yield from _keys(engine, KeyRing.from_settings(context.settings.storage))


def _take_write_lock(path: str) -> None:
    """Take it for a moment. Raises sqlite3.OperationalError when a process keeps it for longer than a server would."""
    with closing(sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _now(connection: Connection, driver: str) -> float | None:
    """Return the server's clock, seconds since 1970; None for SQLite, which has this machine's."""
    statement = {"postgres": "SELECT extract(epoch FROM clock_timestamp())", "mysql": "SELECT unix_timestamp(now(6))"}
    return float(connection.execute(text(statement[driver])).scalar_one()) if driver in statement else None


def _sound(connection: Connection) -> Iterator[Finding]:
    lines = [str(line) for line in connection.execute(text("PRAGMA quick_check(3)")).scalars()]
    if lines != ["ok"]:
        yield fault(
            "database.corrupt", f"sqlite: the database is damaged ({len(lines)} places or more)", "restore a backup"
        )


def _migrations(engine: Engine, context: CheckContext) -> Iterator[Finding]:
    try:
        status = migrate.status(engine)
    except DatabaseFault as exc:
        yield fault("migrations.foreign", str(exc), "is this the right database? It was migrated by another program")
        return
    if status.is_too_new:
        what = f"the schema is at version {status.version}, this program knows {status.head}"
        yield fault("migrations.too-new", what, "install the newer release, or roll back with it first")
    elif status.pending and not context.settings.storage.auto_migrate:
        yield fault("migrations.pending", f"pending: {', '.join(status.pending)}", "run llm-proxy migrate up")
    elif status.pending:
        yield warning("migrations.pending", f"pending: {', '.join(status.pending)}", "the next start applies them")
    else:
        yield good("migrations", f"the schema is at version {status.version}")


def _keys(engine: Engine, ring: KeyRing) -> Iterator[Finding]:
    line = check_key_ring(engine, ring)
    if line is not None:
        code = "keys.missing" if ring.is_empty else "keys.unknown"
        yield fault(
            code, line, "without that key these provider keys are lost: set them again with manage project update"
        )
        return
    with read_transaction(engine) as connection:
        rows = connection.execute(text("SELECT id, api_key FROM projects")).all()
        plain_tokens = connection.execute(text("SELECT count(*) FROM tokens WHERE length(token) <> 64")).scalar_one()
    broken = [str(row_id) for row_id, stored in rows if is_sealed(stored) and not ring.opens(stored, row_id)]
    for row_id in broken:
        what = f"the provider key of project {row_id} does not open: its row was changed"
        yield fault("keys.tampered", what, f"llm-proxy manage project update {row_id} --openai-key -")
    plain = sum(1 for _, stored in rows if not is_sealed(stored))
    if plain and not ring.is_empty:
        yield warning("keys.plain", f"{plain} provider keys are stored in clear", "run llm-proxy migrate encrypt")
    if plain_tokens:
        yield warning(
            "keys.plain-tokens", f"{plain_tokens} tokens are stored in clear", "run llm-proxy migrate encrypt"
        )
    previous = sum(1 for _, stored in rows if sealed_under(stored) not in (None, ring.current_id))
    if previous and not ring.is_empty:
        what = f"{previous} provider keys are under a key of ENCRYPTION_KEY_PREVIOUS"
        yield warning("keys.previous", what, "run llm-proxy migrate re-encrypt, then unset ENCRYPTION_KEY_PREVIOUS")
    if not broken:
        yield good("keys", f"{counted(len(rows), 'project')}: every sealed key can be opened")
