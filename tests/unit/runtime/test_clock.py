"""Instants have one form in texts: RFC 3339 in UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from llm_proxy.runtime.clock import at_epoch, parse_rfc3339, rfc3339, rfc3339_ms, rfc3339_us

_NOON = datetime(2026, 1, 2, 12, 0, 0, 5, UTC)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (_NOON, "2026-01-02T12:00:00.000005Z"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:00:00.000000Z"),
        (datetime(33, 1, 2, tzinfo=UTC), "0033-01-02T00:00:00.000000Z"),
    ],
    ids=["microseconds", "another zone", "an early year"],
)
def test_an_instant_is_written_in_utc(instant: datetime, text: str) -> None:
    """What is written is read back as the same instant."""
    assert rfc3339(instant) == text
    assert parse_rfc3339(text) == instant


def test_a_text_without_offset_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the zone of the machine."""
    monkeypatch.setenv("TZ", "America/New_York")
    assert parse_rfc3339("2026-01-02T12:00:00.000005") == _NOON


@pytest.mark.parametrize("text", ["", "tomorrow", "0001-01-01T00:00:00+05:00", "2026-13-01T00:00:00Z"])
def test_no_instant_is_a_value_error(text: str) -> None:
    """Also one that UTC has no year for."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_rfc3339(text)


def test_nanoseconds_are_written_as_instants() -> None:
    """The remembered second is never that of another instant."""
    assert rfc3339_us(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
    assert rfc3339_us(1_700_000_000_999_999_999) == "2023-11-14T22:13:20.999999Z"
    assert rfc3339_us(1_700_000_001_000_000_000) == "2023-11-14T22:13:21.000000Z"
    assert rfc3339_ms(1_700_000_000_000_000_000) == "2023-11-14T22:13:20.000Z"
    assert rfc3339_ms(1_700_000_000_999_999_999) == "2023-11-14T22:13:20.999Z"


def test_seconds_since_1970_are_an_instant() -> None:
    """To the microsecond."""
    assert rfc3339(at_epoch(1_700_000_000.25)) == "2023-11-14T22:13:20.250000Z"
