"""The database's time, by which every server judges expiry and age, so that servers whose clocks differ agree.

See docs/adr/0155-the-database-clock-decides-expiry-and-age.md.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text

from llm_proxy.db.session import read_transaction
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
    """Return the database's time, read on its own connection."""
    with read_transaction(engine) as connection:
        return database_now(connection)


MAX_DRIFT_S = 60.0


def _steady_s() -> float:
    """Return seconds that no setting of the wall clock moves, times of suspension included where they are known."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class WallClockGuard:
    """Tells whether the machine's wall clock was set by more than a minute, for a database without a clock.

    Small corrections are accepted one by one. A larger one is reported until the clock is back, or until a restart.

    Args:
        wall_s, steady_s: Seconds since 1970, and of a clock that is never set.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time, steady_s: Callable[[], float] = _steady_s) -> None:
        self._wall_s, self._steady_s = wall_s, steady_s
        self._offset_s = wall_s() - steady_s()

    def drift_s(self) -> float:
        """Return by how many seconds the wall clock was set since it was last accepted; 0 when it is accepted now."""
        offset_s = self._wall_s() - self._steady_s()
        drift_s = offset_s - self._offset_s
        if abs(drift_s) > MAX_DRIFT_S:
            return drift_s
        self._offset_s = offset_s
        return 0.0
