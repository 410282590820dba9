"""Create, list, change, roll and revoke management keys: each mutation one transaction."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    and_,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from llm_proxy.access.caller import Caller, Projects, refused
from llm_proxy.access.key import Key, KeyPatch, NewKey, bad, stored_projects
from llm_proxy.access.roles import Role
from llm_proxy.access.secret import new_secret, stored
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.listing import Listing
from llm_proxy.db.models import ManagementKeyRow, ProjectRow
from llm_proxy.db.mutation import Mutation
from llm_proxy.db.pagination import Order, Selection
from llm_proxy.db.session import read_transaction
from llm_proxy.errors import BadRequest, Conflict, ResourceNotFound
from llm_proxy.runtime.clock import rfc3339

_TABLE = ManagementKeyRow.__table__.c
_PROJECT = ProjectRow.__table__.c
SORTS = ("name", "created_at", "expires_at", "last_used_at")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key and its secret, which is stored nowhere."""

    key: Key
    secret: str

    def __repr__(self) -> str:  # the secret belongs to the response alone
        return f"IssuedKey(key={self.key.id})"


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Keys that a caller may see: none that is stronger than itself."""

    caller: Caller
    search: str | None = None

    def selection(self) -> Selection:
        """Return the rows."""
        judged = _visible(self.caller)
        if self.search:
            judged.append(pagination.contains(_TABLE.name, self.search))
        return Selection(select(ManagementKeyRow.__table__), tuple(judged))


def _visible(caller: Caller) -> list[ColumnElement[bool]]:
    clauses: list[ColumnElement[bool]] = [_TABLE.role.in_([role.value for role in caller.role.included])]
    if caller.projects is not None:  # no project outside its own may be named in the column
        foreign = and_(_PROJECT.id.not_in(sorted(caller.projects)), _names(_PROJECT.id))
        clauses += [_TABLE.projects.is_not(None), ~exists().where(foreign)]
    return clauses


def _names(project_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the column of a key's projects, a JSON list, holds the id."""
    return _TABLE.projects.like(literal('%"') + project_id + literal('"%'))


def order_of(sort: str, *, descending: bool) -> Order:
    """Return the order by one of `SORTS`."""
    return Order(sort, _TABLE[sort], _TABLE.id, descending)


BY_NAME = order_of("name", descending=False)


class KeyService(Listing[Key]):
    """The rules of management keys over the database.

    Args:
        changed: Called after each change, so that this process reads keys again at once.
        now: The present instant, given a connection.
    """

    def __init__(
        self, engine: Engine, *, changed: Callable[[], None] = lambda: None, now: Clock = database_now
    ) -> None:
        self._engine, self._changed, self._now = engine, changed, now

    def now(self) -> datetime:
        """Return the present instant, by which ends are judged."""
        with read_transaction(self._engine) as connection:
            return self._now(connection)

    def create(self, tx: Mutation, new: NewKey, caller: Caller) -> IssuedKey:
        """Store a new key; its secret is in the result and nowhere else.

        Raises:
            BadRequest: A project does not exist, or the caller may not see it.
            Forbidden: It would be stronger than the caller.
            Conflict: The name is taken.
        """
        secret = new_secret()
        values: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "name": new.name,
            "secret_hash": stored(secret),
            "role": new.role.value,
            "projects": stored_projects(new.projects),
            "expires_at": self.granted(new, caller),
            "created_at": self._now(tx.connection),
            "created_by": tx.actor,
        }
        _require_projects(tx.connection, new.projects)
        try:
            tx.connection.execute(insert(ManagementKeyRow), values)
        except IntegrityError as error:
            raise _taken() from error
        key = _read(tx.connection, str(values["id"]), caller)
        tx.record(project_id=None, details=_about(key))
        return IssuedKey(key, secret)

    def granted(self, new: NewKey, caller: Caller) -> datetime | None:
        """Return the end of a new key, that of the caller where none is named. Raises BadRequest, Forbidden."""
        expires_at = new.expires_at if new.says_expiry else caller.expires_at
        _require_grant(caller, new.role, new.projects, expires_at)
        return expires_at

    def get(self, key_id: str, caller: Caller) -> Key:
        """Raise ResourceNotFound for a key that is not there or stronger than the caller."""
        with read_transaction(self._engine) as connection:
            return _read(connection, key_id, caller)

    def _listed(
        self, connection: Connection, wanted: KeyFilter, order: Order
    ) -> tuple[Selection, Callable[[RowMapping], Key]]:
        return wanted.selection(), Key.from_row

    def update(self, tx: Mutation, key_id: str, patch: KeyPatch, caller: Caller) -> Key:
        """Write what the patch names; what results must be within the caller's rights.

        Raises:
            ResourceNotFound: No such key, or it is stronger than the caller.
            PreconditionFailed: It is not what the caller has seen.
            BadRequest, Forbidden, Conflict: As `create`.
        """
        key = _read_to_change(tx, key_id, caller)
        values = dict(patch.values)
        _require_patch(caller, key, values)
        if "projects" in values:
            _require_projects(tx.connection, values["projects"])
            values["projects"] = stored_projects(values["projects"])
        try:
            tx.connection.execute(update(ManagementKeyRow).where(_TABLE.id == key_id).values(values))
        except IntegrityError as error:
            raise _taken() from error
        updated = _read(tx.connection, key_id)
        tx.record(project_id=None, details={**_about(updated), "updated_fields": sorted(values)})
        tx.after_commit(self._changed)
        return updated

    def roll(self, tx: Mutation, key_id: str, overlap: timedelta, caller: Caller) -> IssuedKey:
        """Replace the secret; the old one lives on for `overlap`. A secret from an earlier overlap ends at once.

        Raises:
            ResourceNotFound: As `update`.
            Conflict: The key has expired.
        """
        secret = new_secret()
        now = self._now(tx.connection)
        key = _read_to_change(tx, key_id, caller)
        if key.is_expired(now):
            raise Conflict("management key has expired", code="key_expired", audit={"error_type": "key_expired"})
        if key.id != caller.key_id:  # the new secret is in the caller's hands
            _require_grant(caller, key.role, key.projects, key.expires_at)
        values: dict[str, Any] = {"secret_hash": stored(secret), "previous_hash": None, "previous_until": None}
        if overlap:
            values |= {"previous_hash": key.secret_hash, "previous_until": now + overlap}
        tx.connection.execute(update(ManagementKeyRow).where(_TABLE.id == key_id).values(values))
        rolled = _read(tx.connection, key_id)
        minutes = int(overlap.total_seconds() // 60)
        tx.record(project_id=None, details={**_about(rolled), "overlap_minutes": minutes})
        tx.after_commit(self._changed)
        return IssuedKey(rolled, secret)

    def revoke(self, tx: Mutation, key_id: str, caller: Caller) -> None:
        """Remove the key; its name is free again. Raises ResourceNotFound and PreconditionFailed as `update`."""
        key = _read_to_change(tx, key_id, caller)
        tx.connection.execute(delete(ManagementKeyRow).where(_TABLE.id == key_id))
        tx.record(project_id=None, details=_about(key))
        tx.after_commit(self._changed)


def has_unrestricted_admin(engine: Engine, now: Clock = database_now) -> bool:
    """Whether a live key with the role admin and without a limit to projects exists, so that not all are locked out."""
    query = select(_TABLE.id).where(_TABLE.role == Role.ADMIN.value, _TABLE.projects.is_(None))
    with read_transaction(engine) as connection:
        query = query.where(or_(_TABLE.expires_at.is_(None), _TABLE.expires_at > now(connection)))
        return connection.execute(query.limit(1)).first() is not None


def _require_grant(caller: Caller, role: Role, projects: Projects, expires_at: datetime | None) -> None:
    """Refuse what is more than the caller holds; a project that it may not see is unknown to it."""
    if projects is not None:
        foreign = sorted(project for project in projects if not caller.sees(project))
        if foreign:
            raise _unknown_project(foreign[0])
    if not caller.covers(role, projects):
        needed = "for all projects" if projects is None else ""
        raise refused(f"a key cannot be stronger than its maker: this needs the role {role} {needed}".rstrip(), role)
    if caller.expires_at is not None and (expires_at is None or expires_at > caller.expires_at):
        raise refused(f"a key cannot outlive its maker, which expires at {rfc3339(caller.expires_at)}", role)


def _require_patch(caller: Caller, key: Key, values: Mapping[str, Any]) -> None:
    """Refuse what results, unless it is within the caller's rights; an end that stays is judged where rights grow."""
    role, projects = values.get("role", key.role), values.get("projects", key.projects)
    grows = not key.caller().covers(role, projects)
    expires_at = values.get("expires_at", key.expires_at) if grows or "expires_at" in values else caller.expires_at
    _require_grant(caller, role, projects, expires_at)


def _require_projects(connection: Connection, projects: Projects) -> None:
    for project in sorted(projects or ()):
        query = select(_PROJECT.id).where(pagination.equals(_PROJECT.id, project))
        if connection.execute(query).first() is None:
            raise _unknown_project(project)


def _unknown_project(project: str) -> BadRequest:
    return bad(f"projects names an unknown project: {project[:64]}", "projects")


def _read(connection: Connection, key_id: str, caller: Caller | None = None, *, lock: bool = False) -> Key:
    query = select(ManagementKeyRow.__table__).where(pagination.equals(_TABLE.id, key_id))
    if caller is not None:
        query = query.where(*_visible(caller))
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise ResourceNotFound("management key not found", audit={"error_type": "management key not found"})
    return Key.from_row(row)


def _read_to_change(tx: Mutation, key_id: str, caller: Caller) -> Key:
    """Return the key, locked. Raises ResourceNotFound, and PreconditionFailed."""
    key = _read(tx.connection, key_id, caller, lock=True)
    tx.require_match(key)
    return key


def _about(key: Key) -> dict[str, Any]:
    return {
        "key_id": key.id,
        "key_name": key.name,
        "role": key.role.value,
        "projects": "all" if key.projects is None else sorted(key.projects),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
    }


def _taken() -> Conflict:
    return Conflict("management key name already exists", code="key_exists", audit={"error_type": "key_exists"})
