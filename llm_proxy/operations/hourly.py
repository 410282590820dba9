"""What the sums by hour share: hours as numbers, and the statement that adds to a row or makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy.dialects import mysql, postgresql, sqlite

HOUR_S: Final = 3600
ADDED, REPLACED = "added", "replaced"  # what becomes of a column of a row that is there


@dataclass(frozen=True, slots=True)
class HourFilter:
    """Which hours are read, of which projects."""

    since: datetime
    until: datetime  # included, as `since` is
    project_id: str | None = None
    within: frozenset[str] | None = None  # the projects that the caller may see, None: all


def instant_of(hour: int) -> datetime:
    """Return the beginning of an hour that is counted since 1970."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC)


def upsert(dialect: str, table: Any, changes: Mapping[str, str]) -> Any:
    """Return an INSERT that changes the row that is there, by what becomes of each column."""
    return _upsert(dialect, table, tuple(changes.items()))


@lru_cache(maxsize=16)
def _upsert(dialect: str, table: Any, pairs: tuple[tuple[str, str], ...]) -> Any:
    """Make each statement once: that takes milliseconds, for which a worker's requests would wait at each flush."""
    changes = dict(pairs)
    if dialect in ("mysql", "mariadb"):
        on_mysql = mysql.insert(table)
        return on_mysql.on_duplicate_key_update(_values(table, on_mysql.inserted, changes))
    made = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    return made.on_conflict_do_update(index_elements=keys, set_=_values(table, made.excluded, changes))


def _values(table: Any, new: Any, changes: Mapping[str, str]) -> dict[str, Any]:
    return {name: new[name] if kind == REPLACED else table.c[name] + new[name] for name, kind in changes.items()}
