"""Plots of traffic over time: how a span is chosen, and the series that the page's script draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from flask import request

from llm_proxy.runtime.clock import parse_rfc3339, rfc3339, utc_now
from llm_proxy.web.admin import frame

OPERATION: Final = ("GET", "/manage/traffic")
COLUMNS: Final = (
    "requests", "errors", "refused", "cache_hits", "cache_misses", "first_byte_p50_ms", "first_byte_p95_ms",
    "duration_p50_ms", "duration_p95_ms", "prompt_tokens", "completion_tokens", "cost_usd",
)  # fmt: skip
_ABSENT: Final = dict.fromkeys(COLUMNS, 0) | {name: None for name in COLUMNS if name.endswith("_ms")}


@dataclass(frozen=True, slots=True)
class Span:
    """A choice of the address: how long, in steps of an hour or of a UTC day."""

    name: str
    label: str
    is_daily: bool
    steps: int


SPANS: Final = (
    Span("24h", "24 hours", False, 24),
    Span("7d", "7 days", False, 168),
    Span("30d", "30 days", True, 30),
)


def span() -> Span:
    """Return the span of the address; a day where it has none."""
    wanted = request.args.get("span")
    return next((each for each in SPANS if each.name == wanted), SPANS[0])


def rows(chosen: Span, project_id: str | None = None, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return a row a step of the span, the oldest first; steps without traffic are zeros."""
    unit = "day" if chosen.is_daily else "hour"
    at = steps(chosen, now or utc_now())
    query = {"group_by": unit, "from": rfc3339(at[0]), "project_id": project_id}
    found = {_instant(row[unit]): row for row in frame.api(*OPERATION, query=query).data["data"]}
    return [{**_ABSENT, **found.get(each, {}), "at": each} for each in at]


def steps(chosen: Span, now: datetime) -> list[datetime]:
    """Return the beginnings of the hours or days of a span, the oldest first; the present one is the last."""
    if chosen.is_daily:
        last, step = datetime.combine(now.astimezone(UTC).date(), time(), UTC), timedelta(days=1)
    else:
        last, step = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0), timedelta(hours=1)
    return [last - step * back for back in range(chosen.steps - 1, -1, -1)]


def _instant(text: str) -> datetime:
    is_day = len(text) == len("2026-01-31")
    return datetime.combine(date.fromisoformat(text), time(), UTC) if is_day else parse_rfc3339(text)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a span comes to: sums, the share of errors and of cache hits in percent (None without any)."""
    total = {name: sum(row[name] or 0 for row in found) for name in COLUMNS if not name.endswith("_ms")}
    asked = total["cache_hits"] + total["cache_misses"]
    slowest = [row["duration_p95_ms"] for row in found if row["duration_p95_ms"] is not None]
    return {
        **total,
        "error_percent": 100 * total["errors"] / total["requests"] if total["requests"] else None,
        "hit_percent": 100 * total["cache_hits"] / asked if asked else None,
        "asked": asked,
        "duration_p95_ms": max(slowest, default=None),
    }


def plots(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the plots of a span: title, unit, and what the script draws."""
    x = [int(row["at"].timestamp()) for row in found]

    def plot(title: str, unit: str, **series: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
        lines = [
            {"label": name.replace("_", " "), "values": [value(row) for row in found]} for name, value in series.items()
        ]
        return {"title": title, "unit": unit, "data": {"x": x, "series": lines}}

    return [
        plot("Requests", "requests", All=lambda row: row["requests"], From_the_cache=lambda row: row["cache_hits"]),
        plot(
            "Errors",
            "requests",
            Failed=lambda row: row["errors"] - row["refused"],
            Refused=lambda row: row["refused"],
        ),
        plot(
            "Latency",
            "ms",
            Median=lambda row: row["duration_p50_ms"],
            p95=lambda row: row["duration_p95_ms"],
            First_byte_p95=lambda row: row["first_byte_p95_ms"],
        ),
        plot("Cache hit rate", "%", Hits=hit_percent),
        plot("Spend", "USD", Cost=lambda row: row["cost_usd"]),
        plot(
            "Model tokens",
            "tokens",
            Prompt=lambda row: row["prompt_tokens"],
            Completion=lambda row: row["completion_tokens"],
        ),
    ]


def hit_percent(row: Mapping[str, Any]) -> float | None:
    """Return the share of look-ups that the cache served; None without one."""
    asked = row["cache_hits"] + row["cache_misses"]
    return round(100 * row["cache_hits"] / asked, 1) if asked else None
