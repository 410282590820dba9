"""Sessions of signed-in people: created at sign-in, checked at every request, ended by people, limits, or their origin.

The browser holds 256 random bits; the database holds their hash. A session ends within a second of the moment at which
the credential that began it is revoked, narrowed, rolled or replaced.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select, update

from llm_proxy.access.caller import Caller
from llm_proxy.access.directory import KeyDirectory
from llm_proxy.access.gate import Gate
from llm_proxy.access.key import projects_of, stored_projects
from llm_proxy.access.roles import Role
from llm_proxy.crypto import KeyRing, UnopenableValue, digest
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.models import AdminSessionRow
from llm_proxy.db.mutation import Mutation
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.errors import ResourceNotFound, Unauthorized

_TABLE = AdminSessionRow.__table__.c
LONGEST = timedelta(hours=12)
LONGEST_REMEMBERED = timedelta(days=30)
IDLE = timedelta(hours=2)
SEEN_EVERY = timedelta(minutes=1)  # how precise `last_seen_at` is
_IP_CHARACTERS, _AGENT_CHARACTERS = 45, 255


class Method(StrEnum):
    """How a session began."""

    TOKEN = "token"  # noqa: S105  (a word, no secret)
    KEY = "key"
    OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class Origin:
    """The credential that begins a session.

    Attributes:
        fingerprint: Hash of the root token or key that was presented, or of the OpenID settings.
        id_token: The provider's id token, to be shown to it at the sign-out.
    """

    caller: Caller
    method: Method
    fingerprint: str
    id_token: str | None = None


@dataclass(frozen=True, slots=True)
class Browser:
    """The browser that signs in.

    Attributes:
        replaces: What it held before; that session ends.
    """

    client_ip: str | None = None
    user_agent: str | None = None
    replaces: str | None = None


UNKNOWN_BROWSER = Browser()


@dataclass(frozen=True, slots=True)
class Session:
    """A live session. `id` is the hash of what the browser holds, and may be shown in lists."""

    id: str
    caller: Caller
    method: Method
    remember: bool
    client_ip: str | None
    user_agent: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    fingerprint: str


class Ended(Protocol):
    """Writes the audit record of an end into its transaction."""

    def __call__(self, connection: Connection, session: Session) -> None:
        """Raise AuditUnavailable when the session must not be ended so."""


def _unrecorded(connection: Connection, session: Session) -> None:
    """Write no record."""


class Sessions:
    """The store of sessions.

    Args:
        oidc_fingerprint: Of the present OpenID settings; None: sign-in by OpenID is off, and ends its sessions.
        ring: Seals id tokens; without a key they are not kept.
        now: The present instant, given a connection.
    """

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        keys: KeyDirectory,
        ring: KeyRing,
        *,
        oidc_fingerprint: str | None = None,
        now: Clock = database_now,
    ) -> None:
        self._engine, self._gate, self._keys, self._ring = engine, gate, keys, ring
        self._oidc_fingerprint, self._now = oidc_fingerprint, now

    def create(
        self,
        origin: Origin,
        browser: Browser = UNKNOWN_BROWSER,
        *,
        remember: bool = False,
        then: Callable[[Connection, Session], None] = _unrecorded,
    ) -> tuple[str, Session]:
        """Begin a session: what the browser must hold, shown this once, and the session.

        Args:
            remember: 30 days without a limit to idleness; not for people who sign in by OpenID.
            then: Called inside the transaction, for the audit record.
        """
        secret = secrets.token_urlsafe(32)
        remember = remember and origin.method is not Method.OIDC
        with write_transaction(self._engine) as connection:
            now = self._now(connection)
            values = _values(origin, now, digest(secret), remember=remember)
            values["id_token"] = self._sealed(origin.id_token, values["id_hash"])
            values["client_ip"] = (browser.client_ip or "")[:_IP_CHARACTERS] or None
            values["user_agent"] = (browser.user_agent or "")[:_AGENT_CHARACTERS] or None
            if browser.replaces:
                connection.execute(delete(AdminSessionRow).where(_TABLE.id_hash == digest(browser.replaces)))
            connection.execute(insert(AdminSessionRow), values)
            session = _session(values)
            then(connection, session)
        return secret, session

    def load(self, secret: str, *, peer: str | None) -> Session | None:
        """Return the session of what a browser holds, as it is now; None when there is none any more.

        Its caller has the rights of the sign-in, and never more than its credential has now. A session that is over
        is removed. Raises the database's errors, and DatabaseUnavailable.

        Args:
            peer: Address of the socket's other end, for root sessions under MANAGEMENT_TOKEN_USE=loopback.
        """
        session_id = digest(secret)
        with read_transaction(self._engine) as connection:
            row = _row(connection, session_id)
            now = self._now(connection)
        if row is None:
            return None
        session = self._live(_session(row), now, peer)
        if session is None:
            with write_transaction(self._engine) as connection:
                connection.execute(delete(AdminSessionRow).where(_TABLE.id_hash == session_id))
            return None
        if now - session.last_seen_at >= SEEN_EVERY:
            with write_transaction(self._engine) as connection:
                connection.execute(update(AdminSessionRow).where(_TABLE.id_hash == session_id).values(last_seen_at=now))
        return session

    def end(self, secret: str, then: Ended = _unrecorded) -> Session | None:
        """End the session of what a browser holds; what it was, None when there was none."""
        with write_transaction(self._engine) as connection:
            session = _end(connection, digest(secret))
            if session is not None:
                then(connection, session)
        return session

    def end_by_id(self, tx: Mutation, session_id: str, caller: Caller) -> Session:
        """End one out of a list. Raises ResourceNotFound when the caller may not see it, or it is gone."""
        is_visible = any(session.id == session_id for session in self._visible(tx.connection, caller))
        session = _end(tx.connection, session_id) if is_visible else None
        if session is None:
            raise ResourceNotFound("session not found", audit={"error_type": "session not found"})
        tx.record(project_id=None, details={"session_actor": session.caller.actor})
        return session

    def list(self, caller: Caller) -> Sequence[Session]:
        """Return live sessions, newest first: all for an unlimited admin, else those of the same actor."""
        with read_transaction(self._engine) as connection:
            return self._visible(connection, caller)

    def id_token(self, secret: str) -> str | None:
        """Return the id token that the session began with, where it was kept."""
        session_id = digest(secret)
        with read_transaction(self._engine) as connection:
            row = _row(connection, session_id)
        if row is None or row["id_token"] is None:
            return None
        try:
            return self._ring.open(row["id_token"], session_id)
        except UnopenableValue:
            return None

    def _visible(self, connection: Connection, caller: Caller) -> Sequence[Session]:
        query = select(AdminSessionRow.__table__).order_by(_TABLE.created_at.desc(), _TABLE.id_hash)
        if caller.role is not Role.ADMIN or not caller.is_unlimited:
            query = query.where(_TABLE.actor == caller.actor)
        rows = connection.execute(query).mappings().all()
        now = self._now(connection)
        return [session for session in map(_session, rows) if not is_past(session, now)]

    def _sealed(self, id_token: str | None, session_id: str) -> str | None:
        return None if id_token is None or self._ring.current_id is None else self._ring.seal(id_token, session_id)

    def _live(self, session: Session, now: datetime, peer: str | None) -> Session | None:
        """Return the session with what its credential says now, None when it is over."""
        if is_past(session, now):
            return None
        if session.method is Method.KEY:
            return self._live_key(session, now)
        if session.method is Method.OIDC:
            is_good = session.fingerprint == self._oidc_fingerprint
        else:
            is_good = self._is_root_good(session.fingerprint, peer)
        return session if is_good else None

    def _live_key(self, session: Session, now: datetime) -> Session | None:
        """Return None when the key is gone, expired, rolled past its overlap, or has less than at the sign-in."""
        key = self._keys.by_id(session.caller.key_id or "")
        if key is None or key.is_expired(now) or not key.opens_with(session.fingerprint, now):
            return None
        if not key.caller().covers(session.caller.role, session.caller.projects):
            return None
        return replace(session, caller=replace(session.caller, actor=key.actor, expires_at=key.expires_at))

    def _is_root_good(self, fingerprint: str, peer: str | None) -> bool:
        try:
            self._gate.require_root(peer)
        except Unauthorized:
            return False
        return self._gate.is_root_fingerprint(fingerprint)


def csrf_token(secret: str) -> str:
    """Return the token that the forms of a session carry: bound to what the browser holds, and no hint at it."""
    return hmac.new(secret.encode(), b"llm-proxy csrf", hashlib.sha256).hexdigest()


def is_csrf_token(presented: str, secret: str) -> bool:
    """Whether a form carries the session's token."""
    return hmac.compare_digest(presented.encode("utf-8", "replace"), csrf_token(secret).encode())


def end_of(origin: Origin, now: datetime, *, remember: bool) -> datetime:
    """Return when a session that begins now ends at the latest: never after its credential."""
    end = now + (LONGEST_REMEMBERED if remember else LONGEST)
    return end if origin.caller.expires_at is None else min(end, origin.caller.expires_at)


def is_past(session: Session, now: datetime) -> bool:
    """Whether a session has ended by its age or by idleness."""
    is_idle = not session.remember and now - session.last_seen_at >= IDLE
    return now >= session.expires_at or is_idle


def _row(connection: Connection, session_id: str) -> RowMapping | None:
    query = select(AdminSessionRow.__table__).where(pagination.equals(_TABLE.id_hash, session_id))
    return connection.execute(query).mappings().one_or_none()


def _end(connection: Connection, session_id: str) -> Session | None:
    """Remove the session; what it was, None when there was none."""
    row = _row(connection, session_id)
    if row is None:
        return None
    connection.execute(delete(AdminSessionRow).where(_TABLE.id_hash == session_id))
    return _session(row)


def _values(origin: Origin, now: datetime, session_id: str, *, remember: bool) -> dict[str, Any]:
    caller = origin.caller
    return {
        "id_hash": session_id,
        "method": origin.method.value,
        "actor": caller.actor,
        "role": caller.role.value,
        "projects": stored_projects(caller.projects),
        "key_id": caller.key_id,
        "fingerprint": origin.fingerprint,
        "remember": remember,
        "created_at": now,
        "last_seen_at": now,
        "expires_at": end_of(origin, now, remember=remember),
    }


def _session(row: Mapping[str, Any] | RowMapping) -> Session:
    key_id = row["key_id"]
    identity = f"key:{key_id}" if key_id is not None else None
    caller = Caller(row["actor"], Role(row["role"]), projects_of(row["projects"]), key_id, identity=identity)
    return Session(
        id=row["id_hash"],
        caller=caller,
        method=Method(row["method"]),
        remember=bool(row["remember"]),
        client_ip=row["client_ip"],
        user_agent=row["user_agent"],
        created_at=row["created_at"],
        last_seen_at=row["last_seen_at"],
        expires_at=row["expires_at"],
        fingerprint=row["fingerprint"],
    )
