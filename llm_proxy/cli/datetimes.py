"""Points in time as options: RFC 3339, a date, or how long ago."""

import re
from datetime import datetime, timedelta
from typing import Any

import click

from llm_proxy.cli.options import ParsedType
from llm_proxy.runtime.clock import parse_rfc3339, rfc3339, utc_now
from llm_proxy.settings.variable import duration_s

_FOR_THE_API = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt][\d:.]+(?:[Zz]|[+-]\d\d:\d\d))?")


class MomentOption(click.Option):
    """An option such as `2026-01-31`, `2026-01-31T12:00:00Z` or `2h` (that long ago)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": ParsedType("moment", parse_moment), "metavar": "MOMENT"}
        super().__init__(*args, **kwargs)


class ApiMomentOption(click.Option):
    """The same for the management API: dates stay dates, because an end covers the whole day that it names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": ParsedType("moment", _written), "metavar": "MOMENT"}
        super().__init__(*args, **kwargs)


def _written(value: str) -> str:
    at = parse_moment(value)
    return value if _FOR_THE_API.fullmatch(value) else rfc3339(at)


def parse_moment(value: str, now: datetime | None = None) -> datetime:
    """Return the instant in UTC; UTC is meant without an offset. Raises ValueError worded as what is accepted."""
    try:
        return parse_rfc3339(value)
    except ValueError:
        pass  # it may say how long ago
    try:
        return (now or utc_now()) - timedelta(seconds=duration_s(value))
    except (ValueError, OverflowError):
        raise ValueError("a time such as 2026-01-31T12:00:00Z, a date, or 2h for two hours ago") from None
