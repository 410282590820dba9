"""Long spans of outcomes are read day by day."""

from datetime import UTC, datetime, timedelta

from llm_proxy.operations.outcome_log import days


def test_parts_of_a_span() -> None:
    """Hours of one UTC day each, both included, none twice."""
    since = datetime(2026, 3, 1, 22, tzinfo=UTC)
    parts = list(days(since, since + timedelta(hours=27)))
    assert [f"{first:%d %H}-{last:%H}" for first, last in parts] == ["01 22-23", "02 00-23", "03 00-01"]


def test_one_hour_is_one_part() -> None:
    """Its beginning is its end."""
    hour = datetime(2026, 3, 1, 23, tzinfo=UTC)
    assert list(days(hour, hour)) == [(hour, hour)]
