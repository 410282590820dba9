"""A project as management sees it, and what may be asked of one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from llm_proxy.crypto import KeyRing, UnopenableValue, digest, is_sealed
from llm_proxy.model.fields import from_columns, named, parsed, refused, typed
from llm_proxy.model.project import PROJECT_FIELDS
from llm_proxy.redaction import obfuscate

_KEY_FORM = re.compile(r"[\x21-\x7e]{1,4096}")
_UNREADABLE = "****"


@dataclass(frozen=True, slots=True)
class Project:
    """A project's row; `stored_key` tells keys apart."""

    id: str
    name: str
    api_key: str  # what may be shown of the provider's key
    is_active: bool
    deactivated_at: datetime | None
    created_at: datetime
    updated_at: datetime
    event_privacy: str = "full"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_nano_usd_per_month: int | None = None
    stored_key: str = field(repr=False, default="")
    created_by: str | None = None

    @classmethod
    def from_row(cls, row: RowMapping, ring: KeyRing) -> "Project":
        """From a row of the projects table; a key that does not open does not fail the list."""
        try:
            shown = obfuscated(ring.open(row["api_key"], row["id"]))
        except UnopenableValue:
            shown = _UNREADABLE
        return cls(
            id=row["id"],
            name=row["name"],
            api_key=shown,
            is_active=row["is_active"],
            deactivated_at=row["deactivated_at"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            stored_key=digest(row["api_key"]),
            created_by=row["created_by"],
            **from_columns(PROJECT_FIELDS, row),
        )


@dataclass(frozen=True, slots=True)
class NewProject:
    """A creation that is allowed, as far as it can be told without the database.

    Attributes:
        fields: Values of `PROJECT_FIELDS` by attribute.
    """

    name: str
    api_key: str
    fields: Mapping[str, Any]

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], *, wants_sk: bool = False, wants_key: bool = True) -> "NewProject":
        """Read a creation. Raises BadRequest.

        Args:
            wants_sk: VALIDATE_API_KEY_FORMAT.
            wants_key: The default provider's key must be given; with PROVIDERS it may come later.
        """
        name, api_key = _text(wanted, "name") or "", _given_key(wanted) or ""
        if not wants_key and name.strip() and not api_key.strip():
            return cls(check_name(name), "", parsed(PROJECT_FIELDS, wanted))
        if not name.strip() or not api_key.strip():
            given = {"name_provided": bool(name), "api_key_provided": bool(api_key)}
            audit = {"validation_error": "missing required fields", **given}
            raise refused("name and api_key are required", audit=audit)
        api_key = check_api_key(api_key, wants_sk=wants_sk)
        return cls(check_name(name), api_key, parsed(PROJECT_FIELDS, wanted))

    def __repr__(self) -> str:  # never a key in a log or a traceback
        return f"NewProject(name={self.name!r})"


@dataclass(frozen=True, slots=True)
class ProjectPatch:
    """What a PATCH changes; None = stays as it is. `fields`: values of the `PROJECT_FIELDS` that it names."""

    name: str | None = None
    api_key: str | None = None
    is_active: bool | None = None
    revokes_tokens: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], *, wants_sk: bool = False) -> "ProjectPatch":
        """Read a change. Raises BadRequest. An empty key means keep; an empty name is refused."""
        name, api_key = _text(wanted, "name"), _given_key(wanted)
        is_active, revokes = _flag(wanted, "is_active"), _flag(wanted, "revoke_tokens")
        if revokes is not None and is_active is not False:
            raise refused("revoke_tokens requires is_active=false", "revoke_tokens")
        if api_key is not None:
            api_key = check_api_key(api_key, wants_sk=wants_sk) if api_key.strip() else None
        if name is not None:
            name = check_name(name)
        return cls(name, api_key, is_active, bool(revokes), parsed(named(PROJECT_FIELDS, wanted), wanted))

    def __repr__(self) -> str:
        return f"ProjectPatch(name={self.name!r}, is_active={self.is_active})"


def obfuscated(api_key: str) -> str:
    """Return what may be shown of a provider's key: at least 8 characters stay hidden."""
    if 13 <= len(api_key) <= 19:
        return f"{api_key[:2]}...{api_key[-2:]}"
    return obfuscate(api_key)


def check_name(name: str) -> str:
    """Return the name to store. Raises BadRequest."""
    name = name.strip()
    if not 1 <= len(name) <= 255 or not all(character.isprintable() for character in name):
        raise refused("name must be 1 to 255 printable characters", "name")
    return name


def check_api_key(api_key: str, *, wants_sk: bool) -> str:
    """Return the key to seal. Raises BadRequest, never with a part of the key in it."""
    api_key = api_key.strip()
    if "..." in api_key or "****" in api_key:
        message = "cannot save obfuscated API key - please provide the full API key"
        raise refused(message, "api_key", {"validation_error": "cannot save obfuscated API key"})
    if not _KEY_FORM.fullmatch(api_key) or is_sealed(api_key):
        raise refused("api_key contains invalid characters", "api_key")
    if wants_sk and not api_key.startswith("sk-"):
        raise refused("invalid API key format", "api_key")
    return api_key


def _given_key(wanted: Mapping[str, Any]) -> str | None:
    api_key = _text(wanted, "api_key")
    return api_key if api_key is not None else _text(wanted, "openai_api_key")


def _text(wanted: Mapping[str, Any], name: str) -> str | None:
    return typed(wanted, name, str)  # type: ignore[no-any-return]


def _flag(wanted: Mapping[str, Any], name: str) -> bool | None:
    return typed(wanted, name, bool)  # type: ignore[no-any-return]
