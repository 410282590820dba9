"""The rule of a token's life in Python."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_proxy.errors import AuthenticationError, TokenExpired, TokenIdleExpired, TokenInactive
from llm_proxy.model.token import TokenRecord

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, TICK = timedelta(minutes=1), timedelta(microseconds=1)


def token(**values: Any) -> TokenRecord:
    """Return a record that lives permanently, but for `values`."""
    plain: dict[str, Any] = {"expires_at": None, "max_requests": None, "request_count": 0, "created_at": NOW - MINUTE}
    return TokenRecord(**{"id": "t", "hint": "", "project_id": "p", "is_active": True, **plain, **values})


@pytest.mark.parametrize(
    ("values", "death"),
    [
        pytest.param({}, None, id="endless"),
        pytest.param({"is_active": False, "expires_at": NOW - MINUTE}, TokenInactive, id="revoked before expired"),
        pytest.param({"expires_at": NOW}, None, id="last instant"),
        pytest.param({"expires_at": NOW - TICK}, TokenExpired, id="expired"),
        pytest.param({"idle_timeout_minutes": 1}, None, id="never used, last instant"),
        pytest.param({"idle_timeout_minutes": 1, "created_at": NOW - MINUTE - TICK}, TokenIdleExpired, id="never used"),
        pytest.param({"idle_timeout_minutes": 1, "last_used_at": NOW - MINUTE}, None, id="used, last instant"),
        pytest.param({"idle_timeout_minutes": 1, "last_used_at": NOW - MINUTE - TICK}, TokenIdleExpired, id="idled"),
    ],
)
def test_death_names_the_first_reason(values: dict[str, Any], death: type[AuthenticationError] | None) -> None:
    """Revoked, then expired, then unused for too long; an instant later than the last good one."""
    record = token(**values)
    assert record.death(NOW) is death
    if death is not None:
        with pytest.raises(death):
            record.require_alive(NOW)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"is_active": False}, "revoked"),
        ({"idle_timeout_minutes": 1, "last_used_at": NOW - 2 * MINUTE}, "expired"),
        ({"max_requests": 3, "request_count": 3}, "rate_limited"),
        ({"max_total_tokens": 3, "total_tokens": 2}, "active"),
        ({"max_cost_nano_usd": 3, "total_cost_nano_usd": 4}, "rate_limited"),
    ],
)
def test_status_is_the_first_that_applies(values: dict[str, Any], status: str) -> None:
    """Revoked, expired (idle included), exhausted, else active."""
    assert token(**values).status(NOW) == status
