"""Migrations on each engine: up, down, up; once, whichever process comes first; never past a newer schema."""

import multiprocessing
import os

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from support.databases import Database
from support.racing import migrate_once

from llm_proxy.db import check, migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import MigrationError, SchemaBehind, SchemaTooNew, WouldLoseData
from llm_proxy.db.locks import migration_lock
from llm_proxy.db.models import Base
from llm_proxy.db.prepare import prepare

HEAD = migrate.head()
_SPAWN = multiprocessing.get_context("spawn")


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_up_down_up_leads_to_the_same_schema(database: Database) -> None:
    """Every revision goes up, down to nothing and up again, and what the models say is then what is there."""
    engine = database.engine()
    assert len(migrate.up(engine, 30)) == HEAD
    for version in range(HEAD - 1, -1, -1):
        assert migrate.down(engine, 30) == version
    assert _tables(engine) <= {"alembic_version"}
    assert len(migrate.up(engine, 30)) == HEAD
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Base.metadata) == []


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    """`up` on a current database changes nothing, and the database keeps its name."""
    engine = database.migrated()
    with engine.connect() as connection:
        before = connection.execute(text("SELECT id FROM instance")).scalars().all()
    assert migrate.up(engine, 30) == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM instance")).scalars().all() == before
    assert len(before) == 1


def test_eight_processes_migrate_once(database: Database) -> None:
    """Eight processes start at once on an empty database: one runs the migrations, seven find them done."""
    results = _SPAWN.Queue()
    racers = [_SPAWN.Process(target=migrate_once, args=(database.values, results)) for _ in range(8)]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(30)
    assert sorted(len(done) for done in found) == [0] * 7 + [HEAD], found
    with database.engine().connect() as connection:
        assert len(connection.execute(text("SELECT id FROM instance")).all()) == 1


def test_a_held_lock_is_waited_for_and_then_named(database: Database) -> None:
    """While another holder migrates, `up` waits for its bound and says what it waited for."""
    with migration_lock(database.engine(), 5), pytest.raises(MigrationError, match="migration lock"):
        migrate.up(database.engine(), 0.3)


def test_the_lock_is_free_again(database: Database) -> None:
    """Holding the lock twice in a row works: it is freed at the end of the block."""
    engine = database.engine()
    for _ in range(2):
        with migration_lock(engine, 1):
            pass


def test_a_newer_schema_is_refused(database: Database) -> None:
    """A version above the program's stops `up`, `down` and the start, with a line that says so; nothing is changed."""
    engine = database.migrated()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9001'"))
    for step in (
        lambda: migrate.up(engine, 5),
        lambda: migrate.down(engine, 5),
        lambda: prepare(engine, database.settings().storage),
    ):
        with pytest.raises(SchemaTooNew, match="9001, newer than"):
            step()
    assert migrate.status(engine).version == 9001


def test_down_keeps_data_unless_told(database: Database) -> None:
    """A step that would drop rows is refused by name, and done when it was allowed."""
    engine = database.migrated()
    while migrate.status(engine).version > 1:
        migrate.down(engine, 5)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('p', 'n', 'k')"))
    with pytest.raises(WouldLoseData, match="projects"):
        migrate.down(engine, 5)
    assert migrate.down(engine, 5, may_lose_data=True) == 0


def test_usage_gets_a_provider_and_loses_it_again(database: Database) -> None:
    """Rows from before have an empty provider; a step down adds up the rows of several providers."""
    engine = database.migrated()
    while migrate.status(engine).version > 12:
        migrate.down(engine, 5)
    row = "INSERT INTO usage_daily (day, project_id, token_id, model, requests, prompt_tokens, cost_nano_usd{}) "
    with engine.begin() as connection:
        connection.execute(text(row.format("") + "VALUES ('2026-01-02', 'p', 't', 'm', 1, 10, 5)"))
    migrate.up(engine, 30)
    with engine.begin() as connection:
        connection.execute(
            text(row.format(", provider") + "VALUES ('2026-01-02', 'p', 't', 'm', 2, 20, NULL, 'azure')")
        )
        found = connection.execute(text("SELECT provider, requests, estimated FROM usage_daily ORDER BY provider"))
        assert found.all() == [("", 1, 0), ("azure", 2, 0)]
    while migrate.status(engine).version > 12:
        migrate.down(engine, 5, may_lose_data=True)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT model, requests, prompt_tokens, cost_nano_usd FROM usage_daily"))
        assert found.all() == [("m", 3, 30, 5)]


def test_auto_migrate_off_names_the_command(database: Database) -> None:
    """AUTO_MIGRATE=false and pending migrations: the start stops, names the command, and changes nothing."""
    engine = database.engine()
    with pytest.raises(SchemaBehind, match="llm-proxy migrate up"):
        prepare(engine, database.settings({"storage.auto_migrate": False}).storage)
    assert migrate.status(engine).version == 0


def test_readiness_tells_what_is_missing(database: Database) -> None:
    """An empty database is `migrations`, a migrated one is ready."""
    engine = database.engine()
    migrate.status(engine)
    assert check.readiness(engine) == "migrations"
    migrate.up(engine, 30)
    check.forget(engine)
    assert check.readiness(engine) is None


def test_a_broken_run_can_be_repeated(database: Database) -> None:
    """A revision that was interrupted half-way (MySQL commits each statement) is finished by the next run."""
    engine = database.migrated()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE admin_sessions"))
        connection.execute(text("DELETE FROM alembic_version"))
    if database.driver != "mysql":
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
    assert len(migrate.up(engine, 30)) == HEAD
    assert "admin_sessions" in _tables(engine)


def test_status_makes_no_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Asking a SQLite file that is not there leaves it so."""
    from llm_proxy.settings import StorageSettings

    path = tmp_path_factory.mktemp("none") / "x" / "a.db"
    assert migrate.status(create_engine(StorageSettings(path=str(path)))).version == 0
    assert not path.parent.exists()


def test_the_file_is_the_owners_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A new SQLite file is 0600, also its companions, in a folder of 0700, whatever the umask."""
    from llm_proxy.settings import StorageSettings

    folder = tmp_path_factory.mktemp("modes") / "data"
    before = os.umask(0)
    try:
        engine = create_engine(StorageSettings(path=str(folder / "a.db")))
        migrate.up(engine, 5)
        with engine.connect():
            modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes
    assert folder.stat().st_mode & 0o777 == 0o700
