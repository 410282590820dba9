"""What a worker knows of purges, and which entries it may still serve."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.clock import Clock

from llm_proxy.cache import purges as module
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.purges import Purges, PurgesInMemory
from llm_proxy.cache.scopes import Scope

ENTRY = Entry(
    key="v1:p:request:vary",
    target="GET /v1/models?a=1",
    vary=(),
    status=200,
    reason="OK",
    fields=(),
    requested_at=0.0,
    received_at=0.0,
    initial_age_s=0.0,
    lifetime_s=60.0,
)


class Table(PurgesInMemory):
    """A list that can be unavailable, and is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.looks = 0

    def last(self) -> int:
        self.looks += 1
        if self.is_away:
            raise OSError("away")
        return super().last()


@pytest.fixture
def table() -> Table:
    """An empty list."""
    return Table()


@pytest.fixture
def clock() -> Clock:
    """A time of the test's own."""
    return Clock()


def test_an_entry_from_before_a_purge_of_its_own_is_not_served(table: Table, clock: Clock) -> None:
    """One that was fetched after it is; so is one that the purge does not cover."""
    worker = Purges(table, clock=clock)
    assert worker.is_known()
    table.add(Scope(prefix="/v1/models"))
    clock.now += 1
    assert worker.is_known()
    assert not worker.are_past(ENTRY)
    assert worker.are_past(replace(ENTRY, number=1))
    assert worker.are_past(replace(ENTRY, target="GET /v1/files"))


def test_what_was_stored_late_does_not_come_back(table: Table, clock: Clock) -> None:
    """Fetched before the purge, stored after it was confirmed: its number tells."""
    worker = Purges(table, clock=clock)
    worker.is_known()
    fetched = replace(ENTRY, number=worker.number)
    worker.add(Scope(is_all=True))
    assert worker.is_known()
    assert not worker.are_past(fetched)


def test_knowledge_is_half_a_second_old_at_most(table: Table, clock: Clock) -> None:
    """One look serves many requests; after that it is looked again."""
    worker = Purges(table, clock=clock)
    for _ in range(10):
        assert worker.is_known()
    assert table.looks == 1
    clock.now += module.KNOWN_FOR_S
    assert worker.is_known()
    assert table.looks == 2


def test_a_number_that_was_heard_of_is_looked_up_at_once(table: Table, clock: Clock) -> None:
    """However fresh the knowledge; a number that the database does not have is asked for once."""
    worker = Purges(table, clock=clock)
    assert worker.is_known()
    table.add(Scope(is_all=True))
    assert worker.is_known(at_least=1)
    assert worker.number == 1
    looks = table.looks
    for _ in range(5):
        assert worker.is_known(at_least=9)
    assert table.looks == looks + 1


def test_nothing_is_served_while_purges_are_not_known(table: Table, clock: Clock) -> None:
    """The database is unavailable: the list is asked twice a second, not by each request."""
    worker = Purges(table, clock=clock)
    worker.is_known()
    table.is_away = True
    clock.now += 1
    looks = table.looks
    assert [worker.is_known() for _ in range(5)] == [False] * 5
    assert table.looks == looks + 1
    table.is_away = False
    clock.now += 1
    assert worker.is_known()


def test_a_worker_that_starts_late_knows_earlier_purges(table: Table, clock: Clock) -> None:
    """Entries in Redis are older than the worker; what they were purged by is read at the first look."""
    table.add(Scope(project="p"))
    table.add(Scope(project="other"))
    worker = Purges(table, clock=clock)
    assert worker.is_known()
    assert not worker.are_past(ENTRY)
    assert worker.are_past(replace(ENTRY, number=1))


def test_beyond_what_is_remembered_nothing_is_served(
    table: Table, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry from before the oldest known purge might be covered by one that was forgotten."""
    monkeypatch.setattr(module, "REMEMBERED", 4)
    worker = Purges(table, clock=clock)
    worker.is_known()
    for number in range(9):
        table.add(Scope(key=f"v1:other:{number}:x"))
        if number % 3 == 0:
            clock.now += 1
            worker.is_known()
    clock.now += 1
    assert worker.is_known()
    assert not worker.are_past(replace(ENTRY, number=4))
    assert worker.are_past(replace(ENTRY, number=5))


def test_new_purges_are_applied_once_with_their_numbers(table: Table, clock: Clock) -> None:
    """What they cover leaves this machine's store."""
    applied: list[tuple[int, Scope]] = []

    def apply(found: Sequence[tuple[int, Scope]]) -> None:
        applied.extend(found)

    worker = Purges(table, apply, clock)
    worker.is_known()
    for name in ("a", "b"):
        table.add(Scope(project=name))
        clock.now += 1
        worker.is_known()
    assert applied == [(1, Scope(project="a")), (2, Scope(project="b"))]


def test_another_database_empties_the_store(table: Table, clock: Clock) -> None:
    """Numbers begin again, so nothing can be said of what was stored before."""
    applied: list[Scope] = []
    worker = Purges(table, lambda found: applied.extend(scope for _, scope in found), clock)
    table.add(Scope(project="x"))
    worker.is_known()
    table._scopes.clear()
    clock.now += 1
    assert worker.is_known()
    assert applied == [Scope(is_all=True)]
    assert worker.number == 0


@pytest.mark.parametrize(
    ("scope", "is_covered"),
    [
        (Scope(is_all=True), True),
        (Scope(project="p"), True),
        (Scope(project="q"), False),
        (Scope(key="v1:p:request:vary"), True),
        (Scope(key="v1:p:request:other"), False),
        (Scope.of_address("get", "https://api.openai.com/v1/models?a=1"), True),
        (Scope.of_address("HEAD", "/v1/models?a=1#part"), True),
        (Scope.of_address("GET", "/v1/models?a=1", "q"), False),
        (Scope.of_address("GET", "/v1/models"), False),
        (Scope.of_address("POST", "/v1/models?a=1"), False),
        (Scope(prefix="/v1/mod"), True),
        (Scope(prefix="/v1/mod*"), False),
        (Scope(prefix="/v1/", project="q"), False),
        (Scope(prefix="v1:p:"), True),
        (Scope(prefix="v1:%"), False),
    ],
)
def test_scopes_cover(scope: Scope, is_covered: bool) -> None:
    """Literally, by project where one is named; the column's text says the same."""
    assert scope.covers(ENTRY) is is_covered
    assert Scope.from_text(scope.to_text()) == scope


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"new":"kind"}', "null", '"x"'])
def test_a_scope_that_cannot_be_read_is_everything(text: str) -> None:
    """A later release's purge takes too much rather than too little."""
    assert Scope.from_text(text).is_all
