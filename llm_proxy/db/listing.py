"""Lists of a table's rows: by page number, by key, or whole (docs/adr/0242-services-list-through-one-base-class.md)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, RowMapping

from llm_proxy.db import pagination
from llm_proxy.db.kept_totals import KeptTotal
from llm_proxy.db.pagination import Order, Selection, Total
from llm_proxy.db.session import read_transaction

Item = TypeVar("Item")


class Listing(ABC, Generic[Item]):
    """A service that lists its items. `wanted` is the service's own filter."""

    _engine: Engine

    @abstractmethod
    def _listed(
        self, connection: Connection, wanted: Any, order: Order
    ) -> tuple[Selection, Callable[[RowMapping], Item]]:
        """Return the rows that fit, and how an item is made of one."""

    def _kept_total(self, wanted: Any) -> KeptTotal | None:
        """Return the place of the exact total of a filter; None: it is counted each time."""

    def page(
        self, wanted: Any, order: Order, page: int, size: int, most: int | None = None
    ) -> tuple[list[Item], Total]:
        """Return one page by number, and how many rows there are; `most` of them are counted."""
        with read_transaction(self._engine) as connection:
            selection, shown = self._listed(connection, wanted, order)
            kept = self._kept_total(wanted)
            rows, total = pagination.numbered(connection, selection, order, page, size, most, kept)
            return [shown(row) for row in rows], total

    def after(self, wanted: Any, order: Order, limit: int, cursor: str | None) -> tuple[list[Item], str | None]:
        """Return one page by key, and the cursor of the next. Raises pagination.InvalidCursor."""
        with read_transaction(self._engine) as connection:
            selection, shown = self._listed(connection, wanted, order)
            rows, following = pagination.keyed(connection, selection, order, limit, cursor)
        return [shown(row) for row in rows], following

    def all(self, wanted: Any, order: Order) -> Iterator[Sequence[Item]]:
        """Yield every item, in chunks."""
        with read_transaction(self._engine) as connection:
            selection, shown = self._listed(connection, wanted, order)
        for rows in pagination.everything(self._engine, selection, order):
            yield [shown(row) for row in rows]
