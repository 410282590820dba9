"""The rule of a token's life is the same in Python and in SQL, on each database."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select
from support.databases import Database

from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.session import write_transaction
from llm_proxy.errors import TokenInactive
from llm_proxy.model.token import STATUSES, expired_before, has_status
from llm_proxy.tokens.token import Token

NOW = datetime(2026, 6, 1, 12, 0, 0, 999_999, tzinfo=UTC)

# Instants crowd around NOW and its whole minutes, so that the last good instant is met to the microsecond.
offsets = st.builds(
    lambda minutes, micros: timedelta(minutes=minutes, microseconds=micros),
    st.integers(-3, 3),
    st.integers(-2, 2) | st.integers(-1_000_000, 1_000_000),
)
instants = offsets.map(lambda offset: NOW + offset)
counts, limits = st.integers(0, 3), st.none() | st.integers(1, 3)
rows = st.fixed_dictionaries(
    {
        "is_active": st.booleans(),
        "expires_at": st.none() | instants,
        "created_at": instants,
        "last_used_at": st.none() | instants,
        "idle_timeout_minutes": st.none() | st.integers(1, 3),
        "request_count": counts,
        "max_requests": limits | st.just(0),
        "total_tokens": counts,
        "max_total_tokens": limits,
        "total_cost_nano_usd": counts,
        "max_cost_nano_usd": limits,
    }
)
IDLE = {"is_active": True, "idle_timeout_minutes": 1, "created_at": NOW - timedelta(minutes=1, microseconds=1)}
ZERO = dict.fromkeys(("request_count", "total_tokens", "total_cost_nano_usd"), 0)


def _row(number: int, values: dict[str, Any]) -> dict[str, Any]:
    row = {"id": f"t{number:03d}", "token": f"{number:064d}", "project_id": "p", "is_active": True}
    none = ("expires_at", "last_used_at", "idle_timeout_minutes", "max_requests", "max_total_tokens")
    return {**row, **dict.fromkeys((*none, "max_cost_nano_usd")), **values}


def test_python_and_sql_agree(ready_database: Database) -> None:
    """For any rows, each status selects the rows that have it, and `expired_before` those that are past their time."""
    engine = ready_database.engine()
    with write_transaction(engine) as connection:
        project = {"id": "p", "name": "p", "api_key": "k", "is_active": True, "created_at": NOW, "updated_at": NOW}
        connection.execute(insert(ProjectRow), project)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @example([{**ZERO, **IDLE}])
    @given(st.lists(rows, min_size=1, max_size=25))
    def agree(drawn: list[dict[str, Any]]) -> None:
        with write_transaction(engine) as connection:
            connection.execute(delete(TokenRow))
            connection.execute(insert(TokenRow), [_row(number, values) for number, values in enumerate(drawn)])
            found = connection.execute(select(TokenRow.__table__)).mappings().all()
            tokens = [Token.from_row(row, NOW) for row in found]
            for status in STATUSES:
                selected = set(connection.execute(select(TokenRow.id).where(has_status(status, NOW))).scalars())
                assert selected == {token.id for token in tokens if token.state == status}, status
            selected = set(connection.execute(select(TokenRow.id).where(expired_before(NOW))).scalars())
        for token in tokens:
            if token.death(NOW) is not TokenInactive:
                assert (token.id in selected) == (token.death(NOW) is not None)

    agree()
