"""What one leader tidies up, on each database."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select, text
from support.databases import Database, on_sqlite

from llm_proxy.audit.pruning import Pruner
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.table import TableChain
from llm_proxy.audit.verify import verify_table
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db.clock import WallClockGuard
from llm_proxy.db.models import AuditRow, IdempotencyRow, LockRow, ProjectRow, TokenRow, UsageRow
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.housekeeping import BATCH, LEASE, Housekeeper

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class _Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self, connection: object = None) -> datetime:
        return self.now

    def steady(self) -> float:
        """Monotonic seconds."""
        return self.now.timestamp()


class _World:
    """A database with a project, and housekeepers that share a clock."""

    def __init__(self, database: Database) -> None:
        self.database, self.engine, self.clock = database, database.engine(), _Clock()
        self.counted: list[tuple[str, int]] = []
        with write_transaction(self.engine) as connection:
            values = {"id": "p", "name": "p", "api_key": "k", "created_at": NOW, "updated_at": NOW}
            connection.execute(insert(ProjectRow).values(is_active=True, **values))

    def keeper(self, settings: Mapping[str, Any] | None = None, guard: WallClockGuard | None = None) -> Housekeeper:
        """Return a worker's housekeeper; `settings` are values by path."""
        audit = AuditWriter(table=self.engine)
        asked = self.database.settings(settings)
        return Housekeeper(
            self.engine,
            audit,
            asked,
            counted=lambda job, rows: self.counted.append((job, rows)),
            now=self.clock,
            clock=self.clock.steady,
            guard=guard,
        )

    def token(self, name: str, **values: Any) -> None:
        """A token's row."""
        with write_transaction(self.engine) as connection:
            row = {"id": name, "token": name.ljust(64, "0"), "project_id": "p", "is_active": True, "created_at": NOW}
            connection.execute(insert(TokenRow).values({**row, **values}))

    def tokens(self) -> dict[str, tuple[bool, int]]:
        """Whether each is active, and its version."""
        with read_transaction(self.engine) as connection:
            rows = connection.execute(select(TokenRow.id, TokenRow.is_active, TokenRow.lease_version))
            return {row[0]: (bool(row[1]), row[2]) for row in rows}


def _audit_count(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(AuditRow)).scalar_one())


def test_one_of_two_leads_and_the_other_takes_over(ready_database: Database) -> None:
    """While the leader is alive no other works; after its lease, or its end, another does."""
    world = _World(ready_database)
    first, second = world.keeper(), world.keeper()
    assert (first.turn(), second.turn(), first.turn()) == (True, False, True)
    world.clock.now += LEASE + timedelta(seconds=1)
    assert (second.turn(), first.turn()) == (True, False)
    second.close()
    assert first.turn()


def test_expired_tokens_are_revoked_and_told(ready_database: Database) -> None:
    """After an interval: revoked with the next version, counted, one system.cleanup; live ones are left alone."""
    world = _World(ready_database)
    world.token("over", expires_at=NOW - timedelta(minutes=1))
    world.token("live", expires_at=NOW + timedelta(days=1))
    world.token("endless")
    keeper = world.keeper({"tokens.cleanup_interval_s": 60.0})
    keeper.turn()
    assert world.tokens()["over"] == (True, 0)
    world.clock.now += timedelta(seconds=61)
    assert keeper.turn()
    assert world.tokens() == {"over": (False, 1), "live": (True, 0), "endless": (True, 0)}
    assert world.counted == [("tokens_revoked", 1)]
    with read_transaction(world.engine) as connection:
        [row] = connection.execute(select(AuditRow.action, AuditRow.actor, AuditRow.metadata_)).all()
    assert tuple(row) == ("system.cleanup", "system", '{"revoked":1}')


def test_a_lease_from_a_clock_that_was_ahead_says_nothing(ready_database: Database) -> None:
    """A lock that is good for hours, of a server that has died, is taken at once."""
    world = _World(ready_database)
    with write_transaction(world.engine) as connection:
        connection.execute(insert(LockRow).values(name="housekeeping", holder="x", expires_at=NOW + timedelta(hours=2)))
    assert world.keeper().turn()


def test_tokens_that_idled_out_are_revoked(ready_database: Database) -> None:
    """A minute after their time, because uses are written a moment late; those in use and without a timeout stay."""
    world = _World(ready_database)
    ages = {"idle": 8, "lately": 6, "used": 1}
    for name, minutes in ages.items():
        world.token(name, idle_timeout_minutes=6, last_used_at=NOW - timedelta(minutes=minutes))
    world.token("endless")
    keeper = world.keeper({"tokens.cleanup_interval_s": 1.0})
    world.clock.now += timedelta(seconds=2)
    assert keeper.turn()
    assert {name for name, (is_active, _) in world.tokens().items() if not is_active} == {"idle"}


def test_many_are_revoked_with_pauses_and_bounded_turns(ready_database: Database) -> None:
    """After each transaction others get their turn; a turn that is over goes on where it ended."""
    world = _World(ready_database)
    rows = [
        {"id": f"t{number:04d}", "token": f"{number:064d}", "project_id": "p", "is_active": True, "created_at": NOW}
        for number in range(4 * BATCH)
    ]
    with write_transaction(world.engine) as connection:
        connection.execute(insert(TokenRow), [{**row, "expires_at": NOW} for row in rows])
    keeper = world.keeper({"tokens.cleanup_interval_s": 1.0})
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            world.clock.now += timedelta(seconds=21)  # the turn's time is over

    keeper._pause = pause
    world.clock.now += timedelta(seconds=2)
    assert keeper.turn()
    assert world.counted == [("tokens_revoked", BATCH)] * 2
    assert keeper.turn()
    assert world.counted == [("tokens_revoked", BATCH)] * 4
    assert not any(is_active for is_active, _ in world.tokens().values())
    assert min(pauses) > 0


@on_sqlite
def test_nothing_is_judged_by_a_clock_that_was_set(ready_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite: months ahead for a while, nothing is revoked, turn after turn; once the clock is back, work goes on."""
    world, jump = _World(ready_database), timedelta(days=120)
    world.token("live", expires_at=NOW + timedelta(days=30))
    world.token("over", expires_at=NOW - timedelta(days=1))
    started = world.clock.now
    steady = [0.0]
    guard = WallClockGuard(lambda: world.clock.now.timestamp(), lambda: steady[0])
    keeper = world.keeper({"tokens.cleanup_interval_s": 1.0}, guard)
    for _ in range(2):
        steady[0] += 10
        world.clock.now = started + timedelta(seconds=steady[0]) + jump
        assert keeper.turn()
        assert world.tokens() == {"live": (True, 0), "over": (True, 0)}
    assert [record.levelname for record in caplog.records if "clock was set" in record.message] == ["ERROR"]
    steady[0] += 10
    world.clock.now = started + timedelta(seconds=steady[0])
    assert keeper.turn()
    assert world.tokens() == {"live": (True, 0), "over": (False, 1)}


def test_the_old_goes_and_the_young_stays(ready_database: Database) -> None:
    """Dead tokens, audit rows and idempotency keys past their time are deleted, each counted under its job."""
    world = _World(ready_database)
    world.token("dead", is_active=False, deactivated_at=NOW - timedelta(days=31))
    world.token("revoked", is_active=False, deactivated_at=NOW - timedelta(days=29))
    audit = AuditWriter(table=world.engine)
    for days in (91, 89):
        audit.record(AuditEvent("test.act", "tester", "success", timestamp=NOW - timedelta(days=days)))
    with write_transaction(world.engine) as connection:
        for key, hours in (("old", 25), ("young", 22)):
            values = {"path": "/x", "key": key, "body_sha256": "0" * 64, "created_at": NOW - timedelta(hours=hours)}
            connection.execute(insert(IdempotencyRow).values(**values))
    keeper = world.keeper(
        {"tokens.retention_days": 30, "operation.audit_retention_days": 90, "tokens.cleanup_interval_s": 0.0}
    )
    world.clock.now += timedelta(hours=1, seconds=1)
    assert keeper.turn()
    assert list(world.tokens()) == ["revoked"]
    assert world.counted == [("tokens_deleted", 1), ("audit", 1), ("idempotency_keys", 1)]
    with read_transaction(world.engine) as connection:
        assert connection.execute(select(IdempotencyRow.key)).scalars().all() == ["young"]
    assert _audit_count(world.engine) == 3  # the young one, the anchor of its chain, and the record of this
    assert verify_table(world.engine).faults == []


def test_leases_of_the_long_silent_are_final(ready_database: Database) -> None:
    """After a day what a worker held is charged and its key is gone; a younger one stays; the version moves once."""
    world, now_s = _World(ready_database), NOW.timestamp()
    old, young = [10, 4, now_s - 90_000], [7, 7, now_s - 3600]
    world.token("t", leases=json.dumps({"1": old, "2": young}), request_count=4, max_requests=100)
    world.token("u", leases=json.dumps({"3": young}))
    keeper = world.keeper()
    world.clock.now += timedelta(minutes=6)
    assert keeper.turn()
    with read_transaction(world.engine) as connection:
        query = select(TokenRow.id, TokenRow.request_count, TokenRow.lease_version, TokenRow.leases)
        found = {row[0]: (row[1], row[2], json.loads(row[3] or "null")) for row in connection.execute(query)}
    assert found == {"t": (10, 1, {"2": young}), "u": (0, 0, {"3": young})}
    assert world.counted == [("leases", 1)]


def test_batches_end_when_all_is_done(ready_database: Database) -> None:
    """More rows than a batch holds are all deleted, those from before the chain."""
    world = _World(ready_database)
    with write_transaction(world.engine) as connection:
        rows = [AuditEvent("test.act", "t", "success", timestamp=NOW).row() for _ in range(2100)]
        connection.execute(insert(AuditRow), rows)
    seen: list[int] = []
    pruner = Pruner(world.engine, TableChain(), progress=seen.append)
    assert pruner.prune(NOW + timedelta(seconds=1)).rows == 2100
    assert seen == [1000, 1000, 100]


def test_a_database_that_is_away_raises_nothing(ready_database: Database) -> None:
    """A turn without the schema is logged and over."""
    world = _World(ready_database)
    keeper = world.keeper()
    with write_transaction(world.engine) as connection:
        connection.execute(text("DROP TABLE locks"))
    assert not keeper.turn()
    keeper.close()


def test_old_sums_of_usage_go_only_where_that_is_wanted(ready_database: Database) -> None:
    """USAGE_RETENTION_DAYS: whole days, the last of them stays; 0 keeps everything."""
    world = _World(ready_database)
    days = [NOW.date() - timedelta(days=age) for age in (0, 39, 40, 41, 400)]
    with write_transaction(world.engine) as connection:
        for day in days:
            for model in ("a", "b"):
                values = {"day": day, "project_id": "p", "token_id": "t", "model": model}
                connection.execute(insert(UsageRow).values(values))

    def kept() -> set[date]:
        with read_transaction(world.engine) as connection:
            return set(connection.execute(select(UsageRow.day)).scalars())

    for settings, wanted in (({}, set(days)), ({"tokens.usage_retention_days": 40}, set(days[:3]))):
        keeper = world.keeper(settings)
        world.clock.now += timedelta(minutes=6)
        assert keeper.turn()
        assert kept() == wanted
        keeper.close()
    assert ("usage", 4) in world.counted
