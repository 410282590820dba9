"""How a token's requests ended: kinds of endings, their plot by hour, and what each refusal means."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from llm_proxy import errors
from llm_proxy.runtime.clock import parse_rfc3339, utc_now

HOURS: Final = 168
_KINDS: Final = {
    "Ok": ("ok", "revalidated", "cache_hit"),
    "Over a limit": ("rate_limit_exceeded", "token_budget_exceeded", "cost_budget_exceeded", "too_many_websockets"),
    "Token invalid": ("token_expired", "token_inactive", "token_idle_expired", "token_not_found", "invalid_token"),
    "Provider failed": ("upstream_error", "connect_error", "upstream_aborted", "timeout", "circuit_open"),
}
_OTHER: Final = "Other"


def _classes(root: type[errors.LlmProxyError]) -> Iterator[type[errors.LlmProxyError]]:
    for found in root.__subclasses__():
        if not issubclass(found, errors.ManagementError):
            yield found
            yield from _classes(found)


MEANINGS: Final = {
    **{found.code: found.message for found in _classes(errors.LlmProxyError) if found.code},
    "rate_limit_exceeded": "All requests of the token are used up, or there were too many in a minute",
    "token_inactive": "The token was revoked",
    "cost_budget_exceeded": "The money of the token, or of its project's month, is spent",
    "token_budget_exceeded": "The model tokens of the token are used up",
    "project_inactive": "The project is deactivated",
}


def first_hour(now: datetime) -> datetime:
    """Return the first hour of the week that is plotted."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)


def kind_of(code: str) -> str:
    """Return the kind of an ending."""
    return next((kind for kind, codes in _KINDS.items() if code in codes), _OTHER)


def totals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the endings with their kind and number, the most frequent first."""
    numbers: dict[str, int] = {}
    for row in rows:
        numbers[row["code"]] = numbers.get(row["code"], 0) + row["requests"]
    found = [{"code": code, "kind": kind_of(code), "requests": number} for code, number in numbers.items()]
    return sorted(found, key=lambda row: -row["requests"])


def plot(rows: Sequence[Mapping[str, Any]], now: datetime | None = None) -> dict[str, Any]:
    """Return the plot of the week by hour, a line for each kind that there was."""
    first = first_hour(now or utc_now())
    lines: dict[str, list[int]] = {}
    for row in rows:
        place = (parse_rfc3339(row["hour"]) - first) // timedelta(hours=1)
        if 0 <= place < HOURS:
            lines.setdefault(kind_of(row["code"]), [0] * HOURS)[place] += row["requests"]
    series = [{"label": kind, "values": lines[kind]} for kind in (*_KINDS, _OTHER) if kind in lines]
    x = [int((first + timedelta(hours=place)).timestamp()) for place in range(HOURS)]
    return {"title": "How requests ended", "unit": "requests", "data": {"x": x, "series": series}}
