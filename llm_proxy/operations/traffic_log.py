"""Traffic read from its sums: by hour or UTC day, of one project, of some, or of all."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Engine, func, select

from llm_proxy.db import pagination
from llm_proxy.db.models.traffic import BOUNDS_MS, DURATION, FIRST_BYTE, SUMMED, TRAFFIC
from llm_proxy.db.session import read_transaction
from llm_proxy.money import usd
from llm_proxy.operations.hourly import HourFilter
from llm_proxy.operations.traffic import ALL
from llm_proxy.runtime.clock import rfc3339

SHOWN: Final = (
    "requests", "errors", "refused", "cache_hits", "cache_misses", "first_byte_p50_ms", "first_byte_p95_ms",
    "duration_p50_ms", "duration_p95_ms", "prompt_tokens", "completion_tokens", "cost_usd",
)  # fmt: skip


class TrafficLog:
    """Reads the sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def by_hour(self, wanted: HourFilter) -> list[dict[str, Any]]:
        """Return a row an hour that has traffic, the oldest first."""
        return [{"hour": rfc3339(hour), **shown(sums)} for hour, sums in self._hours(wanted)]

    def by_day(self, wanted: HourFilter) -> list[dict[str, Any]]:
        """Return a row a UTC day that has traffic, the oldest first."""
        rows = []
        for day, hours in groupby(self._hours(wanted), key=lambda row: row[0].date()):
            parts = [sums for _, sums in hours]
            added = {name: sum(part[name] for part in parts) for name in SUMMED}
            rows.append({"day": day.isoformat(), **shown(added)})
        return rows

    def _hours(self, wanted: HourFilter) -> list[tuple[datetime, dict[str, int]]]:
        query = select(TRAFFIC.c.hour, *(func.sum(TRAFFIC.c[name]) for name in SUMMED))
        query = query.where(TRAFFIC.c.hour >= wanted.since, TRAFFIC.c.hour <= wanted.until)
        if wanted.project_id is not None:
            query = query.where(pagination.equals(TRAFFIC.c.project_id, wanted.project_id))
        elif wanted.within is None:
            query = query.where(TRAFFIC.c.project_id == ALL)
        if wanted.within is not None:
            query = query.where(pagination.within(TRAFFIC.c.project_id, wanted.within))
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query.group_by(TRAFFIC.c.hour).order_by(TRAFFIC.c.hour)).all()
        return [(row[0], dict(zip(SUMMED, map(int, row[1:]), strict=True))) for row in rows]


def shown(sums: Mapping[str, int]) -> dict[str, Any]:
    """Return sums as the API shows them."""
    first_byte, duration = [sums[name] for name in FIRST_BYTE], [sums[name] for name in DURATION]
    return {
        "requests": sums["requests"],
        "errors": sums["errors"],
        "refused": sums["refused"],
        "cache_hits": sums["cache_hits"],
        "cache_misses": sums["cache_misses"],
        "first_byte_p50_ms": quantile(first_byte, 0.5),
        "first_byte_p95_ms": quantile(first_byte, 0.95),
        "duration_p50_ms": quantile(duration, 0.5),
        "duration_p95_ms": quantile(duration, 0.95),
        "prompt_tokens": sums["prompt_tokens"],
        "completion_tokens": sums["completion_tokens"],
        "cost_usd": usd(sums["cost_nano_usd"]),
    }


def quantile(numbers: Sequence[int], share: float) -> int | None:
    """Return the latency that a share of responses stayed below, in ms, by a straight line within its class.

    None without responses; the last bound where the class has none.
    """
    total = sum(numbers)
    if total == 0:
        return None
    wanted, passed = total * share, 0
    bounds = (0, *BOUNDS_MS)
    for place, number in enumerate(numbers[:-1]):
        if passed + number >= wanted:
            low, high = bounds[place], bounds[place + 1]
            return round(low + (high - low) * (wanted - passed) / number)
        passed += number
    return BOUNDS_MS[-1]
