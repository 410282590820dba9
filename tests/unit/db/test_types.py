"""Instants in the forms of three databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.db.types import from_column, to_column

INSTANTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(9999, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
@given(at=INSTANTS, hours=st.integers(-12, 14))
def test_an_instant_survives(dialect: str, at: datetime, hours: int) -> None:
    """Whatever the zone that it is given in, the same instant comes back in UTC."""
    found = from_column(to_column(dialect, at.astimezone(timezone(timedelta(hours=hours)))))
    assert found == at
    assert found.tzinfo is UTC


@given(INSTANTS, INSTANTS)
def test_sqlites_text_sorts_as_time(a: datetime, b: datetime) -> None:
    """Fixed width: comparing the text is comparing the instants."""
    assert (to_column("sqlite", a) < to_column("sqlite", b)) is (a < b)
    assert len(to_column("sqlite", a)) == 26


def test_a_naive_time_is_refused() -> None:
    """Which instant it means cannot be told."""
    with pytest.raises(ValueError, match="aware"):
        to_column("sqlite", datetime(2026, 1, 1))
