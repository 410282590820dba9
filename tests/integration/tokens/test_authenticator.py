"""From bearer to facts on each engine."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from llm_proxy.crypto import KeyRing, digest
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.db.types import to_column
from llm_proxy.errors import (
    InvalidToken,
    ServiceUnavailable,
    TokenExpired,
    TokenIdleExpired,
    TokenInactive,
    TokenNotFound,
)
from llm_proxy.tokens.authenticator import TokenAuthenticator
from llm_proxy.tokens.bearer import hint, new_bearer

RING = KeyRing(b"k" * 32)


class Counting(RawConnectionPool):
    """Counts reads, and can be made to fail or to wait."""

    reads = 0
    error: Exception | None = None

    def read(self, sql: str, parameters: Any) -> list[Any]:
        """As the real one."""
        self.reads += 1
        if self.error is not None:
            raise self.error
        return super().read(sql, parameters)


class Lab:
    """A directory on a fake clock, and rows to look up."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, 100.0
        self.statements = Counting(engine)
        self.directory = TokenAuthenticator(self.statements, RING, clock=lambda: self.now)
        self.insert("projects", id="p", name="p", api_key=RING.seal("sk-real", "p"))

    def insert(self, table: str, **values: Any) -> None:
        """A row."""
        name = self.engine.dialect.name
        row = {k: to_column(name, v) if isinstance(v, datetime) else v for k, v in values.items()}
        with self.engine.begin() as connection:
            names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), row)

    def token(self, **values: Any) -> str:
        """A hashed token; returns its bearer."""
        bearer = new_bearer()
        row = {"id": bearer[-12:], "token": digest(bearer), "token_hint": hint(bearer), "project_id": "p"}
        self.insert("tokens", **{**row, **values})
        return bearer

    def change(self, statement: str) -> None:
        """A change that the directory is not told of, as another process would make it."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))


@pytest.fixture
def lab(engine: Engine) -> Any:
    """A lab."""
    made = Lab(engine)
    yield made
    made.directory.close()


def test_facts_are_whole(lab: Lab) -> None:
    """One look-up gives token, project and the opened provider key."""
    expires_at = datetime.now(UTC).replace(microsecond=123456) + timedelta(hours=1)
    bearer = lab.token(expires_at=expires_at, max_requests=7, request_count=2)
    facts = lab.directory.authenticate(bearer)
    assert (facts.hint, facts.project_id, facts.expires_at) == (hint(bearer), "p", expires_at)
    assert (facts.max_requests, facts.request_count, facts.is_active) == (7, 2, True)
    assert (facts.project.api_key, facts.project.is_active, facts.project.event_privacy) == ("sk-real", True, "full")
    assert "sk-real" not in repr(facts)


@pytest.mark.parametrize("bearer", ["", "x", "sk-short", "sk-" + "a" * 23, "sk-" + "ä" * 22])
def test_what_cannot_be_a_token_asks_no_database(lab: Lab, bearer: str) -> None:
    """401 from the form alone."""
    with pytest.raises(InvalidToken) as caught:
        lab.directory.authenticate(bearer)
    assert caught.value.description == "invalid token format"
    assert lab.statements.reads == 0


def test_refusals_come_in_order(lab: Lab) -> None:
    """Unknown, revoked, expired; the instant of expiry itself is still good."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(TokenNotFound):
        lab.directory.authenticate(new_bearer())
    with pytest.raises(TokenInactive):
        lab.directory.authenticate(lab.token(is_active=False, expires_at=past))
    with pytest.raises(TokenExpired):
        lab.directory.authenticate(lab.token(expires_at=past))
    at = datetime.now(UTC) + timedelta(hours=1)
    bearer = lab.token(expires_at=at)
    lab.directory._now = lambda: at
    assert lab.directory.authenticate(bearer).expires_at == at
    lab.directory._now = lambda: at + timedelta(microseconds=1)
    with pytest.raises(TokenExpired):
        lab.directory.authenticate(bearer)


def test_a_token_dies_of_idleness(lab: Lab) -> None:
    """Unused for longer than its timeout, since its creation or its last use: 401 token_idle_expired."""
    created_at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    unused = lab.token(created_at=created_at, idle_timeout_minutes=10)
    used = lab.token(created_at=created_at, last_used_at=created_at + timedelta(minutes=5), idle_timeout_minutes=10)
    for minutes, dead in ((10, []), (10.01, [unused]), (15, [unused]), (15.01, [unused, used])):
        at = created_at + timedelta(minutes=minutes)
        lab.directory._now = lambda at=at: at  # type: ignore[misc]
        for bearer in (unused, used):
            if bearer in dead:
                with pytest.raises(TokenIdleExpired):
                    lab.directory.authenticate(bearer)
            else:
                lab.directory.authenticate(bearer)


def test_tokens_are_read_again_many_at_once(lab: Lab) -> None:
    """A refresh is one statement; requests find its facts without a query, also that a token was revoked."""
    bearers = [lab.token() for _ in range(3)]
    ids = [lab.directory.authenticate(bearer).id for bearer in bearers]
    lab.now += 0.8
    lab.change(f"UPDATE tokens SET is_active = false WHERE id = '{ids[0]}'")
    lab.statements.reads = 0
    assert set(lab.directory.refresh([*ids, "nobody"])) == set(ids)
    lab.now += 0.8
    with pytest.raises(TokenInactive):
        lab.directory.authenticate(bearers[0])
    assert lab.directory.authenticate(bearers[1]).id == ids[1]
    assert lab.statements.reads == 1


@pytest.mark.parametrize(("limit", "age_s", "is_good"), [(None, 10.0, True), (None, 11.0, False), (5, 1.0, False)])
def test_an_outage_is_outlasted_on_what_is_known(lab: Lab, limit: int | None, age_s: float, is_good: bool) -> None:
    """With DATABASE_OUTAGE_GRACE unlimited tokens go on for so long, limited ones never; down, it is not asked."""
    directory = TokenAuthenticator(lab.statements, RING, grace_s=9.5, clock=lambda: lab.now)
    bearer = lab.token(max_requests=limit)
    directory.authenticate(bearer)
    lab.now += age_s
    lab.statements.error = RuntimeError("boom")
    for is_down in (False, True):
        directory._health.is_down = is_down
        lab.statements.reads = 0
        if is_good:
            assert directory.authenticate(bearer).max_requests is None
        else:
            with pytest.raises(ServiceUnavailable):
                directory.authenticate(bearer)
        assert lab.statements.reads == (0 if is_down else 1)


def test_case_matters(lab: Lab) -> None:
    """A bearer in another case is another bearer on every engine."""
    bearer = lab.token()
    with pytest.raises(TokenNotFound):
        lab.directory.authenticate("sk-" + bearer[3:].swapcase())


def test_memory_is_shorter_than_a_second(lab: Lab) -> None:
    """Within 0.9 s there is no second read; after it a revocation is seen."""
    bearer = lab.token()
    lab.directory.authenticate(bearer)
    lab.change("UPDATE tokens SET is_active = false")
    lab.now += 0.89
    lab.directory.authenticate(bearer)
    assert lab.statements.reads == 1
    lab.now += 0.02
    with pytest.raises(TokenInactive):
        lab.directory.authenticate(bearer)


def test_refusals_are_not_remembered(lab: Lab) -> None:
    """A token that is made active again works at once."""
    bearer = lab.token(is_active=False)
    for _ in range(2):
        with pytest.raises(TokenInactive):
            lab.directory.authenticate(bearer)
    lab.change("UPDATE tokens SET is_active = true")
    assert lab.directory.authenticate(bearer).is_active


def test_changes_of_this_process_are_seen_at_once(lab: Lab) -> None:
    """`forget` and `forget_project` end what is remembered."""
    bearer = lab.token()
    facts = lab.directory.authenticate(bearer)
    lab.directory.forget(facts.id)
    lab.directory.authenticate(bearer)
    lab.directory.forget_project("p")
    lab.directory.authenticate(bearer)
    assert lab.statements.reads == 3


def test_zero_reads_each_time(lab: Lab) -> None:
    """LLM_PROXY_TOKEN_CACHE_TTL=0."""
    directory = TokenAuthenticator(lab.statements, RING, remember_s=0)
    bearer = lab.token()
    for _ in range(3):
        directory.authenticate(bearer)
    assert lab.statements.reads == 3


def test_memory_is_bounded(lab: Lab) -> None:
    """The oldest goes first."""
    directory = TokenAuthenticator(lab.statements, RING, most=2, clock=lambda: 0.0)
    bearers = [lab.token() for _ in range(3)]
    for bearer in (*bearers, bearers[2], bearers[1], bearers[0]):
        directory.authenticate(bearer)
    assert lab.statements.reads == 4
    assert len(directory._known) == len(directory._digests) == 2


def test_a_bearer_in_clear_is_hashed_by_its_first_use(lab: Lab) -> None:
    """An imported row works, is stored as a hash from then on, and goes on working."""
    bearer = new_bearer()
    lab.insert("tokens", id="imported", token=bearer, project_id="p")
    assert lab.directory.authenticate(bearer).hint == hint(bearer)
    with lab.engine.connect() as connection:
        row = connection.execute(text("SELECT token, token_hint, lease_version FROM tokens")).one()
    assert tuple(row) == (digest(bearer), hint(bearer), 1)
    lab.directory.forget("imported")
    assert lab.directory.authenticate(bearer).id == "imported"


def test_the_stored_hash_is_no_bearer(lab: Lab) -> None:
    """What is read out of the database opens nothing."""
    with pytest.raises(InvalidToken):
        lab.directory.authenticate(digest(lab.token()))


def test_a_key_that_does_not_open_is_none(lab: Lab) -> None:
    """Copied from another row, or under a foreign key: no key, and the token itself is still good."""
    lab.insert("projects", id="q", name="q", api_key=RING.seal("sk-real", "p"))
    facts = lab.directory.authenticate(lab.token(project_id="q"))
    assert facts.project.api_key is None
    assert facts.project.is_active


def test_a_database_that_fails_is_503(lab: Lab) -> None:
    """An error of the read is 503 with Retry-After, never 401, and the next call asks again."""
    bearer = lab.token()
    lab.statements.error = RuntimeError("boom")
    with pytest.raises(ServiceUnavailable) as caught:
        lab.directory.authenticate(bearer)
    assert caught.value.retry_after_s == 1
    lab.statements.error = None
    assert lab.directory.authenticate(bearer).is_active


def test_a_read_that_a_change_overtook_is_not_remembered(lab: Lab) -> None:
    """A change of this process during the read: the response is given, but not kept."""
    bearer = lab.token()
    read = lab.statements.read

    def overtaken(sql: str, parameters: Any) -> list[Any]:
        rows = read(sql, parameters)
        lab.directory.forget("whoever")
        return rows

    lab.statements.read = overtaken  # type: ignore[method-assign]
    lab.directory.authenticate(bearer)
    assert lab.directory._known == {}


def test_many_at_once_read_once(lab: Lab) -> None:
    """Calls with one token that come while its read is under way wait for it."""
    bearer = lab.token()
    gate, read = threading.Event(), lab.statements.read

    def slow(sql: str, parameters: Any) -> list[Any]:
        gate.wait(5)
        return read(sql, parameters)

    lab.statements.read = slow  # type: ignore[method-assign]
    found: list[str] = []
    callers = [threading.Thread(target=lambda: found.append(lab.directory.authenticate(bearer).id)) for _ in range(8)]
    for caller in callers:
        caller.start()
    gate.set()
    for caller in callers:
        caller.join(10)
    assert len(set(found)) == 1
    assert len(found) == 8
    assert lab.statements.reads < 8
