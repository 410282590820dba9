"""Copying, counting and tidying, on each engine."""

import contextlib
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from support.databases import Database, on_sqlite

from llm_proxy.db import maintenance
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.session import write_transaction
from llm_proxy.model.token import expired_before

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def _fill(database: Database) -> None:
    """Two projects, one of them inactive; five tokens: live, permanently, expired, revoked, unused for too long."""
    projects = [
        {
            "id": f"p{number}",
            "name": f"n{number}",
            "api_key": "k",
            "is_active": number == 1,
            "created_at": NOW,
            "updated_at": NOW,
        }
        for number in (1, 2)
    ]
    lives = [(NOW + timedelta(days=1), True), (None, True), (NOW - timedelta(days=1), True), (None, False)]
    tokens = [
        {
            "id": f"t{number}",
            "token": f"{number:064d}",
            "token_hint": "h",
            "project_id": "p1",
            "expires_at": expires_at,
            "is_active": is_active,
            "request_count": 10,
            "created_at": NOW,
        }
        for number, (expires_at, is_active) in enumerate(lives)
    ]
    idle = {"id": "idle", "token": "f" * 64, "expires_at": None, "is_active": True, "idle_timeout_minutes": 5}
    used = {"request_count": 10, "created_at": NOW - timedelta(days=9), "last_used_at": NOW - timedelta(minutes=6)}
    with write_transaction(database.engine()) as connection:
        connection.execute(insert(ProjectRow), projects)
        connection.execute(insert(TokenRow), tokens)
        connection.execute(insert(TokenRow), {"token_hint": "h", "project_id": "p1", **idle, **used})


def test_counts(ready_database: Database) -> None:
    """Each number is that of what was put in."""
    _fill(ready_database)
    found = maintenance.stats(ready_database.engine(), expired_before, lambda connection: NOW)
    assert (found.projects, found.active_projects) == (2, 1)
    assert (found.tokens, found.active_tokens, found.expired_tokens) == (5, 2, 2)
    assert (found.requests, found.audit_events) == (50, 0)
    assert found.size_bytes is not None
    assert found.size_bytes > 0


def test_maintenance_changes_no_row(ready_database: Database) -> None:
    """It runs on each engine, and what was there is there."""
    _fill(ready_database)
    maintenance.maintain(ready_database.engine())
    assert maintenance.stats(ready_database.engine(), expired_before, lambda connection: NOW).requests == 50


@on_sqlite
def test_copy_of_a_live_database(ready_database: Database, tmp_path: Path) -> None:
    """Taken while a writer has a transaction open: what is committed is in it, and others can't read it."""
    _fill(ready_database)
    path, target = Path(ready_database.engine().url.database or ""), tmp_path / "it's a copy.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE tokens SET request_count = 0")
        maintenance.backup(path, target)
        writer.execute("ROLLBACK")
    with contextlib.closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT sum(request_count) FROM tokens").fetchone() == (50,)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(DatabaseFault, match="already exists"):
        maintenance.backup(path, target)
    with pytest.raises(DatabaseFault, match="is not there"):
        maintenance.backup(tmp_path / "missing.db", tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("postgres://u:p@h:5/d?sslmode=require", "pg_dump --host=h --port=5 --username=u --format=custom --file=x d"),
        ("postgres://h/d", "pg_dump --host=h --format=custom --file=x d"),
        (
            "u:p/w@tcp(h:3307)/d?tls=true",
            "mysqldump --single-transaction --host=h --port=3307 --user=u --password --result-file=x d",
        ),
        (
            "u:p@unix(/run/m.sock)/d",
            "mysqldump --single-transaction --socket=/run/m.sock --user=u --password --result-file=x d",
        ),
    ],
)
def test_dump_commands_hold_no_password(url: str, command: str) -> None:
    """The line can be pasted; it asks for the password itself."""
    assert maintenance.dump_command(url, "x") == command
