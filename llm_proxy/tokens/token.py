"""A token as management sees it, and what may be asked of one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping

from llm_proxy.model.fields import from_columns, named, parsed, refused, to_columns, typed, values_of
from llm_proxy.model.token import TokenRecord
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.settings import TokenSettings

MAX_DURATION_MINUTES = 525_600
_DURATIONS = {"duration_minutes": 1, "duration_hours": 60, "expires_in_days": 1440}
_READ_ONLY = (  # columns that are attributes as they are
    *("id", "project_id", "expires_at", "is_active", "deactivated_at", "request_count", "cache_hit_count"),
    *("created_at", "created_by", "last_used_at", "total_tokens", "total_cost_nano_usd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(TokenRecord):
    """A token as management sees it.

    Attributes:
        state: What `TokenRecord.status` said at the time of the read, by the database's clock.
    """

    deactivated_at: datetime | None
    cache_hit_count: int
    name: str | None
    description: str | None
    metadata: dict[str, Any] | None
    state: str = ""
    created_by: str | None = None

    @classmethod
    def from_row(cls, row: RowMapping, now: datetime) -> "Token":
        """Return a row of the tokens table that was read at `now`."""
        as_they_are = {name: row[name] for name in _READ_ONLY}
        token = cls(hint=row["token_hint"] or "****", **as_they_are, **from_columns(TOKEN_FIELDS, row))
        return replace(token, state=token.status(now))

    @property
    def fields(self) -> dict[str, Any]:
        """Return what callers may write, by attribute: a `NewToken` with these is alike."""
        return values_of(TOKEN_FIELDS, self)


@dataclass(frozen=True, slots=True)
class TokenDefaults:
    """What a creation gets that does not say. `lifetime` None = a duration has to be given."""

    lifetime: timedelta | None = None
    max_requests: int | None = None

    @classmethod
    def from_settings(cls, settings: TokenSettings) -> "TokenDefaults":
        """DEFAULT_TOKEN_LIFETIME and DEFAULT_TOKEN_REQUEST_LIMIT."""
        seconds = settings.default_lifetime_s
        return cls(None if seconds is None else timedelta(seconds=seconds), settings.default_request_limit)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A creation that is allowed, as far as it can be told without the database.

    Attributes:
        lifetime: None = permanently.
        fields: Values of `TOKEN_FIELDS` by attribute.
    """

    project_id: str
    lifetime: timedelta | None
    fields: Mapping[str, Any]

    @classmethod
    def from_json(
        cls, wanted: Mapping[str, Any], defaults: TokenDefaults, providers: Collection[str] = ()
    ) -> "NewToken":
        """Return the creation. Raises BadRequest: types first, then the duration, the project, the fields in order."""
        project_id = typed(wanted, "project_id", str) or ""
        durations = {name: value for name in _DURATIONS if (value := typed(wanted, name, int)) is not None}
        typed(wanted, "max_requests", int)
        lifetime = _lifetime(durations, defaults)
        if not project_id:
            raise refused("project_id is required", "project_id")
        if "max_requests" not in wanted:
            wanted = {**wanted, "max_requests": defaults.max_requests}
        return cls(project_id, lifetime, parsed(TOKEN_FIELDS, wanted, providers))


@dataclass(frozen=True, slots=True)
class TokenPatch:
    """What a PATCH writes, by attribute; the rest stays as it is."""

    values: Mapping[str, Any]

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], providers: Collection[str] = ()) -> "TokenPatch":
        """Return the patch. Raises BadRequest."""
        if "expires_at" in wanted:
            raise refused("expires_at cannot be changed", "expires_at")
        is_active = typed(wanted, "is_active", bool)
        values = {} if is_active is None else {"is_active": is_active}
        values |= parsed(named(TOKEN_FIELDS, wanted), wanted, providers)
        if not values:
            raise refused("no fields to update")
        return cls(values)

    def to_columns(self) -> dict[str, Any]:
        """Return the columns to write."""
        return {**self.values, **to_columns(TOKEN_FIELDS, self.values)}


def _lifetime(durations: Mapping[str, int], defaults: TokenDefaults) -> timedelta | None:
    if len(durations) > 1:
        raise refused("only one of duration_minutes, duration_hours, expires_in_days may be set", "duration_minutes")
    if not durations and defaults.lifetime is not None:
        return defaults.lifetime or None  # zero = never expires
    name, asked = next(iter(durations.items()), ("duration_minutes", 0))
    minutes = asked * _DURATIONS[name]
    audit = {"requested_duration_minutes": minutes, "max_duration_minutes": MAX_DURATION_MINUTES}
    if minutes <= 0:
        raise refused("project_id and duration_minutes are required", "duration_minutes")
    if minutes > MAX_DURATION_MINUTES:
        raise refused("duration_minutes exceeds maximum allowed", "duration_minutes", audit)
    return timedelta(minutes=minutes)
