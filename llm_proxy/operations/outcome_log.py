"""How requests ended, read from the sums: by project, token, code, hour or day; and why a token was refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, func, select

from llm_proxy.db import listing
from llm_proxy.db.models import OutcomeRow, RefusalRow
from llm_proxy.db.session import reading
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


@dataclass(frozen=True, slots=True)
class OutcomeFilter:
    """Which hours are summed; both are included.

    `within` are the projects that the caller may see, None for all.
    """

    since: datetime
    until: datetime
    project_id: str | None = None
    token_id: str | None = None
    code: str | None = None
    within: frozenset[str] | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions."""
        found: list[ColumnElement[bool]] = [_TABLE.hour >= self.since, _TABLE.hour <= self.until]
        if self.within is not None:
            found.append(listing.within(_TABLE.project_id, self.within))
        for column, value in (
            (_TABLE.project_id, self.project_id),
            (_TABLE.token_id, self.token_id),
            (_TABLE.code, self.code),
        ):
            if value is not None:
                found.append(listing.equals(column, value))
        return found


class OutcomeLog:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def sums(self, wanted: OutcomeFilter, groups: Sequence[str]) -> tuple[list[dict[str, Any]], bool]:
        """Return rows by the columns of `groups`, in their order, and whether there are more than MOST_ROWS."""
        columns = [GROUPS[name] for name in groups]
        query = select(*columns, func.coalesce(func.sum(_TABLE.requests), 0).label("requests"))
        query = query.where(*wanted.clauses()).limit(MOST_ROWS + 1)
        if columns:
            query = query.group_by(*columns).order_by(*columns)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        shown = [_shown(groups, row) for row in rows[:MOST_ROWS]]
        return shown, len(rows) > MOST_ROWS

    def refusals(self, token_id: str) -> list[dict[str, Any]]:
        """Return the last refusal of a token with each code, the newest first."""
        query = select(RefusalRow.__table__).where(listing.equals(_REFUSALS.token_id, token_id))
        with reading(self._engine) as connection:
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
