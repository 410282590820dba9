"""What goes wrong with a database, told apart: away for now, or a fault that a retry does not cure."""

import logging
import sqlite3
import ssl
import sys
from typing import Any

from sqlalchemy import exc as sa

_SQLITE_AWAY = {  # primary result codes
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
}
# Connection, read-only (a standby that is not promoted yet), resources, operator, lock wait, serialisation.
_POSTGRES_AWAY = ("08", "25006", "53", "57", "55P03", "40")
_MYSQL_AWAY = {  # server gone, connection refused or lost, shutting down, too many connections, lock wait, deadlock
    1037, 1038, 1040, 1041, 1042, 1043, 1053, 1077, 1079, 1080, 1129, 1152, 1153, 1154, 1155, 1156, 1157, 1158, 1159,
    1160, 1161, 1184, 1203, 1205, 1213, 1226, 1290, 1317, 1836, 1927, 2002, 2003, 2005, 2006, 2013, 2055, 3024, 4031,
}  # fmt: skip


class DatabaseFault(Exception):
    """Root of the project's words about the database; the message is one line for an operator, without a secret."""


class DatabaseAway(DatabaseFault):
    """No answer within the bound that applied."""


class MigrationError(DatabaseFault):
    """The schema is not what this program can work with, or could not be changed."""


class SchemaTooNew(MigrationError):
    """The database was migrated by a newer release; nothing is downgraded silently."""


class SchemaBehind(MigrationError):
    """Migrations are pending and AUTO_MIGRATE is off."""


class WouldLoseData(MigrationError):
    """A step down would drop tables or columns that hold data; `parts` names them."""

    def __init__(self, parts: list[str]) -> None:
        super().__init__("this step would drop data: " + ", ".join(parts))
        self.parts = parts


def _is_postgres(error: BaseException, *names: str) -> bool:
    """Return whether an error is of one of psycopg2's classes, which are only known where that driver is in use."""
    return _is_of("psycopg2", error, names or ("Error",))


def _is_mysql(error: BaseException, *names: str) -> bool:
    """Return the same for PyMySQL."""
    return _is_of("pymysql.err", error, names or ("MySQLError",))


def _is_of(module: str, error: BaseException, names: tuple[str, ...]) -> bool:
    driver: Any = sys.modules.get(module)
    return driver is not None and isinstance(error, tuple(getattr(driver, name) for name in names))


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is unavailable, overloaded or restarting, so that the same call may work a moment later.

    Knows the errors of SQLAlchemy, of the three drivers, and of this package. False for what a retry does not cure.
    """
    if isinstance(error, DatabaseAway | sa.TimeoutError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, sa.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_unavailable(error.orig))
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in _SQLITE_AWAY
    if _is_postgres(error):
        state: str | None = getattr(error, "pgcode", None)
        return state.startswith(_POSTGRES_AWAY) if state else _is_postgres(error, "OperationalError", "InterfaceError")
    if _is_mysql(error, "InterfaceError"):
        return True
    return _is_mysql(error) and bool(error.args) and error.args[0] in _MYSQL_AWAY


_MYSQL_VALUES = (1264, 1366, 1406, 1690)  # out of range, no character of the column's, too long, out of range in a sum


def is_value_fault(error: BaseException) -> bool:
    """Return whether the statement's own values are at fault: it fails again, however often it is tried."""
    if isinstance(error, sa.DBAPIError) and error.orig is not None and is_value_fault(error.orig):
        return True
    if _is_mysql(error):
        return bool(error.args) and error.args[0] in _MYSQL_VALUES
    is_value = isinstance(error, OverflowError | ValueError | sa.DataError | sa.IntegrityError)
    return is_value or _is_postgres(error, "DataError")


def is_lost_race(error: BaseException) -> bool:
    """Whether the database undid a statement because another transaction was first: repeatable reads, Galera."""
    if _is_postgres(error):
        return getattr(error, "pgcode", None) in ("40001", "40P01")
    return _is_mysql(error) and error.args[:1] in ((1020,), (1213,))


def in_words(error: BaseException) -> str:
    """Say what is wrong, for an operator, without the driver's words, which may repeat the address or user."""
    cause = error.orig if isinstance(error, sa.DBAPIError) and error.orig is not None else error
    if _is_mysql(cause) and cause.args:
        refusal = getattr(cause, "original_exception", None)  # PyMySQL wraps a failed handshake as 2003
        return _tls_words(refusal) or _MYSQL_WORDS.get(cause.args[0]) or _otherwise(error)
    if isinstance(cause, sqlite3.Error):
        return _SQLITE_WORDS.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF) or _otherwise(error)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    text = str(cause)
    for part, words in _POSTGRES_WORDS:
        if part in text:
            return words
    return _otherwise(error)


def _tls_words(cause: object) -> str | None:
    """Return what is wrong with TLS; None for what is no fault of TLS. OpenSSL's reasons hold no secret."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"TLS could not be set up: {cause.verify_message}"
    return "TLS could not be set up" if isinstance(cause, ssl.SSLError) else None


def _otherwise(error: BaseException) -> str:
    """Return words for a failure that has no others."""
    if is_unavailable(error):
        return "it does not answer"
    cause = error.orig if isinstance(error, sa.DBAPIError) and error.orig is not None else error
    number = cause.args[0] if _is_mysql(cause) and cause.args else None
    code = getattr(cause, "pgcode", None) or number
    return f"it refused ({type(cause).__name__}{f' {code}' if code else ''})"


class WriteFailures:
    """Logs that writes fail: once, and again only after a write that worked.

    Args:
        message: What happens to the values, such as `usage could not be written, it is kept`.
    """

    def __init__(self, log: logging.Logger, message: str) -> None:
        self._log, self._message, self._is_failing = log, message, False

    def failed(self, error: Exception) -> None:
        """Log an error; with its traceback where it is more than an unavailable database."""
        if not self._is_failing:
            self._log.warning("%s: %s", self._message, type(error).__name__, exc_info=not is_unavailable(error))
        self._is_failing = True

    def worked(self) -> None:
        """Note that a write worked."""
        self._is_failing = False


_SQLITE_WORDS = {
    sqlite3.SQLITE_CANTOPEN: "the file can't be opened",
    sqlite3.SQLITE_READONLY: "the file can't be written",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process holds its lock",
}
_MYSQL_WORDS = {
    1044: "the user may not use this database",
    1045: "user or password is wrong",
    1049: "there is no such database",
    2026: "TLS could not be set up",
}
_POSTGRES_WORDS = (
    ("authentication failed", "user or password is wrong"),
    ("no password supplied", "no password is set"),
    ("pg_hba.conf", "the server does not let this host or user in"),
    ("does not exist", "there is no such database or user"),
    ("unrecognized configuration parameter", "the server does not know an option of DATABASE_URL"),
    ("SSL", "TLS could not be set up"),
    ("certificate", "TLS could not be set up"),
    ("could not be resolved", "its host name is unknown"),
)
