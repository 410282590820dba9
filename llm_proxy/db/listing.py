"""Pages of a table: by number, by key, or all of it in chunks; the same order on three databases.

See docs/adr/0156-lists-are-read-in-the-order-of-an-index.md.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, false, func, literal, or_, select, true
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
    """One column, then the id in the same direction, so that one index serves both directions on each database.

    Rows without a value come last in either direction: they are a second part of the list, by id, because databases
    disagree about where an index holds them.

    Attributes:
        is_unique: No two rows have the same value, so that the id orders nothing.
    """

    name: str
    column: ColumnElement[Any]
    id: ColumnElement[str]
    descending: bool = False
    is_unique: bool = False

    @property
    def is_nullable(self) -> bool:
        """Whether there is a second part."""
        return bool(getattr(self.column, "nullable", True))

    def parts(self, query: Select[Any]) -> list[Select[Any]]:
        """Return the query's parts, each in order: rows with a value, then rows without."""
        if not self.is_nullable:
            ties = [] if self.is_unique else [self._directed(self.id)]
            return [query.order_by(self._directed(self.column), *ties)]
        valued = query.where(self.column.is_not(None))
        valued = valued.order_by(self._directed(self.column), self._directed(self.id))
        return [valued, query.where(self.column.is_(None)).order_by(self._directed(self.id))]

    def after(self, query: Select[Any], value: Any, row_id: str) -> list[Select[Any]]:
        """Return the parts, without the rows up to the one with this value and id."""
        parts = self.parts(query)
        behind = self.id < row_id if self.descending else self.id > row_id
        if value is None:
            return [part.where(behind) for part in parts[1:]]
        bound, beyond = (
            (self.column <= value, self.column < value)
            if self.descending
            else (
                self.column >= value,
                self.column > value,
            )
        )
        return [parts[0].where(bound, or_(beyond, behind)), *parts[1:]]

    def _directed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return column.desc() if self.descending else column.asc()

    def cursor(self, row: RowMapping) -> str:
        """Return the opaque text that names a row's place."""
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
    """Return page `page` ≥ 1 of `size` rows; empty past the end.

    What is skipped is read from an index alone: first the ids of the page, then its rows.
    """
    skipped, ids = (page - 1) * size, list[str]()
    parts = order.parts(query)
    for part in parts:
        found = connection.execute(part.with_only_columns(order.id).limit(size - len(ids)).offset(skipped)).scalars()
        ids += found
        if len(ids) == size:
            break
        if part is not parts[-1] and skipped:
            skipped = 0 if ids else skipped - count(connection, part.order_by(None))
    return _rows(connection, query, order, ids)


def keyed(
    connection: Connection, query: Select[Any], order: Order, limit: int, cursor: str | None
) -> tuple[Sequence[RowMapping], str | None]:
    """At most `limit` rows behind the cursor, and the cursor of the next, None at the end. Raises InvalidCursor."""
    parts = order.parts(query) if cursor is None else order.after(query, *order.place(cursor))
    rows: list[RowMapping] = []
    for part in parts:
        rows += connection.execute(part.limit(limit + 1 - len(rows))).mappings()
        if len(rows) > limit:
            break
    return rows[:limit], order.cursor(rows[limit - 1]) if len(rows) > limit else None


def _rows(connection: Connection, query: Select[Any], order: Order, ids: Sequence[str]) -> Sequence[RowMapping]:
    """Return the rows with these ids, in their order."""
    if not ids:
        return []
    found = {row["id"]: row for row in connection.execute(query.where(order.id.in_(ids))).mappings()}
    return [found[row_id] for row_id in ids if row_id in found]


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
    """Return the condition that the column contains the text in any case; `%` and `_` mean themselves.

    The database lowers both sides, because its rules for letters beyond ASCII differ from Python's.
    """
    pattern = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return Lowered(column).like(Lowered(literal(f"%{pattern}%")), escape="!")


class Lowered(Function[str]):
    """Lower case by Unicode's rules, although the column's collation knows bytes alone."""

    inherit_cache = True
    name = "lower"

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__("lower", column)


@compiles(Lowered, "postgresql")
def _lowered_on_postgresql(element: Lowered, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)} COLLATE "default")'
