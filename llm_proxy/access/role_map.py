"""ADMIN_OIDC_ROLE_MAP: which values of a person's claim mean which role, for which projects."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llm_proxy.access.caller import Projects
from llm_proxy.access.roles import ROLES, Role

FORM = "a list such as llm-admins:admin,ml:operator@PROJECT-ID"
_STRENGTH = (Role.ISSUER, Role.VIEWER, Role.OPERATOR, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of the claim. `project` is an id; None means all projects."""

    value: str
    role: Role
    project: str | None


def parse(text: str) -> tuple[Entry, ...]:
    """Read the setting; empty text is an empty map. Raises ValueError, worded as what is expected."""
    return tuple(_entry(part.strip()) for part in text.split(",") if part.strip())


def _entry(text: str) -> Entry:
    value, _, granted = text.rpartition(":")  # values may hold colons
    role, at, project = granted.partition("@")
    if not value.strip() or (at and not project.strip()):
        raise ValueError(FORM)
    if role.strip() not in ROLES:
        raise ValueError(f"{FORM}, with the roles {', '.join(ROLES)}")
    return Entry(value.strip(), Role(role.strip()), project.strip() or None)


def grant(entries: Sequence[Entry], values: Collection[str]) -> tuple[Role, Projects] | None:
    """Return the role and projects of a person with these values, None when no entry matches.

    The strongest role that matches holds, for the projects of its own entries: a weaker role for further projects is
    left out, because a caller has one role.
    """
    found = [entry for entry in entries if entry.value in values]
    if not found:
        return None
    role = max((entry.role for entry in found), key=_STRENGTH.index)
    projects = [entry.project for entry in found if entry.role is role]
    named = frozenset(project for project in projects if project is not None)
    return role, None if None in projects else named


def values_of(claims: dict[str, Any], name: str) -> frozenset[str]:
    """Return the values of a claim: a list, or one text. A name with dots also names a claim inside of claims."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, str):
        return frozenset((found,))
    return frozenset(value for value in found if isinstance(value, str)) if isinstance(found, list) else frozenset()
