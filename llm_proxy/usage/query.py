"""Sums of what was used, by any of project, token, model and day."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, RowMapping, Select, and_, func, or_, select

from llm_proxy.amounts import usd
from llm_proxy.db import listing
from llm_proxy.db.listing import InvalidCursor
from llm_proxy.db.models import UsageRow
from llm_proxy.db.session import reading

_TABLE: Any = UsageRow.__table__.c
GROUPS: Final[dict[str, Any]] = {
    "project": _TABLE.project_id,
    "token": _TABLE.token_id,
    "model": _TABLE.model,
    "day": _TABLE.day,
}
COUNTS: Final = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which rows are summed; both days are included.

    `within` are the projects that the caller may see, None for all.
    """

    since: date
    until: date
    project_id: str | None = None
    token_id: str | None = None
    model: str | None = None
    within: frozenset[str] | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """For WHERE."""
        found: list[ColumnElement[bool]] = [_TABLE.day >= self.since, _TABLE.day <= self.until]
        if self.within is not None:
            found.append(listing.within(_TABLE.project_id, self.within))
        if self.project_id is not None:
            found.append(listing.equals(_TABLE.project_id, self.project_id))
        if self.token_id is not None:
            found.append(listing.equals(_TABLE.token_id, self.token_id))
        if self.model is not None:
            found.append(_TABLE.model == self.model)
        return found


class UsageLog:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self, wanted: UsageFilter, groups: Sequence[str], limit: int, cursor: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """At most `limit` rows behind the cursor, and the cursor of the next, None at the end. Raises InvalidCursor."""
        columns = [GROUPS[name] for name in groups]
        query = _query(wanted, groups)
        if cursor is not None:
            query = query.where(_after(columns, _place(cursor, groups)))
        if columns:
            query = query.group_by(*columns).order_by(*columns)
        with reading(self._engine) as connection:
            rows = connection.execute(query.limit(limit + 1)).mappings().all()
        shown = [_shown(row, groups) for row in rows[:limit]]
        return shown, _cursor(rows[limit - 1], groups) if len(rows) > limit else None


def names(groups: Sequence[str]) -> list[str]:
    """Return the members of a row, in their order."""
    return [name for group in groups for name in _members(group)] + [*COUNTS, "cost_usd", "estimated"]


def _members(group: str) -> tuple[str, ...]:
    """Return a group by its own name, and by that of the filter for it."""
    return (group, f"{group}_id") if group in ("project", "token") else (group,)


def _query(wanted: UsageFilter, groups: Sequence[str]) -> Select[Any]:
    summed = [func.coalesce(func.sum(_TABLE[name]), 0).label(name) for name in (*COUNTS, "estimated")]
    cost = func.sum(_TABLE.cost_nano_usd).label("cost")
    return select(*(GROUPS[name].label(name) for name in groups), *summed, cost).where(*wanted.clauses())


def _shown(row: RowMapping, groups: Sequence[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for group in groups:
        value = row[group].isoformat() if group == "day" else row[group]
        shown |= dict.fromkeys(_members(group), value)
    shown |= {name: int(row[name]) for name in COUNTS}
    is_free = row["cost"] is None and not shown["requests"]
    shown["cost_usd"] = 0 if is_free else usd(None if row["cost"] is None else int(row["cost"]))
    shown["estimated"] = int(row["estimated"])
    return shown


def _after(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Rows behind these values, in the order of the columns."""
    beyond = []
    for index, column in enumerate(columns):
        same = [earlier == value for earlier, value in zip(columns[:index], values[:index], strict=True)]
        beyond.append(and_(*same, column > values[index]))
    return or_(*beyond)


def _cursor(row: RowMapping, groups: Sequence[str]) -> str:
    values = [row[name].isoformat() if name == "day" else row[name] for name in groups]
    text = json.dumps([list(groups), values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str, groups: Sequence[str]) -> list[Any]:
    try:
        found, values = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        if found != list(groups) or len(values) != len(groups) or not groups:
            raise InvalidCursor
        for name, value in zip(groups, values, strict=True):
            if not isinstance(value, str) or "\x00" in value or (name != "model" and not value.isascii()):
                raise InvalidCursor
        return [
            date.fromisoformat(value) if name == "day" else value for name, value in zip(groups, values, strict=True)
        ]
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidCursor from error
