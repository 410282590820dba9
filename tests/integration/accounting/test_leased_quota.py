"""Leases on each engine, one worker: units, counts and times of use (accounting A1 to A4)."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from llm_proxy.accounting.leased_quota import LeasedQuota
from llm_proxy.accounting.leases import Claim, plan
from llm_proxy.accounting.rows import DatabaseRows, Swap, Use
from llm_proxy.crypto import KeyRing, digest
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.db.types import from_column, to_column
from llm_proxy.errors import QuotaExhausted, ServiceUnavailable, TokenExpired, TokenInactive, TokenNotFound
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.tokens.authenticator import TokenAuthenticator
from llm_proxy.tokens.bearer import new_bearer


class Counting(RawConnectionPool):
    """Counts round trips."""

    trips = 0

    def read(self, sql: str, parameters: Any) -> list[Any]:
        """As the real one."""
        self.trips += 1
        return super().read(sql, parameters)

    def write(self, sql: str, parameters: Any) -> int:
        """As the real one."""
        self.trips += 1
        return super().write(sql, parameters)

    def batch(self, statements: Any) -> list[int]:
        """As the real one."""
        self.trips += 1
        return super().batch(statements)


class Worker:
    """A worker's accounting, beating when it is told to."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine, self.health = engine, DatabaseHealth()
        self.statements = Counting(engine, connect_failed=self.health.failed)
        self.directory = TokenAuthenticator(self.statements, KeyRing(None), health=self.health, now=self.health.now)
        self.rows = DatabaseRows(self.statements, self.directory.refresh)
        self.quota = LeasedQuota(self.rows, root=root, health=self.health)
        with engine.begin() as connection:
            if not connection.execute(text("SELECT 1 FROM projects")).first():
                connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('p', 'p', 'k')"))

    def token(self, **values: Any) -> TokenSnapshot:
        """The facts of a new token, as its first request finds them; judged or not."""
        id_, bearer = str(uuid.uuid4()), new_bearer()
        row = {"id": id_, "token": digest(bearer), "project_id": "p", **values}
        row = {k: to_column(self.engine.dialect.name, v) if isinstance(v, datetime) else v for k, v in row.items()}
        with self.engine.begin() as connection:
            names, marks = ", ".join(row), ", ".join(":" + name for name in row)
            connection.execute(text(f"INSERT INTO tokens ({names}) VALUES ({marks})"), row)
        return self.directory.refresh([id_])[id_]

    def change(self, token: TokenSnapshot, assignments: str) -> None:
        """An UPDATE as management makes it."""
        with self.engine.begin() as connection:
            statement = f"UPDATE tokens SET {assignments}, lease_version = lease_version + 1 WHERE id = :id"
            connection.execute(text(statement), {"id": token.id})

    def row(self, token: TokenSnapshot) -> Any:
        """The stored row."""
        with self.engine.connect() as connection:
            return connection.execute(text("SELECT * FROM tokens WHERE id = :id"), {"id": token.id}).mappings().one()

    def spend(self, token: TokenSnapshot, calls: int) -> int:
        """Units that so many calls get."""
        admitted = 0
        for _ in range(calls):
            try:
                self.quota.commit(self.quota.reserve(token))
                admitted += 1
            except QuotaExhausted:
                pass
        return admitted

    def tables_away(self, is_away: bool) -> None:
        """Make every statement about tokens fail, or work again."""
        old, new = ("tokens", "tokens_away") if is_away else ("tokens_away", "tokens")
        with self.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


@pytest.fixture
def worker(engine: Engine, tmp_path: Path) -> Iterator[Worker]:
    """A worker."""
    made = Worker(engine, tmp_path / "ledger")
    yield made
    made.quota.close()


@pytest.mark.parametrize(("limit", "wanted"), [(7, 7), (40, 40), (None, 40)], ids=["N+33", "N", "unlimited"])
def test_exactly_the_limit_is_admitted(worker: Worker, limit: int | None, wanted: int) -> None:
    """Of 40 calls the limit is admitted; at rest the row says so, and no worker holds anything."""
    token = worker.token(max_requests=limit)
    assert worker.spend(token, 40) == wanted
    worker.quota.close()
    row = worker.row(token)
    assert (row["request_count"], row["leases"]) == (wanted, None)


def test_a_beat_settles_and_moves_the_time_of_use(worker: Worker) -> None:
    """The count follows at the sync; the time is the database's, kept to the microsecond, and never goes back."""
    token = worker.token()
    later = worker.token(last_used_at=datetime.now(UTC) + timedelta(days=1))
    worker.spend(token, 5)
    worker.spend(later, 1)
    worker.quota.sync()
    assert worker.row(token)["request_count"] == 5
    used_at = from_column(worker.row(token)["last_used_at"])
    assert used_at is not None
    assert abs((used_at - worker.health.now()).total_seconds()) < 5
    assert from_column(worker.row(later)["last_used_at"]) == later.last_used_at


def test_the_databases_clock_is_right(worker: Worker) -> None:
    """Seconds since 1970 in UTC, whatever zone the server lives in."""
    token = worker.token()
    assert abs(token.database_s - datetime.now(UTC).timestamp()) < 5


def test_a_refused_call_names_its_reason(worker: Worker) -> None:
    """Gone, revoked, expired and used up are told apart, in this order, whatever the caller knew."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    for wanted, values in (
        (TokenInactive, {"max_requests": 5, "is_active": False, "expires_at": past}),
        (TokenExpired, {"max_requests": 5, "expires_at": past, "request_count": 5}),
        (QuotaExhausted, {"max_requests": 5, "request_count": 5}),
    ):
        with pytest.raises(wanted):
            worker.quota.reserve(worker.token(**values))
    gone = worker.token(max_requests=5)
    with worker.engine.begin() as connection:
        connection.execute(text("DELETE FROM tokens WHERE id = :id"), {"id": gone.id})
    with pytest.raises(TokenNotFound):
        worker.quota.reserve(gone)


def test_a_unit_comes_back_once_and_only_unsent(worker: Worker) -> None:
    """A refund gives the unit to a later call; a second one, or one after the first byte, does nothing."""
    token = worker.token(max_requests=1)
    unit = worker.quota.reserve(token)
    with pytest.raises(QuotaExhausted):
        worker.quota.reserve(token)
    worker.quota.release(unit)
    worker.quota.release(unit)
    worker.quota.sync()
    assert worker.row(token)["request_count"] == 0
    spent = worker.quota.reserve(token)
    worker.quota.commit(spent)
    worker.quota.release(spent)
    worker.quota.sync()
    assert worker.row(token)["request_count"] == 1


def test_hits_and_touches_are_written_behind(worker: Worker) -> None:
    """`cache_hit_count` and the time of use reach the row at the sync, also of tokens that hold no lease."""
    used, idle = worker.token(), worker.token()
    worker.spend(used, 1)
    for token in (used, idle):
        worker.quota.count_hit(token)
        worker.quota.count_hit(token)
    touched = worker.token()
    worker.quota.touch(touched)
    worker.quota.sync()
    worker.quota.sync()
    assert [worker.row(token)["cache_hit_count"] for token in (used, idle, touched)] == [2, 2, 0]
    assert [worker.row(token)["request_count"] for token in (used, idle, touched)] == [1, 0, 0]
    assert all(worker.row(token)["last_used_at"] is not None for token in (used, idle, touched))
    assert worker.row(idle)["lease_version"] == 1


def test_what_could_not_be_written_is_kept(worker: Worker) -> None:
    """Failed syncs lose nothing: counts, hits and times merge and are written by the next that works."""
    token, hit = worker.token(), worker.token()
    worker.spend(token, 2)
    worker.quota.count_hit(hit)
    worker.tables_away(True)
    worker.quota.sync()
    assert worker.health.is_down
    worker.quota.count_hit(hit)
    worker.tables_away(False)
    worker.quota.sync()
    assert not worker.health.is_down
    assert (worker.row(token)["request_count"], worker.row(hit)["cache_hit_count"]) == (2, 2)


def test_a_missing_database_is_503(worker: Worker) -> None:
    """A token is refused while the database does not answer as it should, and works at once when it does."""
    token = worker.token(max_requests=1)
    worker.tables_away(True)
    with pytest.raises(ServiceUnavailable) as caught:
        worker.quota.reserve(token)
    assert caught.value.retry_after_s == 1
    worker.tables_away(False)
    worker.quota.sync()
    assert worker.spend(token, 1) == 1


def test_a_hot_token_costs_next_to_no_statement(worker: Worker) -> None:
    """1,000 calls between syncs: a tenth of a statement each would be 100; idle and exhausted tokens cost none."""
    token, spent = worker.token(max_requests=100_000), worker.token(max_requests=1)
    worker.spend(spent, 1)
    before = worker.statements.trips
    for _ in range(10):
        assert worker.spend(token, 100) == 100
        worker.quota.sync()
    assert (worker.statements.trips - before) / 1000 < 0.1
    worker.quota.sync()
    with pytest.raises(QuotaExhausted):
        worker.quota.reserve(spent)
    before = worker.statements.trips
    assert worker.spend(spent, 100) == 0
    assert worker.statements.trips - before < 5
    worker.quota.close()
    before = worker.statements.trips
    worker.quota.sync()
    assert worker.statements.trips == before


def test_a_swap_of_an_older_version_changes_nothing(worker: Worker) -> None:
    """The second of two swaps from one read finds no row, on every engine."""
    token = worker.token(max_requests=10)
    swap = Swap(token.id, token.lease_version, plan(token, Claim(7, 0, waiters=1), token.database_s), None)
    assert worker.rows.swap(swap)
    assert not worker.rows.swap(swap)
    assert worker.row(token)["lease_version"] == token.lease_version + 1


def test_a_token_that_is_gone_spoils_no_batch(worker: Worker) -> None:
    """The others of its batch are written."""
    tokens = [worker.token() for _ in range(3)]
    worker.rows.add({**{token.id: Use(1) for token in tokens}, "00000000-gone": Use(1)})
    assert [worker.row(token)["cache_hit_count"] for token in tokens] == [1, 1, 1]


def test_a_change_of_limit_is_exact(worker: Worker) -> None:
    """Lowered below the count: nothing more; raised: as many more; to null: any number; and back."""
    token = worker.token(max_requests=10)
    assert worker.spend(token, 4) == 4
    for assignment, wanted in (
        ("max_requests = 2", 0),
        ("max_requests = 9", 5),
        ("max_requests = NULL", 20),
        ("max_requests = 32", 3),
    ):
        worker.change(token, assignment)
        worker.quota.sync()
        assert worker.spend(token, 20) == wanted
    worker.change(token, "is_active = false")
    worker.quota.sync()
    with pytest.raises(TokenInactive):
        worker.quota.reserve(token)
    worker.quota.sync()
    assert worker.row(token)["request_count"] == 32
