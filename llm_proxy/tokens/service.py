"""Issue, list, change and revoke tokens: each mutation one transaction, columns by name."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, and_, func, insert, or_, select, update

from llm_proxy.crypto import digest
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.kept_totals import KeptTotal, KeptTotals
from llm_proxy.db.listing import Listing
from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.mutation import Mutation
from llm_proxy.db.pagination import Order, Selection
from llm_proxy.db.session import read_transaction
from llm_proxy.errors import BadRequest, Conflict, Forbidden, ResourceNotFound
from llm_proxy.model.fields import changes, to_columns
from llm_proxy.model.token import Revoked, has_status
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.tokens.bearer import hint, new_bearer
from llm_proxy.tokens.rolling import RevokedOnes, alike, batch_details, ending, require_rollable
from llm_proxy.tokens.token import NewToken, Token, TokenPatch

_TABLE = TokenRow.__table__.c
SORTS = ("created_at", "expires_at", "last_used_at", "request_count")
_ID_CHARACTERS, _ID_BEGINNING = frozenset("0123456789abcdef-"), 8
Within = frozenset[str] | None  # ids of the projects that a caller may see; None: all


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token and its bearer, which is stored nowhere."""

    token: Token
    bearer: str  # the value that clients send

    def __repr__(self) -> str:  # the bearer belongs to the response alone
        return f"Issued(token={self.token.id})"


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens a list holds. `active_only` and `status` are judged at one instant.

    `search` is the beginning of an id, or a part of a name. `within` are the projects that the caller may see, and
    `ids` the only tokens that are wanted; None for all.
    """

    project_id: str | None = None
    active_only: bool = False
    status: str | None = None
    search: str | None = None
    within: frozenset[str] | None = None
    ids: frozenset[str] | None = None

    def selection(self, now: datetime, order: Order, *, is_id: bool = False) -> Selection:
        """Return the rows.

        Args:
            is_id: `search` is the beginning of ids that exist, and nothing else is meant.
        """
        served, judged, narrow = list[Any](), list[Any](), list[Any]()
        if self.project_id is not None:
            of_project = pagination.equals(_TABLE.project_id, self.project_id)
            (served if order.name == "created_at" else narrow).append(of_project)
        if self.within is not None:
            narrow.append(pagination.within(_TABLE.project_id, self.within))
        if self.ids is not None:
            served.append(pagination.within(_TABLE.id, self.ids))
        if self.search and is_id:
            narrow.append(pagination.begins(_TABLE.id, self.search.lower()))
        elif self.search:
            judged.append(_found_by(self.search))
        statuses = {self.status, "active" if self.active_only else None} - {None}
        judged += [has_status(str(status), now) for status in statuses]
        return Selection(select(TokenRow.__table__).where(*served), tuple(judged), and_(*narrow) if narrow else None)


def _found_by(text: str) -> ColumnElement[bool]:
    """Return the condition that the id begins with the text, or the name contains it."""
    is_named = pagination.contains(_TABLE.name, text)
    return or_(pagination.begins(_TABLE.id, text.lower()), is_named) if text.isascii() else is_named


def order_of(sort: str, *, descending: bool) -> Order:
    """Return the order by one of `SORTS`."""
    return Order(sort, _TABLE[sort], _TABLE.id, descending)


NEWEST_FIRST = order_of("created_at", descending=True)


class TokenService(Listing[Token]):
    """The rules of tokens over the database.

    Args:
        changed: Called with the id of each token that was changed, after the commit.
        now: The present instant; by default the database's.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        changed: Callable[[str], None] = lambda token_id: None,
        now: Clock = database_now,
    ) -> None:
        self._engine, self._changed, self._now, self._totals = engine, changed, now, KeptTotals()

    def issue(self, tx: Mutation, new: NewToken) -> Issued:
        """Store a new token; the bearer is in the result and nowhere else.

        Raises:
            ResourceNotFound: No such project.
            Forbidden: The project is inactive.
        """
        issued = self._insert(tx, new, self._now(tx.connection))
        tx.record(project_id=new.project_id, details=_creation(new, issued.token))
        return issued

    def get(self, token_id: str, within: Within = None) -> Token:
        """Raise ResourceNotFound for one that is not there, or of none of the projects `within`."""
        with read_transaction(self._engine) as connection:
            return _read(connection, token_id, self._now(connection), within)

    def by_hash(self, hashed: str, within: Within = None) -> Token:
        """Return the token whose bearer has this SHA-256, in lower-case hex. Raises as `get`."""
        query = select(TokenRow.__table__).where(_TABLE.token == hashed)
        if within is not None:
            query = query.where(pagination.within(_TABLE.project_id, within))
        with read_transaction(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
            now = self._now(connection)
        if row is None:
            raise _unknown()
        return Token.from_row(row, now)

    def _listed(
        self, connection: Connection, wanted: TokenFilter, order: Order
    ) -> tuple[Selection, Callable[[RowMapping], Token]]:
        now = self._now(connection)
        return _selection(connection, wanted, now, order), partial(Token.from_row, now=now)

    def _kept_total(self, wanted: TokenFilter) -> KeptTotal:
        return self._totals.of(wanted)

    def update(self, tx: Mutation, token_id: str, patch: TokenPatch) -> Token:
        """Write what the patch names; the counters are never touched.

        Raises:
            ResourceNotFound: No such token.
            PreconditionFailed: It is not what the caller has seen.
            Conflict: An expired token can't be made active again.
        """
        now = self._now(tx.connection)
        token = self._read_to_change(tx, token_id, now)
        values = patch.to_columns()
        if values.get("is_active") and not token.is_active:
            _require_revivable(token, patch, now)
        if "is_active" in values:
            values["deactivated_at"] = None if values["is_active"] else token.deactivated_at or now
        self._write(tx, token_id, values)
        tx.record(project_id=token.project_id, details=_changes(token_id, patch))
        return _read(tx.connection, token_id, now)

    def revoke(self, tx: Mutation, token_id: str) -> bool:
        """Revoke; True when it was revoked already, and then nothing is written. Raises as `update`."""
        now = self._now(tx.connection)
        token = self._read_to_change(tx, token_id, now)
        details: dict[str, Any] = {"token_id": token_id}
        if token.is_active:
            self._write(tx, token_id, {"is_active": False, "deactivated_at": now})
        else:
            details["already_revoked"] = True
        tx.record(project_id=token.project_id, details=details)
        return not token.is_active

    def roll(self, tx: Mutation, token_id: str, overlap: timedelta) -> Issued:
        """Issue a token with the same limits and the same span of life; the old one ends after `overlap`.

        Args:
            overlap: 0: the old token is revoked at once. Its own `expires_at` holds where that comes first.

        Raises:
            ResourceNotFound: No such token.
            PreconditionFailed: It is not what the caller has seen.
            Forbidden: The project is inactive.
            Conflict: The token is revoked or expired.
        """
        now = self._now(tx.connection)
        old = self._read_to_change(tx, token_id, now)
        require_rollable(old, now)
        issued = self._insert(tx, alike(old), now)
        self._write(tx, token_id, ending(old, now, overlap))
        minutes = int(overlap.total_seconds() // 60)
        details = {"token_id": token_id, "new_token_id": issued.token.id, "overlap_minutes": minutes}
        tx.record(project_id=old.project_id, details=details)
        return issued

    def revoke_these(self, tx: Mutation, token_ids: Sequence[str]) -> RevokedOnes:
        """Revoke several, with an audit record for each project. Unknown ids are left out."""
        now = self._now(tx.connection)
        found = _read_all(tx, token_ids, now)
        for token in found:
            tx.after_commit(partial(self._changed, token.id))
            if token.is_active:
                self._write(tx, token.id, {"is_active": False, "deactivated_at": now})
        for project_id in sorted({token.project_id for token in found}):
            revoked = [token for token in found if token.project_id == project_id]
            tx.record(project_id=project_id, details=batch_details(revoked))
        known = {token.id for token in found}
        active = sum(token.is_active for token in found)
        return RevokedOnes(active, len(found) - active, [id_ for id_ in dict.fromkeys(token_ids) if id_ not in known])

    def revoke_all(self, connection: Connection, project_id: str) -> Revoked:
        """Revoke a project's tokens in the caller's transaction, by one statement."""
        now = self._now(connection)
        total = connection.execute(
            select(func.count()).select_from(TokenRow).where(_TABLE.project_id == project_id)
        ).scalar_one()
        found = connection.execute(
            update(TokenRow)
            .where(_TABLE.project_id == project_id, _TABLE.is_active.is_(True))
            .values(
                is_active=False,
                deactivated_at=func.coalesce(_TABLE.deactivated_at, now, type_=_TABLE.deactivated_at.type),
                lease_version=_TABLE.lease_version + 1,
            )
        )
        return Revoked(found.rowcount, total)

    def _read_to_change(self, tx: Mutation, token_id: str, now: datetime) -> Token:
        """Return the token, locked; this worker forgets it after the commit. Raises as `update`."""
        token = _read(tx.connection, token_id, now, tx.within, lock=True)
        tx.require_match(token)
        tx.after_commit(partial(self._changed, token_id))
        return token

    def _insert(self, tx: Mutation, new: NewToken, now: datetime) -> Issued:
        self._require_active(tx.connection, new.project_id)
        bearer, token_id = new_bearer(), str(uuid.uuid4())
        row = {"id": token_id, "created_by": tx.actor, **_values(new, bearer, now)}
        tx.connection.execute(insert(TokenRow), row)
        return Issued(_read(tx.connection, token_id, now), bearer)

    @staticmethod
    def _require_active(connection: Connection, project_id: str) -> None:
        # FOR SHARE: a deactivation that runs at the same time comes before or after, not in between.
        query = select(ProjectRow.__table__.c.is_active).where(pagination.equals(ProjectRow.__table__.c.id, project_id))
        is_active = connection.execute(query.with_for_update(read=True)).scalar_one_or_none()
        if is_active is None:
            raise ResourceNotFound("project not found", audit={"error_type": "project not found"})
        if not is_active:
            raise Forbidden(
                "cannot create tokens for inactive projects",
                code="project_inactive",
                audit={"error_type": "project_inactive", "reason": "project is inactive"},
            )

    @staticmethod
    def _write(tx: Mutation, token_id: str, values: Mapping[str, Any]) -> None:
        tx.connection.execute(
            update(TokenRow)
            .where(_TABLE.id == token_id)
            .values(
                {
                    **{_TABLE[name]: value for name, value in values.items()},
                    _TABLE.lease_version: _TABLE.lease_version + 1,
                }
            )
        )


def _selection(connection: Connection, wanted: TokenFilter, now: datetime, order: Order) -> Selection:
    """Return the rows of a list; a text that is long enough to mean an id is looked up as one."""
    text = (wanted.search or "").lower()
    is_id = len(text) >= _ID_BEGINNING and _ID_CHARACTERS.issuperset(text)
    if is_id:
        found = connection.execute(select(_TABLE.id).where(pagination.begins(_TABLE.id, text)).limit(1))
        is_id = found.first() is not None
    return wanted.selection(now, order, is_id=is_id)


def _read(connection: Connection, token_id: str, now: datetime, within: Within = None, *, lock: bool = False) -> Token:
    if token_id.startswith("sk-"):
        raise BadRequest("use the token's id, not its value", param="token_id")
    query = select(TokenRow.__table__).where(pagination.equals(_TABLE.id, token_id))
    if within is not None:
        query = query.where(pagination.within(_TABLE.project_id, within))
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise _unknown()
    return Token.from_row(row, now)


def _unknown() -> ResourceNotFound:
    return ResourceNotFound("token not found", audit={"error_type": "token not found"})


def _read_all(tx: Mutation, token_ids: Sequence[str], now: datetime) -> list[Token]:
    """Return the tokens that are there, locked in the order of their ids."""
    ids = [token_id for token_id in token_ids if token_id.isascii()]
    query = select(TokenRow.__table__).where(_TABLE.id.in_(ids)).order_by(_TABLE.id).with_for_update()
    if tx.within is not None:
        query = query.where(pagination.within(_TABLE.project_id, tx.within))
    return [Token.from_row(row, now) for row in tx.connection.execute(query).mappings()]


def _require_revivable(token: Token, patch: TokenPatch, now: datetime) -> None:
    """Raise Conflict when the token, as it would be after the patch, is past its expiry or idle timeout."""
    idle_timeout = patch.values.get("idle_timeout_minutes", token.idle_timeout_minutes)
    if replace(token, is_active=True, idle_timeout_minutes=idle_timeout).death(now) is not None:
        raise Conflict(
            "token has expired and cannot be reactivated",
            code="token_expired",
            audit={"error_type": "token_expired"},
        )


def _values(new: NewToken, bearer: str, now: datetime) -> dict[str, Any]:
    """Return the columns of a new row, but for its id."""
    return {
        "token": digest(bearer),
        "token_hint": hint(bearer),
        "project_id": new.project_id,
        "expires_at": None if new.lifetime is None else now + new.lifetime,
        "is_active": True,
        "created_at": now,
        **to_columns(TOKEN_FIELDS, new.fields),
    }


def _creation(new: NewToken, token: Token) -> dict[str, Any]:
    minutes = None if new.lifetime is None else int(new.lifetime.total_seconds() // 60)
    expires_at = None if token.expires_at is None else rfc3339(token.expires_at)
    return {
        "token_id": token.id,
        "duration_minutes": minutes,
        "expires_at": expires_at,
        "max_requests": token.max_requests,
    }


def _changes(token_id: str, patch: TokenPatch) -> dict[str, Any]:
    details: dict[str, Any] = {"token_id": token_id}
    if "is_active" in patch.values:
        details["updated_is_active"] = patch.values["is_active"]
    return details | changes(TOKEN_FIELDS, patch.values)
