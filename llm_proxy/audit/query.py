"""Questions to the audit table."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, and_, or_, select

from llm_proxy.db import pagination
from llm_proxy.db.kept_totals import KeptTotal, KeptTotals
from llm_proxy.db.listing import Listing
from llm_proxy.db.models import AuditRow
from llm_proxy.db.pagination import Order, Selection
from llm_proxy.db.session import read_transaction
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
_FEW = ("request_id", "correlation_id")  # of which a few records have one value; their indexes hold no order
_BY_INDEX = ("token_id", "client_ip", "project_id", "actor", "action", "method", "outcome")  # the rarest values first
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

    @property
    def key(self) -> Hashable:
        """Return what two filters of the same records share."""
        return (frozenset(self.exact.items()), self.search, self.since, self.until, self.within)

    def selection(self) -> Selection:
        """Return the rows: of the exact matches one is served by an index, the rest is judged."""
        first = next((name for name in _BY_INDEX if name in self.exact), None)
        served = [] if first is None else [self._is(first)]
        judged = [self._is(name) for name in self.exact if name not in (first, *_FEW)]
        if self.since is not None:
            served.append(_TABLE.timestamp >= self.since)
        if self.until is not None:
            served.append(_TABLE.timestamp <= self.until)
        if self.search:
            judged.append(or_(*(pagination.contains(_TABLE[name], self.search) for name in _SEARCHED)))
        narrow = [self._is(name) for name in _FEW if name in self.exact]
        if self.within is not None:
            narrow.append(pagination.within(_TABLE.project_id, self.within))
        query = select(AuditRow.__table__).where(*served)
        return Selection(query, tuple(judged), and_(*narrow) if narrow else None)

    def _is(self, name: str) -> ColumnElement[bool]:
        value = self.exact[name]
        return pagination.equals(_TABLE[name], value) if name == "outcome" else _TABLE[name] == value


def by_time(*, descending: bool = True) -> Order:
    """Newest first, or oldest first; then the id."""
    return Order("timestamp", _TABLE.timestamp, _TABLE.id, descending)


class AuditLog(Listing[RowMapping]):
    """Reads the audit table."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._totals = engine, KeptTotals()

    def _listed(
        self, connection: Connection, wanted: AuditFilter, order: Order
    ) -> tuple[Selection, Callable[[RowMapping], RowMapping]]:
        return wanted.selection(), lambda row: row

    def _kept_total(self, wanted: AuditFilter) -> KeptTotal:
        return self._totals.of(wanted.key)

    def get(self, event_id: str, within: frozenset[str] | None = None) -> RowMapping:
        """Raise ResourceNotFound for a record that is not there, or of none of the projects `within`."""
        with read_transaction(self._engine) as connection:
            query = select(AuditRow.__table__).where(pagination.equals(_TABLE.id, event_id))
            if within is not None:
                query = query.where(pagination.within(_TABLE.project_id, within))
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise ResourceNotFound("audit event not found", audit={"error_type": "audit event not found"})
        return row
