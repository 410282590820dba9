"""Sums of what was used, by any of project, token, model, provider and day."""

import base64
import binascii
import json
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, Select, and_, func, or_, select

from llm_proxy.db import pagination
from llm_proxy.db.clock import database_now
from llm_proxy.db.kept_sums import KeptSums
from llm_proxy.db.models import UsageRow
from llm_proxy.db.pagination import InvalidCursor
from llm_proxy.db.session import read_transaction
from llm_proxy.money import usd

_TABLE: Any = UsageRow.__table__.c
GROUPS: Final[dict[str, Any]] = {
    "project": _TABLE.project_id,
    "token": _TABLE.token_id,
    "model": _TABLE.model,
    "provider": _TABLE.provider,
    "day": _TABLE.day,
}
_WEEK: Final = timedelta(days=7)
_MONTH: Final = timedelta(days=31)
COUNTS: Final = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which rows are summed."""

    since: date
    until: date  # included, as `since` is
    project_id: str | None = None
    token_id: str | None = None
    model: str | None = None
    provider: str | None = None
    within: frozenset[str] | None = None  # the projects that the caller may see, None: all

    def clauses(self, *, is_by_token: bool = False) -> list[ColumnElement[bool]]:
        """For WHERE."""
        found: list[ColumnElement[bool]] = [_TABLE.day >= self.since, _TABLE.day <= self.until]
        if is_by_token:  # an index leads from token to token, so that a page reads its own tokens alone
            found = [pagination.opaque(and_(*found))]
        if self.within is not None:
            found.append(pagination.within(_TABLE.project_id, self.within))
        if self.project_id is not None:
            found.append(pagination.equals(_TABLE.project_id, self.project_id))
        if self.token_id is not None:
            found.append(pagination.equals(_TABLE.token_id, self.token_id))
        if self.model is not None:
            found.append(_TABLE.model == self.model)
        if self.provider is not None:
            found.append(_TABLE.provider == self.provider)
        return found


class UsageLog:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._sums = engine, KeptSums()

    def page(
        self, wanted: UsageFilter, groups: Sequence[str], limit: int, cursor: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """At most `limit` rows behind the cursor, and the cursor of the next, None at the end. Raises InvalidCursor."""
        place = None if cursor is None else _place(cursor, groups)
        read = self._by_month if _is_long(wanted, groups) else self._at_once
        rows = read(wanted, groups, limit + 1, place)
        shown = [_shown(row, groups) for row in rows[:limit]]
        return shown, _cursor(rows[limit - 1], groups) if len(rows) > limit else None

    def _at_once(
        self, wanted: UsageFilter, groups: Sequence[str], limit: int, place: list[Any] | None
    ) -> list[dict[str, Any]]:
        columns = [GROUPS[name] for name in groups]
        query = _query(wanted, groups)
        if place is not None:
            query = query.where(_after(columns, place))
        if columns:
            query = query.group_by(*columns).order_by(*columns)
        with read_transaction(self._engine) as connection:
            return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]

    def _by_month(
        self, wanted: UsageFilter, groups: Sequence[str], limit: int, place: list[Any] | None
    ) -> list[dict[str, Any]]:
        """Return the same, read month by month, because a year has many rows."""

        def read(part: tuple[date, date]) -> list[tuple[Any, ...]]:
            query = _query(replace(wanted, since=part[0], until=part[1]), groups)
            query = query.group_by(*(GROUPS[name] for name in groups)) if groups else query
            with read_transaction(self._engine) as connection:
                return [tuple(row) for row in connection.execute(query)]

        with read_transaction(self._engine) as connection:
            first, last = pagination.bounds(connection, _TABLE.day)
            today = database_now(connection).date()
        since = min(max(wanted.since, first or wanted.since), wanted.until)
        until = max(since, min(wanted.until, last or since))
        parts = [(part, part[1] < today) for part in months(since, until, today)]
        name = (replace(wanted, since=date.min, until=date.min), tuple(groups))
        rows = self._sums.of(name, parts, len(groups), read)
        behind = rows if place is None else [row for row in rows if list(row[: len(groups)]) > place]
        return [dict(zip([*groups, *COUNTS, "estimated", "cost"], row, strict=True)) for row in behind[:limit]]


def _is_long(wanted: UsageFilter, groups: Sequence[str]) -> bool:
    """Whether many rows are summed to few: an index leads to those of a project or a token."""
    is_indexed = wanted.project_id is not None or wanted.token_id is not None or "token" in groups
    return not is_indexed and wanted.until - wanted.since > _WEEK


def months(since: date, until: date, today: date) -> Iterator[tuple[date, date]]:
    """Yield the parts of a span, both days included, that lie in one calendar month and not around today's midnight."""
    while since <= until:
        last = min(until, since.replace(day=monthrange(since.year, since.month)[1]))
        if since < today <= last:
            last = today - timedelta(days=1)
        yield since, last
        if last >= until:
            return
        since = last + timedelta(days=1)


def names(groups: Sequence[str]) -> list[str]:
    """Return the members of a row, in their order."""
    return [name for group in groups for name in _members(group)] + [*COUNTS, "cost_usd", "estimated"]


def _members(group: str) -> tuple[str, ...]:
    """Return a group by its own name, and by that of the filter for it."""
    return (group, f"{group}_id") if group in ("project", "token") else (group,)


def _query(wanted: UsageFilter, groups: Sequence[str]) -> Select[Any]:
    summed = [func.coalesce(func.sum(_TABLE[name]), 0).label(name) for name in (*COUNTS, "estimated")]
    cost = func.sum(_TABLE.cost_nano_usd).label("cost")
    is_by_token = groups[:1] == ["token"] and wanted.until - wanted.since > _MONTH
    clauses = wanted.clauses(is_by_token=is_by_token)
    return select(*(GROUPS[name].label(name) for name in groups), *summed, cost).where(*clauses)


def _shown(row: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
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


def _cursor(row: Mapping[str, Any], groups: Sequence[str]) -> str:
    values = [row[name].isoformat() if name == "day" else row[name] for name in groups]
    text = json.dumps([list(groups), values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str, groups: Sequence[str]) -> list[Any]:
    try:
        found, values = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        if found != list(groups) or len(values) != len(groups) or not groups:
            raise InvalidCursor
        for name, value in zip(groups, values, strict=True):
            if (
                not isinstance(value, str)
                or "\x00" in value
                or (name not in ("model", "provider") and not value.isascii())
            ):
                raise InvalidCursor
        return [
            date.fromisoformat(value) if name == "day" else value for name, value in zip(groups, values, strict=True)
        ]
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidCursor from error
