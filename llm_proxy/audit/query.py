"""Questions to the audit table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, or_, select

from llm_proxy.db import listing
from llm_proxy.db.listing import Order
from llm_proxy.db.models import AuditRow
from llm_proxy.db.session import reading
from llm_proxy.errors import ResourceNotFound

_TABLE = AuditRow.__table__.c
EXACT = (
    "action",
    "client_ip",
    "project_id",
    "outcome",
    "actor",
    "request_id",
    "correlation_id",
    "method",
    "path",
    "token_id",
)
_SEARCHED = (
    "request_id",
    "correlation_id",
    "client_ip",
    "action",
    "actor",
    "method",
    "path",
    "reason",
    "metadata",
)
SHOWN = (
    "project_id",
    "request_id",
    "correlation_id",
    "client_ip",
    "method",
    "path",
    "user_agent",
    "reason",
    "token_id",
    "metadata",
)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records: exact matches by column, a text somewhere, an interval with both ends included.

    `within` are the projects that the caller may see; with it, records without a project are left out. None: all.
    """

    exact: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    within: frozenset[str] | None = None

    def query(self) -> Select[Any]:
        """Return the rows, unordered."""
        query = select(AuditRow.__table__)
        for name, value in self.exact.items():
            query = query.where(listing.equals(_TABLE[name], value) if name == "outcome" else _TABLE[name] == value)
        if self.within is not None:
            query = query.where(listing.within(_TABLE.project_id, self.within))
        if self.search:
            query = query.where(or_(*(listing.contains(_TABLE[name], self.search) for name in _SEARCHED)))
        if self.since is not None:
            query = query.where(_TABLE.timestamp >= self.since)
        if self.until is not None:
            query = query.where(_TABLE.timestamp <= self.until)
        return query


def by_time(*, descending: bool = True) -> Order:
    """Newest first, or oldest first; then the id."""
    return Order("timestamp", _TABLE.timestamp, _TABLE.id, descending)


class AuditLog:
    """Reads the audit table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, wanted: AuditFilter, order: Order, page: int, size: int) -> tuple[Sequence[RowMapping], int]:
        """One page by number, and how many records there are in all."""
        with reading(self._engine) as connection:
            rows = listing.numbered(connection, wanted.query(), order, page, size)
            return rows, listing.count(connection, wanted.query())

    def after(
        self, wanted: AuditFilter, order: Order, limit: int, cursor: str | None
    ) -> tuple[Sequence[RowMapping], str | None]:
        """One page by key, and the cursor of the next. Raises listing.InvalidCursor."""
        with reading(self._engine) as connection:
            return listing.keyed(connection, wanted.query(), order, limit, cursor)

    def all(self, wanted: AuditFilter, order: Order) -> Iterator[Sequence[RowMapping]]:
        """Every record, in chunks."""
        return listing.everything(self._engine, wanted.query(), order)

    def get(self, event_id: str, within: frozenset[str] | None = None) -> RowMapping:
        """Raise ResourceNotFound for a record that is not there, or of none of the projects `within`."""
        with reading(self._engine) as connection:
            query = select(AuditRow.__table__).where(listing.equals(_TABLE.id, event_id))
            if within is not None:
                query = query.where(listing.within(_TABLE.project_id, within))
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise ResourceNotFound("audit event not found", audit={"error_type": "audit event not found"})
        return row
