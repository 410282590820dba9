"""A change is committed with its rows, then its follow-ups run; an exception undoes all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from llm_proxy.db.mutation import AuditEntry, mutation
from llm_proxy.errors import PreconditionFailed


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with one empty table."""
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name TEXT)"))
    yield engine
    engine.dispose()


def _names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT name FROM things")).scalars())


def test_follow_ups_see_the_committed_rows(engine: Engine) -> None:
    """A follow-up reads the row on another connection, and nothing runs before the commit."""
    seen: list[list[str]] = []
    with mutation(engine, actor="root", within=frozenset({"p"})) as tx:
        tx.after_commit(lambda: seen.append(_names(engine)))
        tx.connection.execute(text("INSERT INTO things VALUES ('a')"))
        assert seen == []
    assert seen == [["a"]]
    assert (tx.actor, tx.within) == ("root", frozenset({"p"}))


def test_an_exception_undoes_the_rows_and_runs_no_follow_up(engine: Engine) -> None:
    """The row is gone, and the workers keep what they remember."""
    seen: list[str] = []

    def fail() -> None:
        with mutation(engine) as tx:
            tx.after_commit(lambda: seen.append("ran"))
            tx.connection.execute(text("INSERT INTO things VALUES ('a')"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert (_names(engine), seen) == ([], [])


def test_entries_are_kept_in_order(engine: Engine) -> None:
    """The audit trail gets one entry for each record, in the order of the calls."""
    with mutation(engine) as tx:
        tx.record(project_id="p", details={"n": 1})
        tx.record(project_id=None, details={"n": 2})
    assert tx.entries == [AuditEntry("p", {"n": 1}), AuditEntry(None, {"n": 2})]


def test_the_precondition_judges_the_stored_object(engine: Engine) -> None:
    """What the caller has not seen is refused; without a precondition everything passes."""

    def only_seen(stored: object) -> None:
        if stored != "seen":
            raise PreconditionFailed

    with mutation(engine, precondition=only_seen) as tx:
        tx.require_match("seen")
        with pytest.raises(PreconditionFailed):
            tx.require_match("changed")
    with mutation(engine) as tx:
        tx.require_match("anything")
