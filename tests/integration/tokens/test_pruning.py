"""Which tokens are deleted, on each engine."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select
from support.databases import Database

from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.tokens import pruning

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=90)
LONG_AGO, LATELY, LATER = BEFORE - timedelta(seconds=1), BEFORE + timedelta(seconds=1), NOW + timedelta(days=1)
TOKENS: dict[str, tuple[bool, datetime | None, datetime | None, datetime]] = {
    # id: is_active, expires_at, deactivated_at, created_at
    "live": (True, LATER, None, LONG_AGO),
    "for-ever": (True, None, None, LONG_AGO),
    "expired-lately": (True, LATELY, None, LONG_AGO),
    "expired-long-ago": (True, LONG_AGO, None, LONG_AGO),
    "revoked-lately": (False, LATER, LATELY, LONG_AGO),
    "revoked-long-ago": (False, LATER, LONG_AGO, LONG_AGO),
    "revoked-undated-old": (False, None, None, LONG_AGO),
    "revoked-undated-new": (False, None, None, LATELY),
}
IDLE = {  # id: idle_timeout_minutes, last_used_at; created long ago
    "idled-long-ago": (5, LONG_AGO - timedelta(minutes=5)),
    "idled-lately": (5, LATELY - timedelta(minutes=5)),
    "in-use": (5, NOW),
    "unused-without-timeout": (None, LONG_AGO),
}
DEAD = {"idled-long-ago", "expired-long-ago", "revoked-long-ago", "revoked-undated-old"}


def _fill(database: Database, copies: int = 1) -> None:
    project = {"id": "p1", "name": "n", "api_key": "k", "is_active": True, "created_at": NOW, "updated_at": NOW}
    rows: list[dict[str, Any]] = [
        {
            "id": f"{name}{copy or ''}",
            "token": f"{index * 1000 + copy:064d}",
            "token_hint": "h",
            "project_id": "p1",
            "is_active": is_active,
            "expires_at": expires_at,
            "deactivated_at": deactivated_at,
            "created_at": created_at,
            "idle_timeout_minutes": None,
            "last_used_at": None,
        }
        for index, (name, (is_active, expires_at, deactivated_at, created_at)) in enumerate(TOKENS.items())
        for copy in range(copies)
    ]
    for number, (name, (minutes, used_at)) in enumerate(IDLE.items()):
        idle = {"id": name, "token": f"{900_000 + number:064d}", "token_hint": "h", "project_id": "p1"}
        life: dict[str, Any] = {"is_active": True, "expires_at": None, "deactivated_at": None, "created_at": LONG_AGO}
        rows.append({**idle, **life, "idle_timeout_minutes": minutes, "last_used_at": used_at})
    with write_transaction(database.engine()) as connection:
        connection.execute(insert(ProjectRow), [project])
        connection.execute(insert(TokenRow), rows)


def _left(database: Database) -> set[str]:
    with read_transaction(database.engine()) as connection:
        return set(connection.execute(select(TokenRow.id)).scalars())


def test_only_the_long_dead_go(ready_database: Database) -> None:
    """Revoked, expired or unused for too long before the instant; live ones, and those that died lately, stay."""
    _fill(ready_database)
    assert pruning.count(ready_database.engine(), BEFORE) == 4
    assert pruning.prune(ready_database.engine(), BEFORE) == 4
    assert _left(ready_database) == (set(TOKENS) | set(IDLE)) - DEAD
    assert pruning.prune(ready_database.engine(), BEFORE) == 0


def test_many_go_in_batches(ready_database: Database) -> None:
    """1,201 dead tokens go in small transactions; a writer in between waits for one of them at most."""
    _fill(ready_database, copies=400)
    batches: list[int] = []
    assert pruning.prune(ready_database.engine(), BEFORE, progress=batches.append) == 1201
    assert sum(batches) == 1201
    assert max(batches) <= pruning.BATCH
