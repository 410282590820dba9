"""A project as management sees it, and what may be asked of one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from llm_proxy.amounts import nano_usd, whole
from llm_proxy.crypto import KeyRing, UnopenableValue, digest, is_sealed
from llm_proxy.errors import BadRequest
from llm_proxy.redaction import obfuscate

EVENT_PRIVACY = ("full", "metadata", "off")
_KEY_FORM = re.compile(r"[\x21-\x7e]{1,4096}")
_UNREADABLE = "****"


@dataclass(frozen=True, slots=True)
class Project:
    """A project's row; `api_key` is what may be shown of the provider's key, `stored_key` tells keys apart."""

    id: str
    name: str
    api_key: str
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
    def of(cls, row: RowMapping, ring: KeyRing) -> "Project":
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
            event_privacy=row["event_privacy"],
            requests_per_minute=row["requests_per_minute"],
            tokens_per_minute=row["tokens_per_minute"],
            max_cost_nano_usd_per_month=row["max_cost_nano_usd_per_month"],
            stored_key=digest(row["api_key"]),
            created_by=row["created_by"],
        )


@dataclass(frozen=True, slots=True)
class NewProject:
    """A creation that is allowed, as far as it can be told without the database. `limits` by column, None = off."""

    name: str
    api_key: str
    event_privacy: str = "full"
    limits: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], *, wants_sk: bool = False, wants_key: bool = True) -> "NewProject":
        """Raises BadRequest.

        Args:
            wants_sk: VALIDATE_API_KEY_FORMAT.
            wants_key: The default provider's key must be given; with PROVIDERS it may come later.
        """
        name, api_key = _text(wanted, "name") or "", _given_key(wanted) or ""
        if not wants_key and name.strip() and not api_key.strip():
            name, privacy = check_name(name), _privacy(wanted) or EVENT_PRIVACY[0]
            return cls(name, "", event_privacy=privacy, limits=limits_of(wanted))
        if not name.strip() or not api_key.strip():
            raise _refused(
                "name and api_key are required",
                None,
                validation_error="missing required fields",
                name_provided=bool(name),
                api_key_provided=bool(api_key),
            )
        api_key = check_api_key(api_key, wants_sk=wants_sk)
        name = check_name(name)
        privacy = _privacy(wanted) or EVENT_PRIVACY[0]
        return cls(name, api_key, event_privacy=privacy, limits=limits_of(wanted))

    def __repr__(self) -> str:  # never a key in a log or a traceback
        return f"NewProject(name={self.name!r})"


@dataclass(frozen=True, slots=True)
class ProjectPatch:
    """What a PATCH changes; None = stays as it is. `limits`: columns that it names, None = no limit."""

    name: str | None = None
    api_key: str | None = None
    is_active: bool | None = None
    revokes_tokens: bool = False
    event_privacy: str | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, wanted: Mapping[str, Any], *, wants_sk: bool = False) -> "ProjectPatch":
        """Raises BadRequest. An empty key means keep; an empty name is refused."""
        name, api_key = _text(wanted, "name"), _given_key(wanted)
        is_active, revokes = _flag(wanted, "is_active"), _flag(wanted, "revoke_tokens")
        if revokes is not None and is_active is not False:
            raise _refused("revoke_tokens requires is_active=false", "revoke_tokens")
        if api_key is not None:
            api_key = check_api_key(api_key, wants_sk=wants_sk) if api_key.strip() else None
        if name is not None:
            name = check_name(name)
        privacy = _privacy(wanted)
        return cls(name, api_key, is_active, bool(revokes), event_privacy=privacy, limits=limits_of(wanted))

    def __repr__(self) -> str:
        return f"ProjectPatch(name={self.name!r}, is_active={self.is_active})"


def obfuscated(api_key: str) -> str:
    """What may be shown of a provider's key: at least 8 characters stay hidden."""
    if 13 <= len(api_key) <= 19:
        return f"{api_key[:2]}...{api_key[-2:]}"
    return obfuscate(api_key)


def check_name(name: str) -> str:
    """The name to store. Raises BadRequest."""
    name = name.strip()
    if not 1 <= len(name) <= 255 or not all(character.isprintable() for character in name):
        raise _refused("name must be 1 to 255 printable characters", "name")
    return name


def check_api_key(api_key: str, *, wants_sk: bool) -> str:
    """The key to seal. Raises BadRequest, never with a part of the key in it."""
    api_key = api_key.strip()
    if "..." in api_key or "****" in api_key:
        message = "cannot save obfuscated API key - please provide the full API key"
        raise _refused(message, "api_key", validation_error="cannot save obfuscated API key")
    if not _KEY_FORM.fullmatch(api_key) or is_sealed(api_key):
        raise _refused("api_key contains invalid characters", "api_key")
    if wants_sk and not api_key.startswith("sk-"):
        raise _refused("invalid API key format", "api_key")
    return api_key


def _given_key(wanted: Mapping[str, Any]) -> str | None:
    api_key = _text(wanted, "api_key")
    return api_key if api_key is not None else _text(wanted, "openai_api_key")


def _privacy(wanted: Mapping[str, Any]) -> str | None:
    """What of its exchanges goes into events; null is the default again. None: not mentioned. Raises BadRequest."""
    if "event_privacy" not in wanted:
        return None
    word = _text(wanted, "event_privacy")
    if word is not None and word not in EVENT_PRIVACY:
        raise _refused(f"event_privacy must be one of {', '.join(EVENT_PRIVACY)}", "event_privacy")
    return word or EVENT_PRIVACY[0]


def limits_of(wanted: Mapping[str, Any]) -> dict[str, int | None]:
    """Columns of the limits and budgets that are named; null = off. Raises BadRequest naming the field."""
    names = [name for name in ("requests_per_minute", "tokens_per_minute") if name in wanted]
    named = {name: whole(wanted, name) for name in names}
    if "max_cost_usd_per_month" in wanted:
        named["max_cost_nano_usd_per_month"] = nano_usd(wanted, "max_cost_usd_per_month")
    return named


def _text(wanted: Mapping[str, Any], name: str) -> str | None:
    return _typed(wanted, name, str)  # type: ignore[no-any-return]


def _flag(wanted: Mapping[str, Any], name: str) -> bool | None:
    return _typed(wanted, name, bool)  # type: ignore[no-any-return]


def _typed(wanted: Mapping[str, Any], name: str, kind: type) -> Any:
    value = wanted.get(name)
    if value is not None and type(value) is not kind:
        raise BadRequest(
            param=name, audit={"validation_error": "invalid request body", "error": f"{name} has a wrong type"}
        )
    return value


def _refused(message: str, param: str | None, **audit: Any) -> BadRequest:
    return BadRequest(message, param=param, audit={"validation_error": message, **audit})
