"""Issue, list, change and revoke tokens: each mutation one transaction, columns by name (MP-27, DP-122)."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Select, and_, false, func, insert, or_, select, update

from llm_proxy.amounts import usd
from llm_proxy.crypto import digest
from llm_proxy.db import listing
from llm_proxy.db.listing import Order
from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.session import reading, writing
from llm_proxy.db.types import minutes_later
from llm_proxy.errors import BadRequest, Conflict, Forbidden, ResourceNotFound
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.tokens.bearer import hint, new_bearer
from llm_proxy.tokens.token import NewToken, Token, TokenPatch

_TABLE = TokenRow.__table__.c
STATUSES = ("active", "expired", "revoked", "rate_limited")
SORTS = ("created_at", "expires_at", "last_used_at", "request_count")


class Record(Protocol):
    """Writes the audit record of a mutation into its transaction."""

    def __call__(self, connection: Connection, *, project_id: str | None, details: Mapping[str, Any]) -> None:
        """Raises AuditUnavailable when the mutation must not go on."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token and its bearer, which is stored nowhere."""

    token: Token
    bearer: str

    def __repr__(self) -> str:  # the bearer belongs to the answer alone
        return f"Issued(token={self.token.id})"


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a bulk revocation found."""

    revoked: int
    total: int

    @property
    def already(self) -> int:
        """Tokens that were revoked before."""
        return self.total - self.revoked


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens a list holds. `active_only` and `status` at one instant, `now` (MP-50)."""

    now: datetime
    project_id: str | None = None
    active_only: bool = False
    status: str | None = None
    id_prefix: str | None = None

    def query(self) -> Select[Any]:
        """The rows, unordered."""
        query = select(TokenRow.__table__)
        for clause in self._clauses():
            query = query.where(clause)
        return query

    def _clauses(self) -> Iterator[Any]:
        if self.project_id is not None:
            yield listing.equals(_TABLE.project_id, self.project_id)
        if self.id_prefix:
            yield _TABLE.id.startswith(self.id_prefix, autoescape=True) if self.id_prefix.isascii() else false()
        for status in {self.status, "active" if self.active_only else None} - {None}:
            yield self._has(str(status))

    def _has(self, status: str) -> Any:
        is_spent = or_(
            _is_used_up(_TABLE.request_count, func.nullif(_TABLE.max_requests, 0)),
            _is_used_up(_TABLE.total_tokens, _TABLE.max_total_tokens),
            _is_used_up(_TABLE.total_cost_nano_usd, _TABLE.max_cost_nano_usd),
        )
        dies_at = minutes_later(func.coalesce(_TABLE.last_used_at, _TABLE.created_at), _TABLE.idle_timeout_minutes)
        is_expired = or_(_is_before(_TABLE.expires_at, self.now), _is_before(dies_at, self.now))
        is_active = _TABLE.is_active.is_(True)
        return {
            "active": and_(is_active, ~is_expired, ~is_spent),
            "rate_limited": and_(is_active, ~is_expired, is_spent),
            "expired": and_(is_active, is_expired),
            "revoked": _TABLE.is_active.is_(False),
        }[status]


def _is_used_up(used: Any, most: Any) -> Any:
    """False, not unknown, without a limit."""
    return and_(most.is_not(None), used >= most)


def _is_before(instant: Any, now: datetime) -> Any:
    """False, not unknown, without an instant."""
    return and_(instant.is_not(None), instant < now)


def order_of(sort: str, *, descending: bool) -> Order:
    """The order by one of `SORTS`."""
    return Order(sort, _TABLE[sort], _TABLE.id, descending)


NEWEST_FIRST = order_of("created_at", descending=True)  # MP-49


class TokenService:
    """The rules of tokens over the database.

    Args:
        changed: Called with the id of each token that was changed, after the commit.
        now: The present instant.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        changed: Callable[[str], None] = lambda token_id: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine, self._changed, self._now = engine, changed, now

    def issue(
        self,
        new: NewToken,
        record: Record,
        then: Callable[[Connection, Issued], None] = lambda connection, issued: None,
    ) -> Issued:
        """Store a new token; the bearer is in the result and nowhere else.

        Args:
            then: Called with the result inside the transaction.

        Raises:
            ResourceNotFound: No such project.
            Forbidden: The project is inactive (MP-7).
        """
        bearer, now = new_bearer(), self._now()
        values = {
            "id": str(uuid.uuid4()),
            "token": digest(bearer),
            "token_hint": hint(bearer),
            "project_id": new.project_id,
            "expires_at": None if new.lifetime is None else now + new.lifetime,
            "is_active": True,
            "max_requests": new.max_requests,
            "created_at": now,
            "name": new.name,
            "metadata": None if new.metadata is None else json.dumps(new.metadata),
            **new.limits,
        }
        with writing(self._engine) as connection:
            self._require_active(connection, new.project_id)
            connection.execute(insert(TokenRow), values)
            issued = Issued(_read(connection, str(values["id"])), bearer)
            record(connection, project_id=new.project_id, details=_creation(new, issued.token))
            then(connection, issued)
        return issued

    def get(self, token_id: str) -> Token:
        """Raises ResourceNotFound."""
        with reading(self._engine) as connection:
            return _read(connection, token_id)

    def page(self, wanted: TokenFilter, order: Order, page: int, size: int) -> tuple[list[Token], int]:
        """One page by number, and how many rows there are in all."""
        with reading(self._engine) as connection:
            rows = listing.numbered(connection, wanted.query(), order, page, size)
            return [Token.of(row) for row in rows], listing.count(connection, wanted.query())

    def after(
        self, wanted: TokenFilter, order: Order, limit: int, cursor: str | None
    ) -> tuple[list[Token], str | None]:
        """One page by key, and the cursor of the next. Raises listing.InvalidCursor."""
        with reading(self._engine) as connection:
            rows, following = listing.keyed(connection, wanted.query(), order, limit, cursor)
        return [Token.of(row) for row in rows], following

    def all(self, wanted: TokenFilter, order: Order = NEWEST_FIRST) -> Iterator[Sequence[Token]]:
        """Every token, in chunks."""
        for rows in listing.everything(self._engine, wanted.query(), order):
            yield [Token.of(row) for row in rows]

    def update(
        self, token_id: str, patch: TokenPatch, record: Record, check: Callable[[Token], None] = lambda token: None
    ) -> Token:
        """Write what the patch names; the counters are never touched.

        Args:
            check: Called with the token as it is, inside the transaction; raises to stop.

        Raises:
            ResourceNotFound: No such token.
            Conflict: An expired token can't be made active again (MP-53).
        """
        now = self._now()
        with writing(self._engine) as connection:
            token = _read(connection, token_id, lock=True)
            check(token)
            values = dict(patch.values)
            if values.get("is_active") and not token.is_active and token.is_expired(now):
                raise Conflict(
                    "token has expired and cannot be reactivated",
                    code="token_expired",
                    audit={"error_type": "token_expired"},
                )
            if "is_active" in values:
                values["deactivated_at"] = None if values["is_active"] else token.deactivated_at or now
            self._write(connection, token_id, values)
            updated = _read(connection, token_id)
            record(connection, project_id=token.project_id, details=_changes(token_id, patch))
        self._changed(token_id)
        return updated

    def revoke(self, token_id: str, record: Record, check: Callable[[Token], None] = lambda token: None) -> bool:
        """Revoke; True when it was revoked already, and then nothing is written (MP-54). Raises ResourceNotFound."""
        with writing(self._engine) as connection:
            token = _read(connection, token_id, lock=True)
            check(token)
            details: dict[str, Any] = {"token_id": token_id}
            if token.is_active:
                self._write(connection, token_id, {"is_active": False, "deactivated_at": self._now()})
            else:
                details["already_revoked"] = True
            record(connection, project_id=token.project_id, details=details)
        self._changed(token_id)
        return not token.is_active

    def revoke_all(self, connection: Connection, project_id: str) -> Revoked:
        """Revoke a project's tokens in the caller's transaction, by one statement (MP-42)."""
        total = connection.execute(
            select(func.count()).select_from(TokenRow).where(_TABLE.project_id == project_id)
        ).scalar_one()
        found = connection.execute(
            update(TokenRow)
            .where(_TABLE.project_id == project_id, _TABLE.is_active.is_(True))
            .values(
                is_active=False,
                deactivated_at=func.coalesce(_TABLE.deactivated_at, self._now(), type_=_TABLE.deactivated_at.type),
                lease_version=_TABLE.lease_version + 1,
            )
        )
        return Revoked(found.rowcount, total)

    @staticmethod
    def _require_active(connection: Connection, project_id: str) -> None:
        # FOR SHARE: a deactivation that runs at the same time comes before or after, not in between.
        query = select(ProjectRow.__table__.c.is_active).where(listing.equals(ProjectRow.__table__.c.id, project_id))
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
    def _write(connection: Connection, token_id: str, values: Mapping[str, Any]) -> None:
        connection.execute(
            update(TokenRow)
            .where(_TABLE.id == token_id)
            .values(
                {
                    **{_TABLE[name]: value for name, value in values.items()},
                    _TABLE.lease_version: _TABLE.lease_version + 1,
                }
            )
        )


def _read(connection: Connection, token_id: str, *, lock: bool = False) -> Token:
    if token_id.startswith("sk-"):
        raise BadRequest("use the token's id, not its value", param="token_id")  # MP-14
    query = select(TokenRow.__table__).where(listing.equals(_TABLE.id, token_id))
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise ResourceNotFound("token not found", audit={"error_type": "token not found"})
    return Token.of(row)


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
    if "max_requests" in patch.values:
        limit = patch.values["max_requests"]
        details["updated_max_requests"] = "unlimited" if limit is None else limit
    for name in ("idle_timeout_minutes", "requests_per_minute", "tokens_per_minute", "max_total_tokens"):
        if name in patch.values:
            details[f"updated_{name}"] = patch.values[name]
    if "max_cost_nano_usd" in patch.values:
        details["updated_max_cost_usd"] = usd(patch.values["max_cost_nano_usd"])
    for name in ("name", "metadata"):
        if name in patch.values:
            details[f"updated_{name}"] = True
    return details
