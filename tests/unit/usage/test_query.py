"""Long spans of usage are read in parts that do not overlap and leave nothing out."""

from datetime import date, timedelta

import pytest

from llm_proxy.usage.query import months

TODAY = date(2026, 3, 10)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        pytest.param("2026-01-15", "2026-02-03", ["01-15 01-31", "02-01 02-03"], id="two months"),
        pytest.param("2026-03-01", "2026-03-10", ["03-01 03-09", "03-10 03-10"], id="up to today"),
        pytest.param("2026-03-10", "2026-03-10", ["03-10 03-10"], id="today"),
        pytest.param(
            "2026-02-28", "2026-04-01", ["02-28 02-28", "03-01 03-09", "03-10 03-31", "04-01 04-01"], id="future"
        ),
        pytest.param("2026-02-02", "2026-02-01", [], id="nothing"),
    ],
)
def test_parts_of_a_span(since: str, until: str, expected: list[str]) -> None:
    """One calendar month each; today is no part of the days before it."""
    parts = list(months(date.fromisoformat(since), date.fromisoformat(until), TODAY))
    assert [f"{first:%m-%d} {last:%m-%d}" for first, last in parts] == expected


def test_a_span_ends_at_the_last_day_that_there_is() -> None:
    """No part begins after the end of the calendar."""
    parts = list(months(date.max - timedelta(days=40), date.max, TODAY))
    assert [last - first for first, last in parts] == [timedelta(days=9), timedelta(days=30)]
