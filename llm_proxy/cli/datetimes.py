"""Points in time as options: RFC 3339, a date, or how long ago."""

import re
from datetime import datetime, timedelta
from typing import Any

import click

from llm_proxy.runtime.clock import parse_rfc3339, rfc3339, utc_now
from llm_proxy.settings.variable import duration_s

_FOR_THE_API = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt][\d:.]+(?:[Zz]|[+-]\d\d:\d\d))?")


class _Moment(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(value)
        except ValueError as exc:
            self.fail(f"expected {exc}", param, ctx)


class MomentOption(click.Option):
    """An option such as `2026-01-31`, `2026-01-31T12:00:00Z` or `2h` (that long ago)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": _Moment(), "metavar": "MOMENT"}
        super().__init__(*args, **kwargs)


class _Written(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            at = parse_moment(value)
        except ValueError as exc:
            self.fail(f"expected {exc}", param, ctx)
        return str(value) if _FOR_THE_API.fullmatch(value) else rfc3339(at)


class ApiMomentOption(click.Option):
    """The same for the management API: dates stay dates, because an end covers the whole day that it names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": _Written(), "metavar": "MOMENT"}
        super().__init__(*args, **kwargs)


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
