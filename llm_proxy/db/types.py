"""Column types that mean the same on three databases: UTC instants, exact text."""

from datetime import UTC, datetime
from typing import Any, overload

from sqlalchemy import CHAR, BigInteger, ColumnElement, Dialect, Integer, String, Text, TypeDecorator
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine

from llm_proxy.runtime.clock import parse_rfc3339


def to_column(dialect: str, instant: datetime) -> Any:
    """Return an aware instant in the form in which the driver of `dialect` (SQLAlchemy's name) binds it.

    Raises:
        ValueError: The datetime is naive, so its instant is unknown.
    """
    if instant.tzinfo is None:
        raise ValueError("an aware datetime is needed")
    instant = instant.astimezone(UTC)
    if dialect == "postgresql":
        return instant
    if dialect == "sqlite":
        # %Y does not pad years below 1000 on Linux; isoformat does.
        return instant.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    return instant.replace(tzinfo=None)


@overload
def from_column(value: None) -> None: ...
@overload
def from_column(value: str | datetime) -> datetime: ...
def from_column(value: Any) -> datetime | None:
    """Return what a driver returned as an aware instant in UTC; None stays None.

    Text is SQLite's. Rows written by other programs may lack the fraction or carry a zone: both are read.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return parse_rfc3339(value)
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)  # type: ignore[no-any-return]
    return value.astimezone(UTC)  # type: ignore[no-any-return]


class UtcTime(TypeDecorator[datetime]):
    """An instant with microseconds: TIMESTAMPTZ, DATETIME(6) in UTC, or text of fixed width on SQLite.

    Takes and gives aware datetimes only; whatever the zone of the one given, UTC is stored and returned.
    """

    impl = String(26)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What it is in Python."""
        return datetime

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(String(26))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Python → driver."""
        return None if value is None else to_column(dialect.name, value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Driver → Python."""
        found: datetime | None = from_column(value)
        return found


def ascii_text(length: int) -> String:
    """Ids, hashes and words of the program: compared byte by byte on every database."""
    return _exact(String(length), mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), length)


def ascii_fixed(length: int) -> String:
    """Return the same with a fixed length."""
    exact = CHAR(length)
    return (
        exact.with_variant(mysql.CHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
        .with_variant(postgresql.CHAR(length, collation="C"), "postgresql")
        .with_variant(CHAR(length), "sqlite")
    )


def exact_text(length: int) -> String:
    """Text of users: compared and ordered by code point on every database."""
    return _exact(String(length), mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), length)


def long_text() -> Text:
    """Text without a bound of its length, compared exactly."""
    return Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def big_integer() -> BigInteger:
    """64 bits; SQLite calls each integer column INTEGER."""
    return BigInteger().with_variant(Integer(), "sqlite")


def _exact(plain: String, on_mysql: TypeEngine[Any], length: int) -> String:
    return plain.with_variant(on_mysql, "mysql", "mariadb").with_variant(
        postgresql.VARCHAR(length, collation="C"), "postgresql"
    )


class _Later(GenericFunction[datetime]):
    """An instant and minutes, of columns both."""

    type = UtcTime()
    inherit_cache = True
    name = "minutes_later"


@compiles(_Later, "postgresql")
def _later_on_postgresql(element: _Later, compiler: Any, **more: Any) -> str:
    instant, minutes = (compiler.process(part, **more) for part in element.clauses)
    return f"({instant} + {minutes} * interval '1 minute')"


@compiles(_Later, "mysql", "mariadb")
def _later_on_mysql(element: _Later, compiler: Any, **more: Any) -> str:
    instant, minutes = (compiler.process(part, **more) for part in element.clauses)
    return f"timestampadd(MINUTE, {minutes}, {instant})"


@compiles(_Later, "sqlite")
def _later_on_sqlite(element: _Later, compiler: Any, **more: Any) -> str:
    instant, minutes = (compiler.process(part, **more) for part in element.clauses)
    # strftime rounds to milliseconds, so the fraction is carried over as it is.
    later = f"strftime('%Y-%m-%d %H:%M:%S', substr({instant}, 1, 19), {minutes} || ' minutes')"
    return f"({later} || substr({instant}, 20))"


def minutes_later(instant: Any, minutes: Any) -> ColumnElement[datetime]:
    """Return the instant so many minutes after one, on each database, to the microsecond. Null when either is."""
    return _Later(instant, minutes)
