"""The database's time, by which every server judges expiry and age, so that servers whose clocks differ agree."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text

from llm_proxy.db.session import reading
from llm_proxy.runtime.clock import utc_now

DATABASE_S = {  # seconds since 1970, in UTC whatever the session's zone
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
    "mysql": "unix_timestamp(now(6))",
}
_MYSQL_NOW = text("SELECT utc_timestamp(6)")
_NOW = {"postgresql": text("SELECT clock_timestamp()"), "mysql": _MYSQL_NOW, "mariadb": _MYSQL_NOW}

Clock = Callable[[Connection], datetime]


def database_now(connection: Connection) -> datetime:
    """Return the database's time; on SQLite this machine's, because it has no other."""
    query = _NOW.get(connection.dialect.name)
    if query is None:
        return utc_now()
    instant: datetime = connection.execute(query).scalar_one()
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


def now_of(engine: Engine) -> datetime:
    """Return the database's time, read on a connection of its own."""
    with reading(engine) as connection:
        return database_now(connection)
