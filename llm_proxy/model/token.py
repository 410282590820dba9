"""A token's record, and the one rule of its life: in Python, and in SQL beside it.

A token is dead when it is revoked, when its `expires_at` has passed, or when it was unused for longer than its idle
timeout. The last instant itself is still good. A token that was never used is unused since its creation. An idle
timeout is final: a refused request does not count as use.

`TokenRecord.death` and `expired_before` state the same rule; a test compares them on the three databases.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, or_

from llm_proxy.db.models import TokenRow
from llm_proxy.db.types import minutes_later
from llm_proxy.errors import AuthenticationError, TokenExpired, TokenIdleExpired, TokenInactive
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token_fields import EnforcedFields

STATUSES = ("active", "expired", "revoked", "rate_limited")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord(EnforcedFields):
    """The columns of a token's row that requests and management both read.

    Attributes:
        hint: What may be shown of the bearer, which is not kept.
    """

    id: str
    hint: str
    project_id: str
    is_active: bool
    expires_at: datetime | None
    request_count: int
    created_at: datetime
    last_used_at: datetime | None = None
    total_tokens: int = 0
    total_cost_nano_usd: int = 0

    def death(self, now: datetime) -> type[AuthenticationError] | None:
        """Return why the token is dead at `now`, by the error that says so; None while it is alive."""
        if not self.is_active:
            return TokenInactive
        if self.expires_at is not None and now > self.expires_at:
            return TokenExpired
        if self.idle_timeout_minutes is not None:
            since = self.last_used_at or self.created_at
            if now > since + timedelta(minutes=self.idle_timeout_minutes):
                return TokenIdleExpired
        return None

    def require_alive(self, now: datetime) -> None:
        """Raise TokenInactive, TokenExpired or TokenIdleExpired when the token is dead."""
        death = self.death(now)
        if death is not None:
            error = death()
            error.token_id, error.project_id = self.id, self.project_id
            raise error

    @property
    def is_exhausted(self) -> bool:
        """Whether its quota or a budget is used up."""
        pairs = (
            (self.request_count, self.max_requests),
            (self.total_tokens, self.max_total_tokens),
            (self.total_cost_nano_usd, self.max_cost_nano_usd),
        )
        return any(most is not None and used >= most for used, most in pairs)

    def status(self, now: datetime) -> str:
        """Return `revoked`, `expired`, `rate_limited` or `active`, the first that applies."""
        death = self.death(now)
        if death is not None:
            return "revoked" if death is TokenInactive else "expired"
        return "rate_limited" if self.is_exhausted else "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSnapshot(TokenRecord):
    """A token as a request sees it, with its project, at most a second old.

    Attributes:
        leases: Which workers hold units of it, as accounting stores it.
        read_at: Monotonic seconds, from before the read.
        database_s: What the database's clock showed in the read, in seconds since 1970; 0 = not read from one.
    """

    project: ProjectSnapshot
    lease_version: int = 0
    leases: str | None = None
    read_at: float = 0.0
    database_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Revoked:
    """Counts of a bulk revocation."""

    revoked: int
    total: int  # with those that were revoked before

    @property
    def already(self) -> int:
        """Return how many tokens were revoked before."""
        return self.total - self.revoked


def expired_before(instant: datetime) -> ColumnElement[bool]:
    """Return the condition that a row, revoked or not, had passed `expires_at` or its idle timeout at `instant`."""
    return or_(passed_expiry(instant), idled_out(instant))


def passed_expiry(instant: datetime) -> ColumnElement[bool]:
    """Return the condition that a row has an `expires_at` before `instant`."""
    return _is_before(TokenRow.expires_at, instant)


def idled_out(instant: datetime) -> ColumnElement[bool]:
    """Return the condition that a row has an idle timeout that ended before `instant`."""
    used_at = func.coalesce(TokenRow.last_used_at, TokenRow.created_at)
    return _is_before(minutes_later(used_at, TokenRow.idle_timeout_minutes), instant)


def has_status(status: str, now: datetime) -> ColumnElement[bool]:
    """Return the condition that a row has one of `STATUSES` at `now`."""
    is_active, is_expired, is_exhausted = TokenRow.is_active.is_(True), expired_before(now), _is_exhausted()
    if status == "active":
        return and_(is_active, ~is_expired, ~is_exhausted)
    if status == "rate_limited":
        return and_(is_active, ~is_expired, is_exhausted)
    if status == "expired":
        return and_(is_active, is_expired)
    return TokenRow.is_active.is_(False) if status == "revoked" else false()


def _is_exhausted() -> ColumnElement[bool]:
    return or_(
        _is_used_up(TokenRow.request_count, func.nullif(TokenRow.max_requests, 0)),
        _is_used_up(TokenRow.total_tokens, TokenRow.max_total_tokens),
        _is_used_up(TokenRow.total_cost_nano_usd, TokenRow.max_cost_nano_usd),
    )


def _is_used_up(used: Any, most: Any) -> ColumnElement[bool]:
    """Return false, not unknown, without a limit."""
    return and_(most.is_not(None), used >= most)


def _is_before(column: Any, instant: datetime) -> ColumnElement[bool]:
    """Return false, not unknown, without an instant."""
    return and_(column.is_not(None), column < instant)
