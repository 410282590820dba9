"""Pages of a table: by number, by key, or all of it in chunks; the same order on three databases.

Conditions that no index serves in the order of the list are judged row by row, in slices, and a page by key ends after
so many rows. See docs/adr/0156-lists-are-read-in-the-order-of-an-index.md and
docs/adr/0210-a-page-looks-at-a-bounded-number-of-rows.md.
"""

import base64
import binascii
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gevent
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
    true,
)

from llm_proxy.db.folding import Folded, Lowered
from llm_proxy.db.kept_totals import KeptTotal
from llm_proxy.db.session import read_transaction
from llm_proxy.db.types import from_column

CHUNK = 500
SLICE = 2_000  # rows that are judged by one statement: a few milliseconds
LEAST = 6_000  # rows that a page by key judges
LONGEST_S = 0.02  # how long it goes on beyond them
NARROW = 5_000  # rows that may be sorted for a page
MOST = 10_000  # rows that a bounded total counts


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

    def up_to(self, part: Select[Any], end: RowMapping) -> Select[Any]:
        """Return the part without the rows behind that one, which is of it."""
        value, within = end[self.name], self.id >= end["id"] if self.descending else self.id <= end["id"]
        if value is None:
            return part.where(within)
        if self.descending:
            return part.where(self.column >= value, or_(self.column > value, within))
        return part.where(self.column <= value, or_(self.column < value, within))

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


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a list.

    Attributes:
        query: Unordered, with the conditions that an index serves in the order of the list.
        judged: Conditions that are judged row by row.
        narrow: A condition that an index serves in another order. Where it holds for few rows they are sorted, else it
            is judged.
    """

    query: Select[Any]
    judged: tuple[ColumnElement[bool], ...] = ()
    narrow: ColumnElement[bool] | None = None

    @property
    def whole(self) -> Select[Any]:
        """The query with every condition."""
        more = () if self.narrow is None else (self.narrow,)
        return self.query.where(*more, *self.judged)

    @property
    def judgement(self) -> ColumnElement[bool]:
        """What is judged, in a form that no database looks for an index for."""
        return opaque(and_(*self.judged))

    def settled(self, connection: Connection, order: Order) -> "Selection":
        """Return the same rows without `narrow`."""
        if self.narrow is None:
            return self
        few = self.query.where(self.narrow).with_only_columns(order.id).limit(NARROW + 1)
        if count(connection, few) <= NARROW:
            return Selection(self.whole)
        return Selection(self.query, (*self.judged, self.narrow))


@dataclass(frozen=True, slots=True)
class Total:
    """How many rows a list has; `is_more`: at least so many, because the rest was not counted."""

    count: int
    is_more: bool = False

    def __str__(self) -> str:
        return f"{self.count:,}{'+' if self.is_more else ''}"


def count(connection: Connection, query: Select[Any]) -> int:
    """Rows that the query selects."""
    return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()


def numbered(
    connection: Connection,
    selection: Selection,
    order: Order,
    page: int,
    size: int,
    most: int | None = None,
    kept: KeptTotal | None = None,
) -> tuple[Sequence[RowMapping], Total]:
    """Return page `page` ≥ 1 of `size` rows, empty past the end, and how many rows there are.

    Args:
        most: Rows that are counted or judged; None: all, which takes long in a large table.
        kept: The exact total, where it is known already or is to be kept.
    """
    known = None if kept is None or most is not None else kept.known
    if selection.judged or most is not None:
        selection = selection.settled(connection, order)
    if selection.judged:
        rows, total = _judged_page(connection, selection, order, (page - 1) * size, size, most, known)
    else:
        query = selection.whole
        rows = _rows(connection, order, _ids(connection, query, order, (page - 1) * size, size))
        total = Total(known) if known is not None else _total(connection, query, order, most)
    if kept is not None and most is None:
        kept.keep(total.count)
    return rows, total


def _total(connection: Connection, query: Select[Any], order: Order, most: int | None) -> Total:
    if most is None:
        return Total(count(connection, query))
    found = count(connection, query.with_only_columns(order.id).limit(most + 1))
    return Total(min(found, most), found > most)


def _ids(connection: Connection, query: Select[Any], order: Order, skipped: int, size: int) -> list[str]:
    """Return the ids of a page. What is skipped is read from an index alone, which holds them."""
    ids = list[str]()
    parts = order.parts(query)
    for part in parts:
        found = connection.execute(part.with_only_columns(order.id).limit(size - len(ids)).offset(skipped)).scalars()
        ids += found
        if len(ids) == size:
            break
        if part is not parts[-1] and skipped:
            skipped = 0 if ids else skipped - count(connection, part.order_by(None))
    return ids


def _judged_page(
    connection: Connection,
    selection: Selection,
    order: Order,
    skipped: int,
    size: int,
    most: int | None,
    known: int | None,
) -> tuple[Sequence[RowMapping], Total]:
    ids, fits, looked, judgement = list[str](), 0, 0, selection.judgement
    for part, end in _slices(connection, selection.query, order, order.parts(selection.query)):
        of_part = part.with_only_columns(order.id).where(judgement)
        here = count(connection, of_part.order_by(None))
        if len(ids) < size and fits + here > skipped:
            ids += connection.execute(of_part.offset(max(0, skipped - fits)).limit(size - len(ids))).scalars()
        fits, looked = fits + here, looked + SLICE
        if known is not None and (len(ids) == size or fits >= known):
            return _rows(connection, order, ids), Total(known)
        if most is not None and looked >= most and end is not None:
            return _rows(connection, order, ids), Total(fits, is_more=True)
    return _rows(connection, order, ids), Total(fits)


def keyed(
    connection: Connection, selection: Selection, order: Order, limit: int, cursor: str | None
) -> tuple[Sequence[RowMapping], str | None]:
    """At most `limit` rows behind the cursor, and the cursor of the next, None at the end. Raises InvalidCursor.

    With conditions that are judged there may be fewer rows, or none, although there is a next page: a page judges at
    least LEAST rows, and goes on for at most LONGEST_S.
    """
    place = None if cursor is None else order.place(cursor)
    selection = selection.settled(connection, order)
    parts = order.parts(selection.query) if place is None else order.after(selection.query, *place)
    rows: list[RowMapping] = []
    if selection.judged:
        return _judged(connection, selection, order, parts, limit)
    for part in parts:
        rows += connection.execute(part.limit(limit + 1 - len(rows))).mappings()
        if len(rows) > limit:
            break
    return rows[:limit], order.cursor(rows[limit - 1]) if len(rows) > limit else None


def _judged(
    connection: Connection, selection: Selection, order: Order, parts: Sequence[Select[Any]], limit: int
) -> tuple[Sequence[RowMapping], str | None]:
    rows, looked, began, judgement = list[RowMapping](), 0, time.monotonic(), selection.judgement
    for part, end in _slices(connection, selection.query, order, parts):
        rows += connection.execute(part.where(judgement).limit(limit + 1 - len(rows))).mappings()
        if len(rows) > limit:
            return rows[:limit], order.cursor(rows[limit - 1])
        looked += SLICE
        if end is not None and looked >= LEAST and time.monotonic() - began > LONGEST_S:
            return rows, order.cursor(end)
    return rows, None


def _slices(
    connection: Connection, query: Select[Any], order: Order, parts: Sequence[Select[Any]]
) -> Iterator[tuple[Select[Any], RowMapping | None]]:
    """Yield the parts in pieces of SLICE rows, each with its last row; None for the last piece of a part."""
    for part in parts:
        rest, end = part, _last_of_slice(connection, part, order)
        while end is not None:
            yield order.up_to(rest, end), end
            gevent.sleep(0)  # a statement of SQLite stops the whole worker: other requests come in between
            rest = order.after(query, end[order.name], end["id"])[0]
            end = _last_of_slice(connection, rest, order)
        yield rest, None


def _last_of_slice(connection: Connection, part: Select[Any], order: Order) -> RowMapping | None:
    """Return the last row of the part's next piece, read from an index alone; None where fewer rows are left."""
    query = part.with_only_columns(order.column, order.id).offset(SLICE - 1).limit(1)
    return connection.execute(query).mappings().first()


def _rows(connection: Connection, order: Order, ids: Sequence[str]) -> Sequence[RowMapping]:
    """Return the rows with these ids, in their order."""
    if not ids:
        return []
    found = {row["id"]: row for row in connection.execute(of_ids(order, ids)).mappings()}
    return [found[row_id] for row_id in ids if row_id in found]


def of_ids(order: Order, ids: Sequence[str]) -> Select[Any]:
    """Return the query of rows by id alone: with another condition a database may walk the index of that one."""
    table: Any = order.id.table
    return select(table).where(order.id.in_(ids))


def everything(engine: Engine, selection: Selection, order: Order) -> Iterator[Sequence[RowMapping]]:
    """All rows in chunks, a short transaction each, so that no writer waits for a long list."""
    cursor: str | None = None
    while True:
        with read_transaction(engine) as connection:
            rows, cursor = keyed(connection, selection, order, CHUNK, cursor)
        yield rows
        if cursor is None:
            return


def bounds(connection: Connection, column: ColumnElement[Any]) -> tuple[Any, Any]:
    """Return the least and the greatest value of an indexed column; None without rows.

    Two subqueries, because SQLite takes each from the index then, and reads the table for both in one query.
    """
    least, most = (select(each(column)).scalar_subquery() for each in (func.min, func.max))
    first, last = connection.execute(select(least, most)).one()
    return first, last


def opaque(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the same condition in a form that no database looks for an index for."""
    return case((condition, 1), else_=0) == 1


def equals(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """`column = text` for columns of ids and words, which are ASCII: MySQL compares nothing else with them."""
    return column == text if text.isascii() and "\x00" not in text else false()


def within(column: ColumnElement[Any], ids: frozenset[str] | None) -> ColumnElement[bool]:
    """Whether the column of ids holds one of these; None holds all. A row without a value is in none."""
    return true() if ids is None else column.in_(sorted(ids))


def begins(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Return the condition that a column of ids begins with an ASCII text, as a range that an index serves."""
    return and_(column >= text, column < text + "\x7f")


def contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Return the condition that the column contains the text in any case; `%` and `_` mean themselves.

    The database lowers both sides, because its rules for letters beyond ASCII differ from Python's. For a text in ASCII
    it folds ASCII alone, which is several times faster.
    """
    pattern = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    if text.isascii():
        return Folded(column).like(literal(f"%{pattern.lower()}%"), escape="!")
    return Lowered(column).like(Lowered(literal(f"%{pattern}%")), escape="!")
