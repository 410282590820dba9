"""Sessions end when their credential does, and by their own limits, on each database."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from support.databases import on_sqlite

from llm_proxy.access.caller import ROOT
from llm_proxy.access.key import KeyPatch, NewKey
from llm_proxy.access.roles import Role
from llm_proxy.access.sessions import Sessions, csrf_token, is_csrf_token
from llm_proxy.container import Container
from llm_proxy.db.mutation import Mutation, mutation
from llm_proxy.db.types import to_column
from llm_proxy.errors import ResourceNotFound, Unauthorized

from .conftest import TOKEN, People


def _changed(services: Container) -> AbstractContextManager[Mutation]:
    """Open the transaction of a change by the root."""
    return mutation(services.engine, actor=ROOT.actor)


def _key(services: Container, role: Role = Role.OPERATOR) -> tuple[str, str]:
    with _changed(services) as tx:
        issued = services.keys.create(tx, NewKey("person", role, None, None, True), ROOT)
    return issued.key.id, issued.secret


def _signed_in(services: Container, secret: str, *, remember: bool = False) -> str:
    origin = services.sign_in.by_secret(secret, peer="127.0.0.1", client_ip="127.0.0.1")
    return services.sessions.create(origin, remember=remember)[0]


def test_a_session_keeps_hashes_only(people: People) -> None:
    """Neither what the browser holds nor the credential is in the table."""
    services = people.app.services
    _, secret = _key(services)
    held = _signed_in(services, secret)
    with services.engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM admin_sessions")).all())
    assert held not in stored
    assert secret not in stored
    session = services.sessions.load(held, peer=None)
    assert session is not None
    assert (session.caller.actor, session.caller.role) == ("key:person", Role.OPERATOR)


@pytest.mark.parametrize("change", ["revoked", "narrowed", "rolled"])
def test_a_session_ends_with_its_key(people: People, change: str) -> None:
    """Revoked, narrowed or rolled: the next look finds no session, and the row is gone."""
    services = people.app.services
    key_id, secret = _key(services)
    held = _signed_in(services, secret)
    assert services.sessions.load(held, peer=None) is not None
    with _changed(services) as tx:
        if change == "revoked":
            services.keys.revoke(tx, key_id, ROOT)
        elif change == "narrowed":
            services.keys.update(tx, key_id, KeyPatch({"role": Role.VIEWER}), ROOT)
        else:
            services.keys.roll(tx, key_id, timedelta(0), ROOT)
    assert services.sessions.load(held, peer=None) is None
    with _changed(services) as tx:
        services.keys.create(tx, NewKey("again", Role.ADMIN, None, None, True), ROOT)
    with services.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM admin_sessions")).scalar_one() == 0


@on_sqlite
def test_a_roll_with_an_overlap_keeps_the_session_for_it(people: People) -> None:
    """The session lives on with the old secret."""
    services = people.app.services
    key_id, secret = _key(services)
    held = _signed_in(services, secret)
    with _changed(services) as tx:
        services.keys.roll(tx, key_id, timedelta(hours=1), ROOT)
    assert services.sessions.load(held, peer=None) is not None


@pytest.mark.parametrize(
    ("remember", "column", "ago", "is_over"),
    [
        (False, "last_seen_at", timedelta(hours=1, minutes=59), False),
        (False, "last_seen_at", timedelta(hours=2), True),
        (True, "last_seen_at", timedelta(days=20), False),
        (True, "expires_at", timedelta(0), True),
        (False, "expires_at", timedelta(0), True),
    ],
)
def test_sessions_have_limits(people: People, remember: bool, column: str, ago: timedelta, is_over: bool) -> None:
    """2 hours of idleness without remember-me, and an end in any case."""
    services = people.app.services
    held = _signed_in(services, TOKEN, remember=remember)
    with services.engine.begin() as connection:
        at = to_column(connection.dialect.name, datetime.now(UTC) - ago)
        connection.execute(text(f"UPDATE admin_sessions SET {column} = :at"), {"at": at})
    assert (services.sessions.load(held, peer=None) is None) is is_over


@on_sqlite
def test_lengths_are_12_hours_and_30_days(people: People) -> None:
    """By remember-me."""
    services = people.app.services
    for remember, expected in ((False, timedelta(hours=12)), (True, timedelta(days=30))):
        session = services.sessions.load(_signed_in(services, TOKEN, remember=remember), peer=None)
        assert session is not None
        assert session.expires_at - session.created_at == expected


@on_sqlite
def test_another_root_token_ends_root_sessions(people: People) -> None:
    """The fingerprint is not that of a present token; the previous one still counts while it is accepted."""
    services = people.app.services
    held = _signed_in(services, TOKEN)
    for accepted, is_live in ((["new", TOKEN], True), (["new"], False)):
        services.gate._accepted = accepted
        assert (services.sessions.load(held, peer=None) is not None) is is_live


@on_sqlite
def test_a_root_session_obeys_the_use_of_the_root_token(people: People) -> None:
    """Under `loopback` a foreign peer has no session, and under `off` there is none at all."""
    services = people.app.services
    for use, peer, is_live in (
        ("loopback", "127.0.0.1", True),
        ("loopback", "10.0.0.9", False),
        ("off", "127.0.0.1", False),
    ):
        services.gate._use = "any"
        held = _signed_in(services, TOKEN)
        services.gate._use = use
        assert (services.sessions.load(held, peer=peer) is not None) is is_live
    with pytest.raises(Unauthorized, match="MANAGEMENT_TOKEN_USE=off"):
        services.gate.of_secret(TOKEN, peer="127.0.0.1", client_ip=None)


@on_sqlite
def test_other_openid_settings_end_their_sessions(people: People) -> None:
    """A changed role map, issuer or client, or none any more."""
    people.sign_in()
    services = people.app.services
    changed = Sessions(services.engine, services.gate, services.key_directory, services.ring, oidc_fingerprint="0" * 64)
    assert changed.load(people.held() or "", peer=None) is None


@on_sqlite
def test_lists_hold_what_the_caller_may_see(people: People) -> None:
    """An unlimited admin sees all sessions, others their own; one is ended by its id."""
    services = people.app.services
    _, secret = _key(services)
    held, root = _signed_in(services, secret), _signed_in(services, TOKEN)
    person = services.sessions.load(held, peer=None)
    assert person is not None
    assert [session.caller.actor for session in services.sessions.list(person.caller)] == ["key:person"]
    both = services.sessions.list(ROOT)
    assert {session.caller.actor for session in both} == {"root", "key:person"}
    other = next(session for session in both if session.caller.actor == "root")
    with pytest.raises(ResourceNotFound), _changed(services) as tx:
        services.sessions.end_by_id(tx, other.id, person.caller)
    with _changed(services) as tx:
        assert services.sessions.end_by_id(tx, person.id, ROOT).id == person.id
    assert services.sessions.load(held, peer=None) is None
    assert services.sessions.end(root) is not None


def test_csrf_tokens_belong_to_their_session() -> None:
    """Bound to what the browser holds."""
    assert is_csrf_token(csrf_token("a"), "a")
    assert not is_csrf_token(csrf_token("a"), "b")
    assert not is_csrf_token("\u00e9", "a")
