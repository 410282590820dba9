"""Totals for an overview: bounded counts, and sums that are kept. No query looks at every row of a large table."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, and_, func, literal, select, union_all

from llm_proxy.db import pagination
from llm_proxy.db.clock import database_now
from llm_proxy.db.models import OutcomeRow, ProjectRow, TokenRow, UsageRow
from llm_proxy.db.pagination import Total
from llm_proxy.db.session import read_transaction
from llm_proxy.money import usd

MOST: Final = 10_000  # a count beyond it is only "more"
KEPT_S: Final = 10.0
BEFORE_KEPT_S: Final = 600.0
_MOST_KNOWN: Final = 100
_AT_ONCE: Final = 20  # projects that one statement counts for
_TOKENS: Any = TokenRow.__table__.c
_PROJECTS: Any = ProjectRow.__table__.c
_DAILY: Any = UsageRow.__table__.c
_HOURLY: Any = OutcomeRow.__table__.c
_GOOD: Final = ("ok", "revalidated", "cache_hit", "client_disconnect")
Within = frozenset[str] | None


class Statistics:
    """Reads totals."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[Within, tuple[float, dict[str, Any]]] = {}
        self._before: dict[Within, tuple[tuple[date, int], list[int]]] = {}

    def totals(self, within: Within = None) -> dict[str, Any]:
        """Return counts of projects and tokens, and the sums of all time, of the UTC day and of the month.

        A count is `{"count": 10000, "is_more": true}` where there are more rows than are looked at.

        Args:
            within: Ids of the caller's projects; None: all.
        """
        with read_transaction(self._engine) as connection:
            now = database_now(connection)
            return {
                "projects": _bounded(connection, _mine(select(_PROJECTS.id), _PROJECTS.id, within)),
                "tokens": _bounded(connection, _mine(select(_TOKENS.id), _TOKENS.project_id, within)),
                "active_tokens": _bounded(connection, _unrevoked(within).where(~_is_past(now))),
                "expired_tokens": _bounded(connection, _unrevoked(within).where(_is_past(now))),
                "tokens_used_24h": _bounded(connection, _used_since(within, now - timedelta(hours=24))),
                **self._sums(connection, within, now),
            }

    def tokens_of(self, project_ids: Sequence[str]) -> dict[str, Total]:
        """Return how many tokens each of these projects has, by id, with at most 10,000 of a project counted."""
        found = dict[str, Total]()
        with read_transaction(self._engine) as connection:
            for start in range(0, len(project_ids), _AT_ONCE):
                each = (_tokens_of(project_id) for project_id in project_ids[start : start + _AT_ONCE])
                for project_id, count in connection.execute(union_all(*each)):
                    found[project_id] = Total(min(count, MOST), count > MOST)
        return found

    def _sums(self, connection: Connection, within: Within, now: datetime) -> dict[str, Any]:
        """Return the sums of day and month, at most ten seconds old: they read every row of the day."""
        known = self._known.get(within)
        if known is not None and monotonic() - known[0] < KEPT_S:
            return known[1]
        day = now.astimezone(UTC).date()
        (total, *month), spent = self._before_today(connection, within, day), _spent(connection, within, day, day)
        found = {
            "total_requests": total + spent[0],
            "today": {**_today(connection, within, now), **_shown(spent)},
            "month": _shown([before + of_today for before, of_today in zip(month, spent, strict=True)]),
        }
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[within] = (monotonic(), found)
        return found

    def _before_today(self, connection: Connection, within: Within, today: date) -> list[int]:
        """Return the charged requests of all days before this one, and the sums of the month's days before it.

        They are added up every ten minutes: usage of yesterday may be written late.
        """
        known, span = self._before.get(within), (today, int(monotonic() / BEFORE_KEPT_S))
        if known is not None and known[0] == span:
            return known[1]
        query = _mine(select(func.coalesce(func.sum(_DAILY.requests), 0)), _DAILY.project_id, within)
        total = int(connection.execute(query.where(_DAILY.day < today)).scalar_one())
        found = [total, *_spent(connection, within, today.replace(day=1), today - timedelta(days=1))]
        if len(self._before) >= _MOST_KNOWN:
            self._before.clear()
        self._before[within] = (span, found)
        return found


def _mine(query: Select[Any], column: Any, within: Within) -> Select[Any]:
    return query if within is None else query.where(pagination.within(column, within))


def _unrevoked(within: Within) -> Select[Any]:
    return _mine(select(_TOKENS.id).where(_TOKENS.is_active.is_(True)), _TOKENS.project_id, within)


def _is_past(now: datetime) -> Any:
    return and_(_TOKENS.expires_at.is_not(None), _TOKENS.expires_at < now)


def _used_since(within: Within, since: datetime) -> Select[Any]:
    return _mine(select(_TOKENS.id).where(_TOKENS.last_used_at >= since), _TOKENS.project_id, within)


def _bounded(connection: Connection, query: Select[Any]) -> dict[str, Any]:
    part = query.limit(MOST + 1).subquery()
    found = int(connection.execute(select(func.count()).select_from(part)).scalar_one())
    return {"count": min(found, MOST), "is_more": found > MOST}


def _tokens_of(project_id: str) -> Select[Any]:
    part = select(_TOKENS.id).where(_TOKENS.project_id == project_id).limit(MOST + 1).subquery()
    return select(literal(project_id), select(func.count()).select_from(part).scalar_subquery())


def _today(connection: Connection, within: Within, now: datetime) -> dict[str, Any]:
    midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    query = select(_HOURLY.code, func.sum(_HOURLY.requests)).where(_HOURLY.hour >= midnight).group_by(_HOURLY.code)
    rows = connection.execute(_mine(query, _HOURLY.project_id, within)).all()
    by_code = {str(code): int(number) for code, number in rows}
    failed = sum(number for code, number in by_code.items() if code not in _GOOD)
    return {"requests": sum(by_code.values()), "failed": failed, "by_code": by_code}


def _spent(connection: Connection, within: Within, since: date, until: date) -> list[int]:
    """Return requests, prompt tokens, completion tokens and cost of some days, both included."""
    summed = [
        func.coalesce(func.sum(column), 0)
        for column in (_DAILY.requests, _DAILY.prompt_tokens, _DAILY.completion_tokens, _DAILY.cost_nano_usd)
    ]
    query = select(*summed).where(_DAILY.day >= since, _DAILY.day <= until)
    return [int(number) for number in connection.execute(_mine(query, _DAILY.project_id, within)).one()]


def _shown(spent: Sequence[int]) -> dict[str, Any]:
    """Return what was spent as the API shows it."""
    requests, prompt, completion, cost = spent
    return {
        "charged_requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost_usd": usd(cost),
    }
