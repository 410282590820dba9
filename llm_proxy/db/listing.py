"""Pages of a table: by number, by key, or all of it in chunks; the same order on three databases."""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, and_, case, false, func, or_, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import Function

from llm_proxy.db.session import reading
from llm_proxy.db.types import from_column

CHUNK = 500


class InvalidCursor(ValueError):
    """Not a cursor of this list and order."""


@dataclass(frozen=True, slots=True)
class Order:
    """One column, then the id. Rows without a value come last in either direction."""

    name: str
    column: ColumnElement[Any]
    id: ColumnElement[str]
    descending: bool = False

    def clauses(self) -> list[ColumnElement[Any]]:
        """For ORDER BY; says nothing of NULL that databases would disagree about."""
        ordered = self.column.desc() if self.descending else self.column.asc()
        return [case((self.column.is_(None), 1), else_=0), ordered, self.id.asc()]

    def after(self, value: Any, row_id: str) -> ColumnElement[bool]:
        """Rows behind the one with this value and id."""
        if value is None:
            return and_(self.column.is_(None), self.id > row_id)
        beyond = self.column < value if self.descending else self.column > value
        return or_(beyond, and_(self.column == value, self.id > row_id), self.column.is_(None))

    def cursor(self, row: RowMapping) -> str:
        """The opaque text that names a row's place."""
        value = row[self.name]
        if isinstance(value, datetime):
            value = {"t": value.isoformat()}
        text = json.dumps([self.name, self.descending, value, row["id"]], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def place(self, cursor: str) -> tuple[Any, str]:
        """Value and id out of a cursor. Raises InvalidCursor."""
        try:
            name, descending, value, row_id = json.loads(
                base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            )
            if isinstance(value, dict):
                value = from_column(value["t"])
            elif not isinstance(value, str | int | None) or isinstance(value, bool):
                raise InvalidCursor
        except (ValueError, binascii.Error, KeyError, TypeError, RecursionError) as error:
            raise InvalidCursor from error
        kind = self.column.type.python_type
        is_right = (name, descending) == (self.name, self.descending) and isinstance(row_id, str) and row_id.isascii()
        if not is_right or not (value is None or isinstance(value, kind)) or "\x00" in f"{value}{row_id}":
            raise InvalidCursor
        return value, row_id


def count(connection: Connection, query: Select[Any]) -> int:
    """Rows that the query selects."""
    return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()


def numbered(connection: Connection, query: Select[Any], order: Order, page: int, size: int) -> Sequence[RowMapping]:
    """Page `page` ≥ 1 of `size` rows; empty past the end."""
    query = query.order_by(*order.clauses()).limit(size).offset((page - 1) * size)
    return connection.execute(query).mappings().all()


def keyed(
    connection: Connection, query: Select[Any], order: Order, limit: int, cursor: str | None
) -> tuple[Sequence[RowMapping], str | None]:
    """At most `limit` rows behind the cursor, and the cursor of the next, None at the end. Raises InvalidCursor."""
    if cursor is not None:
        query = query.where(order.after(*order.place(cursor)))
    rows = connection.execute(query.order_by(*order.clauses()).limit(limit + 1)).mappings().all()
    return rows[:limit], order.cursor(rows[limit - 1]) if len(rows) > limit else None


def everything(engine: Engine, query: Select[Any], order: Order) -> Iterator[Sequence[RowMapping]]:
    """All rows in chunks, a short transaction each, so that no writer waits for a long list."""
    cursor: str | None = None
    while True:
        with reading(engine) as connection:
            rows, cursor = keyed(connection, query, order, CHUNK, cursor)
        yield rows
        if cursor is None:
            return


def equals(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """`column = text` for columns of ids and words, which are ASCII: MySQL compares nothing else with them."""
    return column == text if text.isascii() and "\x00" not in text else false()


def within(column: ColumnElement[Any], ids: frozenset[str] | None) -> ColumnElement[bool]:
    """Whether the column of ids holds one of these; None holds all. A row without a value is in none."""
    return true() if ids is None else column.in_(sorted(ids))


def contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Whether the column contains the text: any case, `%` and `_` mean themselves."""
    pattern = text.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return Lowered(column).like(f"%{pattern}%", escape="!")


class Lowered(Function[str]):
    """Lower case by Unicode's rules, although the column's collation knows bytes alone."""

    inherit_cache = True
    name = "lower"

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__("lower", column)


@compiles(Lowered, "postgresql")
def _lowered_on_postgresql(element: Lowered, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)} COLLATE "default")'
