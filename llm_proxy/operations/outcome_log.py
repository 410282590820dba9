"""How requests ended, read from the sums: by project, token, code, hour or day; and why a token was refused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, func, select

from llm_proxy.db import pagination
from llm_proxy.db.clock import database_now
from llm_proxy.db.kept_sums import KeptSums
from llm_proxy.db.models import OutcomeRow, RefusalRow
from llm_proxy.db.session import read_transaction
from llm_proxy.operations.hourly import HourFilter
from llm_proxy.runtime.clock import rfc3339

_TABLE: Any = OutcomeRow.__table__.c
_REFUSALS: Any = RefusalRow.__table__.c
GROUPS: Final[dict[str, Any]] = {
    "project": _TABLE.project_id,
    "token": _TABLE.token_id,
    "code": _TABLE.code,
    "hour": _TABLE.hour,
}
MOST_ROWS: Final = 10_000
LAST_REFUSALS: Final = 20
_DAY: Final = timedelta(hours=24)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SETTLED: Final = timedelta(hours=2)  # after its hour nothing is added to a row


@dataclass(frozen=True, slots=True)
class OutcomeFilter(HourFilter):
    """Which hours are summed, of which tokens and codes."""

    token_id: str | None = None
    code: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions."""
        found: list[ColumnElement[bool]] = [_TABLE.hour >= self.since, _TABLE.hour <= self.until]
        if self.within is not None:
            found.append(pagination.within(_TABLE.project_id, self.within))
        for column, value in (
            (_TABLE.project_id, self.project_id),
            (_TABLE.token_id, self.token_id),
            (_TABLE.code, self.code),
        ):
            if value is not None:
                found.append(pagination.equals(column, value))
        return found


class OutcomeLog:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._sums = engine, KeptSums()

    def sums(self, wanted: OutcomeFilter, groups: Sequence[str]) -> tuple[list[dict[str, Any]], bool]:
        """Return rows by the columns of `groups`, in their order, and whether there are more than MOST_ROWS."""
        is_indexed = wanted.project_id is not None or wanted.token_id is not None or "token" in groups
        is_long = wanted.until - wanted.since > _DAY and not is_indexed
        rows = self._by_day(wanted, groups) if is_long else self._at_once(wanted, groups)
        return [_shown(groups, row) for row in rows[:MOST_ROWS]], len(rows) > MOST_ROWS

    def _at_once(self, wanted: OutcomeFilter, groups: Sequence[str]) -> list[tuple[Any, ...]]:
        columns = [GROUPS[name] for name in groups]
        query = select(*columns, func.coalesce(func.sum(_TABLE.requests), 0).label("requests"))
        query = query.where(*wanted.clauses()).limit(MOST_ROWS + 1)
        if columns:
            query = query.group_by(*columns).order_by(*columns)
        with read_transaction(self._engine) as connection:
            return [(*row[:-1], int(row[-1])) for row in connection.execute(query)]

    def _by_day(self, wanted: OutcomeFilter, groups: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the same, read day by day, because a month has many rows."""
        with read_transaction(self._engine) as connection:
            first, last = pagination.bounds(connection, _TABLE.hour)
            now = database_now(connection)
        since = min(max(wanted.since, first or wanted.since), wanted.until)
        until = max(since, min(wanted.until, last or since))
        parts = [(part, part[1] < now - _SETTLED) for part in days(since, until)]
        name = (replace(wanted, since=_LONG_AGO, until=_LONG_AGO), tuple(groups))

        def read(part: tuple[datetime, datetime]) -> list[tuple[Any, ...]]:
            return self._at_once(replace(wanted, since=part[0], until=part[1]), groups)

        return self._sums.of(name, parts, len(groups), read)

    def refusals(self, token_id: str) -> list[dict[str, Any]]:
        """Return the last refusal of a token with each code, the newest first."""
        query = select(RefusalRow.__table__).where(pagination.equals(_REFUSALS.token_id, token_id))
        with read_transaction(self._engine) as connection:
            found = connection.execute(query.order_by(_REFUSALS.refused_at.desc(), _REFUSALS.code).limit(LAST_REFUSALS))
            rows = found.mappings().all()
        return [
            {
                "code": row["code"],
                "refused_at": rfc3339(row["refused_at"]),
                "request_id": row["request_id"],
                "refusals": int(row["refusals"]),
            }
            for row in rows
        ]


def days(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the parts of a span of hours, both included, that lie in one UTC day each."""
    while since <= until:
        last = since.replace(hour=23)
        yield since, min(last, until)
        since = last + timedelta(hours=1)


def _shown(groups: Sequence[str], row: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in zip(groups, row, strict=False):
        if name == "hour":
            shown[name] = rfc3339(value)
        elif name == "code":
            shown[name] = value
        else:
            shown[f"{name}_id"] = value or None
    return {**shown, "requests": int(row[-1])}
