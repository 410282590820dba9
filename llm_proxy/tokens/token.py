"""A token as management sees it, and what may be asked of one."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping

from llm_proxy.amounts import MAX_MODEL_TOKENS, nano_usd, whole
from llm_proxy.errors import BadRequest
from llm_proxy.model.token import TokenRecord
from llm_proxy.settings import Settings

MAX_DURATION_MINUTES = 525_600
MAX_REQUESTS = 2_147_483_647
MAX_IDLE_MINUTES = 525_600
_DURATIONS = {"duration_minutes": 1, "duration_hours": 60, "expires_in_days": 1440}
_METADATA_KEYS, _METADATA_BYTES, _NAME_CHARACTERS = 16, 1024, 255
_INT64 = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(TokenRecord):
    """A token as management sees it.

    Attributes:
        state: What `TokenRecord.status` said at the time of the read, by the database's clock.
    """

    deactivated_at: datetime | None
    cache_hit_count: int
    name: str | None
    metadata: dict[str, Any] | None
    state: str = ""
    created_by: str | None = None

    @classmethod
    def of(cls, row: RowMapping, now: datetime) -> "Token":
        """Return a row of the tokens table that was read at `now`."""
        token = cls(
            id=row["id"],
            hint=row["token_hint"] or "****",
            project_id=row["project_id"],
            expires_at=row["expires_at"],
            is_active=row["is_active"],
            deactivated_at=row["deactivated_at"],
            request_count=row["request_count"],
            max_requests=row["max_requests"] or None,
            cache_hit_count=row["cache_hit_count"],
            created_at=row["created_at"],
            last_used_at=row["last_used_at"],
            name=row["name"],
            metadata=json.loads(row["metadata"]) if row["metadata"] else None,
            idle_timeout_minutes=row["idle_timeout_minutes"],
            requests_per_minute=row["requests_per_minute"],
            tokens_per_minute=row["tokens_per_minute"],
            max_total_tokens=row["max_total_tokens"],
            max_cost_nano_usd=row["max_cost_nano_usd"],
            total_tokens=row["total_tokens"],
            total_cost_nano_usd=row["total_cost_nano_usd"],
            created_by=row["created_by"],
            providers=read_providers(row["providers"]),
        )
        return replace(token, state=token.status(now))


@dataclass(frozen=True, slots=True)
class TokenDefaults:
    """What a creation gets that does not say. `lifetime` None = a duration has to be given."""

    lifetime: timedelta | None = None
    max_requests: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> "TokenDefaults":
        """DEFAULT_TOKEN_LIFETIME and DEFAULT_TOKEN_REQUEST_LIMIT."""
        seconds = settings.default_token_lifetime_s
        return cls(None if seconds is None else timedelta(seconds=seconds), settings.default_token_request_limit)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A creation that is allowed, as far as it can be told without the database.

    Attributes:
        lifetime: None = for ever.
        limits: Columns of limits and budgets, None = off.
        providers: Names of the providers that it is good for; None = all.
    """

    project_id: str
    lifetime: timedelta | None
    max_requests: int | None
    name: str | None = None
    metadata: dict[str, Any] | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)
    providers: tuple[str, ...] | None = None

    @classmethod
    def from_json(
        cls, wanted: Mapping[str, Any], defaults: TokenDefaults, providers: Collection[str] = ()
    ) -> "NewToken":
        """Raises BadRequest; the checks come in MP-46's order."""
        project_id = _typed(wanted, "project_id", str) or ""
        durations = {name: value for name in _DURATIONS if (value := _typed(wanted, name, int)) is not None}
        limit = _typed(wanted, "max_requests", int)
        lifetime = _lifetime(durations, defaults)
        if not project_id:
            raise _refused("project_id is required", "project_id")
        limit = check_max_requests(defaults.max_requests if "max_requests" not in wanted else limit)
        good_for = check_providers(wanted, providers)
        name, metadata = check_name(wanted), check_metadata(wanted)
        return cls(project_id, lifetime, limit, name, metadata, limits_of(wanted), good_for)


@dataclass(frozen=True, slots=True)
class TokenPatch:
    """The columns that a PATCH writes, by name; others stay as they are."""

    values: Mapping[str, Any]

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], providers: Collection[str] = ()) -> "TokenPatch":
        """Raises BadRequest. `max_requests`: null and 0 = unlimited; `name`, `metadata` and limits: null = none."""
        if "expires_at" in wanted:
            raise _refused("expires_at cannot be changed", "expires_at")
        values: dict[str, Any] = {}
        is_active = _typed(wanted, "is_active", bool)
        if is_active is not None:
            values["is_active"] = is_active
        if "max_requests" in wanted:
            values["max_requests"] = check_max_requests(_typed(wanted, "max_requests", int))
        values |= limits_of(wanted)
        if "name" in wanted:
            values["name"] = check_name(wanted)
        if "metadata" in wanted:
            metadata = check_metadata(wanted)
            values["metadata"] = None if metadata is None else json.dumps(metadata)
        if "providers" in wanted:
            values["providers"] = stored_providers(check_providers(wanted, providers))
        if not values:
            raise _refused("no fields to update")
        return cls(values)


def check_max_requests(limit: int | None) -> int | None:
    """The limit to store, None = unlimited. Raises BadRequest."""
    if limit is None:
        return None
    audit = {"requested_max_requests": limit}
    if limit < 0:
        raise _refused("max_requests must be >= 0", "max_requests", audit)
    if limit > MAX_REQUESTS:
        raise _refused(f"max_requests must be <= {MAX_REQUESTS}", "max_requests", audit)
    return limit or None


def limits_of(wanted: Mapping[str, Any]) -> dict[str, int | None]:
    """Columns of the limits and budgets that are named; null = off. Raises BadRequest naming the field."""
    found = {
        "idle_timeout_minutes": whole(wanted, "idle_timeout_minutes", MAX_IDLE_MINUTES),
        "requests_per_minute": whole(wanted, "requests_per_minute"),
        "tokens_per_minute": whole(wanted, "tokens_per_minute"),
        "max_total_tokens": whole(wanted, "max_total_tokens", MAX_MODEL_TOKENS),
    }
    named: dict[str, int | None] = {name: value for name, value in found.items() if name in wanted}
    if "max_cost_usd" in wanted:
        named["max_cost_nano_usd"] = nano_usd(wanted, "max_cost_usd")
    return named


def check_name(wanted: Mapping[str, Any]) -> str | None:
    """The token's name; null and absent = none. Raises BadRequest."""
    name: str | None = _typed(wanted, "name", str)
    if name is None:
        return None
    name = name.strip()
    if not 1 <= len(name) <= _NAME_CHARACTERS or not name.isprintable():
        raise _refused("name must be 1 to 255 printable characters", "name")
    return name


def check_providers(wanted: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...] | None:
    """Names of the providers that a token is good for; null and absent = all. Raises BadRequest."""
    names: Any = wanted.get("providers")
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _refused("providers must be a list of names that is not empty, or null", "providers")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _refused(f"providers names an unknown provider: {unknown[0][:64]}", "providers")
    return tuple(dict.fromkeys(names))


def stored_providers(names: tuple[str, ...] | None) -> str | None:
    """Return the column's value."""
    return None if names is None else json.dumps(names)


def read_providers(stored: str | None) -> tuple[str, ...] | None:
    """Return the names that a column's value holds."""
    return None if stored is None else tuple(json.loads(stored))


def check_metadata(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """A flat object of at most 16 keys and 1 KiB; null and absent = none. Raises BadRequest."""
    metadata: Any = wanted.get("metadata")
    if metadata is None:
        return None
    is_flat = isinstance(metadata, dict) and not any(isinstance(value, dict | list) for value in metadata.values())
    if not is_flat or len(metadata) > _METADATA_KEYS:
        raise _refused("metadata must be a flat object of at most 16 keys", "metadata")
    text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > _METADATA_BYTES or "\\u0000" in text:
        raise _refused("metadata must not exceed 1024 bytes", "metadata")
    return dict(metadata)


def _lifetime(durations: Mapping[str, int], defaults: TokenDefaults) -> timedelta | None:
    if len(durations) > 1:
        raise _refused("only one of duration_minutes, duration_hours, expires_in_days may be set", "duration_minutes")
    if not durations and defaults.lifetime is not None:
        return defaults.lifetime or None  # zero = never expires
    name, asked = next(iter(durations.items()), ("duration_minutes", 0))
    minutes = asked * _DURATIONS[name]
    audit = {"requested_duration_minutes": minutes, "max_duration_minutes": MAX_DURATION_MINUTES}
    if minutes <= 0:
        raise _refused("project_id and duration_minutes are required", "duration_minutes")
    if minutes > MAX_DURATION_MINUTES:
        raise _refused("duration_minutes exceeds maximum allowed", "duration_minutes", audit)
    return timedelta(minutes=minutes)


def _typed(wanted: Mapping[str, Any], name: str, kind: type) -> Any:
    """The member, None when absent or null. Raises BadRequest for another type or a number beyond 64 bits."""
    value = wanted.get(name)
    if value is None:
        return None
    is_right = type(value) is kind
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        is_right = False
    if not is_right:
        raise BadRequest(
            param=name, audit={"validation_error": "invalid request body", "error": f"{name} has a wrong type"}
        )
    return value


def _refused(message: str, param: str | None = None, audit: Mapping[str, Any] | None = None) -> BadRequest:
    return BadRequest(message, param=param, audit={"validation_error": message, **(audit or {})})
