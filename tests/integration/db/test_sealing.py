"""Sealing, sealing again, opening and hashing stored secrets, on each engine, while others write."""

import pytest
from sqlalchemy import Engine, text
from support.databases import Database

from llm_proxy.crypto import KeyRing, digest, key_id
from llm_proxy.db import sealing
from llm_proxy.db.session import read_transaction, write_transaction

OLD, NEW = bytes([1]) * 32, bytes([2]) * 32
BEARER = "sk-0123456789abcdefghijkl"
NOW = "2026-01-01 00:00:00"


def _fill(engine: Engine, keys: dict[str, str]) -> None:
    """Projects with these stored keys; one token in clear, one hashed."""
    yes = "true" if engine.dialect.name == "postgresql" else "1"
    with write_transaction(engine) as connection:
        for row_id, stored in keys.items():
            connection.execute(
                text(
                    "INSERT INTO projects (id, name, api_key, is_active, created_at, updated_at)"
                    f" VALUES (:id, :id, :key, {yes}, :now, :now)"
                ),
                {"id": row_id, "key": stored, "now": NOW},
            )
        for row_id, stored in (("t1", BEARER), ("t2", digest("sk-another"))):
            connection.execute(
                text(
                    "INSERT INTO tokens (id, token, token_hint, project_id, is_active, created_at)"
                    f" VALUES (:id, :token, 'h', :project, {yes}, :now)"
                ),
                {"id": row_id, "token": stored, "project": next(iter(keys)), "now": NOW},
            )


def _stored(engine: Engine) -> dict[str, str]:
    with read_transaction(engine) as connection:
        return {row[0]: row[1] for row in connection.execute(text("SELECT id, api_key FROM projects"))}


def test_everything_in_clear_is_sealed_once(ready_database: Database) -> None:
    """250 keys in three batches: all open afterwards, a second run changes nothing, tokens are found by their hash."""
    engine, ring = ready_database.engine(), KeyRing(NEW)
    keys = {f"p{number:03d}": f"sk-key-{number}" for number in range(250)}
    _fill(engine, keys)
    assert (sealing.status(engine).plain_keys, sealing.status(engine).plain_tokens) == (250, 1)
    assert sealing.encrypt(engine, ring, dry_run=True).changed == 250
    assert _stored(engine) == keys
    seen: list[int] = []
    done = sealing.encrypt(engine, ring, progress=seen.append)
    assert (done.changed, done.skipped, sum(seen)) == (250, 0, 250)
    assert {row: ring.open(value, row) for row, value in _stored(engine).items()} == keys
    again = sealing.encrypt(engine, ring)
    assert (again.changed, again.skipped) == (0, 250)
    hashed = sealing.hash_tokens(engine)
    assert (hashed.changed, hashed.skipped) == (1, 1)
    with read_transaction(engine) as connection:
        row = connection.execute(text("SELECT token, lease_version FROM tokens WHERE id = 't1'")).one()
    assert tuple(row) == (digest(BEARER), 1)
    found = sealing.status(engine)
    assert found.by_key == {key_id(NEW): 250}
    assert (found.plain_keys, found.hashed_tokens, found.plain_tokens) == (0, 2, 0)


def test_rotation_goes_on_where_it_was_broken_off(ready_database: Database) -> None:
    """A run that dies in its second batch is repeated; at the end the new key alone opens everything."""
    engine = ready_database.engine()
    old, both, new = KeyRing(OLD), KeyRing(NEW, [OLD]), KeyRing(NEW)
    keys = {f"p{number:03d}": f"sk-key-{number}" for number in range(150)}
    _fill(engine, {row: old.seal(key, row) for row, key in keys.items()})

    def die(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealing.re_encrypt(engine, both, progress=die)
    assert sealing.status(engine).by_key == {key_id(OLD): 50, key_id(NEW): 100}
    assert {row: both.open(value, row) for row, value in _stored(engine).items()} == keys
    done = sealing.re_encrypt(engine, both)
    assert (done.changed, done.skipped) == (50, 100)
    assert {row: new.open(value, row) for row, value in _stored(engine).items()} == keys


def test_a_key_that_is_set_meanwhile_wins(ready_database: Database) -> None:
    """A project's key that changes between reading and writing is not overwritten with the old one."""
    engine, old, both = ready_database.engine(), KeyRing(OLD), KeyRing(NEW, [OLD])
    _fill(engine, {"p1": old.seal("sk-before", "p1")})

    class Slow(KeyRing):
        def seal(self, plain: str, row_id: str) -> str:
            if plain == "sk-before":
                with write_transaction(engine) as connection:
                    fresh = both.seal("sk-after", row_id)
                    connection.execute(text("UPDATE projects SET api_key = :key"), {"key": fresh})
            return super().seal(plain, row_id)

    sealing.re_encrypt(engine, Slow(NEW, [OLD]))
    assert both.open(_stored(engine)["p1"], "p1") == "sk-after"


def test_a_row_that_does_not_open_stops_no_other(ready_database: Database) -> None:
    """It is named and left as it is; the others are done."""
    engine, old, both = ready_database.engine(), KeyRing(OLD), KeyRing(NEW, [OLD])
    copied = old.seal("sk-x", "another-row")
    _fill(engine, {"p1": copied, "p2": old.seal("sk-2", "p2")})
    done = sealing.re_encrypt(engine, both)
    assert (done.broken, done.changed) == (["p1"], 1)
    assert _stored(engine)["p1"] == copied


def test_back_to_clear(ready_database: Database) -> None:
    """Each key is what it was."""
    engine, ring = ready_database.engine(), KeyRing(NEW)
    _fill(engine, {"p1": ring.seal("sk-1", "p1"), "p2": "sk-2"})
    done = sealing.decrypt(engine, ring)
    assert (done.changed, done.skipped) == (1, 1)
    assert _stored(engine) == {"p1": "sk-1", "p2": "sk-2"}
