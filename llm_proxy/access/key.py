"""A management key as callers see it, and what may be asked of one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping

from llm_proxy.access.caller import Caller, Projects
from llm_proxy.access.roles import ROLES, Role
from llm_proxy.errors import BadRequest

NAME_CHARACTERS = 100
MOST_PROJECTS = 200
MAX_MINUTES = 5_256_000  # ten years
MAX_OVERLAP_MINUTES = 43_200  # thirty days


_AS_STORED = (
    "id", "name", "expires_at", "created_at", "created_by", "last_used_at", "previous_until", "secret_hash",
    "previous_hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """A management key's row. Hashes are in `secrets`; the key itself is stored nowhere."""

    id: str
    name: str
    role: Role
    projects: Projects
    expires_at: datetime | None
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    previous_until: datetime | None
    secret_hash: str = field(repr=False)
    previous_hash: str | None = field(repr=False)

    @classmethod
    def from_row(cls, row: RowMapping) -> "Key":
        """Read a row of the table."""
        return cls(
            role=Role(row["role"]),
            projects=projects_of(row["projects"]),
            **{name: row[name] for name in _AS_STORED},
        )

    @property
    def actor(self) -> str:
        """The name it acts under."""
        return f"key:{self.name}"

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def opens_with(self, secret_hash: str, now: datetime) -> bool:
        """Whether this is the hash of its secret, or of the one before while their overlap lasts."""
        if secret_hash == self.secret_hash:
            return True
        return secret_hash == self.previous_hash and self.previous_until is not None and now < self.previous_until

    def caller(self) -> Caller:
        """Return the caller that presents it."""
        return Caller(self.actor, self.role, self.projects, self.id, self.expires_at, identity=f"key:{self.id}")


def projects_of(stored: str | None) -> Projects:
    """Read the column of project ids."""
    return None if stored is None else frozenset(json.loads(stored))


def stored_projects(projects: Projects) -> str | None:
    """Write the column of project ids."""
    return None if projects is None else json.dumps(sorted(projects))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A creation that is allowed, as far as it can be told without the database.

    `says_expiry` tells a key that is asked to live permanently from one whose creation says nothing of it.
    """

    name: str
    role: Role
    projects: Projects
    expires_at: datetime | None
    says_expiry: bool

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], now: datetime) -> "NewKey":
        """Read a body. Raises BadRequest naming the field."""
        name, role = check_name(wanted), check_role(wanted)
        return cls(name, role, check_projects(wanted), expiry(wanted, now), says_expiry(wanted))


@dataclass(frozen=True, slots=True)
class KeyPatch:
    """The attributes that a PATCH names, by name; others stay as they are."""

    values: Mapping[str, Any]

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], now: datetime) -> "KeyPatch":
        """Read a body. Raises BadRequest naming the field."""
        values: dict[str, Any] = {}
        if "name" in wanted:
            values["name"] = check_name(wanted)
        if "role" in wanted:
            values["role"] = check_role(wanted)
        if "projects" in wanted:
            values["projects"] = check_projects(wanted)
        if says_expiry(wanted):
            values["expires_at"] = expiry(wanted, now)
        if not values:
            raise bad("no fields to update")
        return cls(values)


def check_name(wanted: Mapping[str, Any]) -> str:
    """Return the name to store."""
    name = wanted.get("name")
    name = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(name) <= NAME_CHARACTERS or not name.isprintable():
        raise bad(f"name must be 1 to {NAME_CHARACTERS} printable characters", "name")
    return name


def check_role(wanted: Mapping[str, Any]) -> Role:
    """Return the role."""
    role = wanted.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad(f"role must be one of {', '.join(ROLES)}", "role")
    return Role(role)


def check_projects(wanted: Mapping[str, Any]) -> Projects:
    """Return the project ids; absent and null mean all. Whether they exist is the service's to see."""
    projects = wanted.get("projects")
    if projects is None:
        return None
    is_list = isinstance(projects, list) and all(isinstance(project, str) for project in projects)
    if not is_list or not 1 <= len(projects) <= MOST_PROJECTS:
        raise bad(f"projects must be null or a list of 1 to {MOST_PROJECTS} project ids", "projects")
    return frozenset(projects)


def says_expiry(wanted: Mapping[str, Any]) -> bool:
    """Whether the body names an end, never included."""
    return "expires_at" in wanted or wanted.get("duration_minutes") is not None


def expiry(wanted: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return the instant of `expires_at` or `duration_minutes`; None without either."""
    at, minutes = wanted.get("expires_at"), wanted.get("duration_minutes")
    if at is not None and minutes is not None:
        raise bad("only one of expires_at, duration_minutes may be set", "duration_minutes")
    if minutes is not None:
        return now + timedelta(minutes=whole(wanted, "duration_minutes", 1, MAX_MINUTES))
    if at is None:
        return None
    until = _instant(at)
    if until is None or not now < until:
        raise bad("expires_at must be a time in the future, as RFC 3339 with a zone", "expires_at")
    return until


def whole(wanted: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return a whole number within bounds."""
    number = wanted.get(name)
    if type(number) is not int or not least <= number <= most:
        raise bad(f"{name} must be a whole number from {least} to {most}", name)
    return number


def _instant(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def bad(message: str, param: str | None = None) -> BadRequest:
    """Return a 400 that names the field."""
    return BadRequest(message, param=param, audit={"validation_error": message})
