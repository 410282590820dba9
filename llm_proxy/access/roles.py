"""Roles, and the one table of which role may do what.

Enforcement, docs/reference/roles.md and the tests read this table. A route of /manage without a row cannot be added.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a caller may do. `operator` includes `viewer` and `issuer`; `admin` includes all."""

    ISSUER = "issuer"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def included(self) -> frozenset["Role"]:
        """Roles whose rights this one has, itself among them."""
        return _INCLUDED[self]


_INCLUDED: Final = {
    Role.ISSUER: frozenset((Role.ISSUER,)),
    Role.VIEWER: frozenset((Role.VIEWER,)),
    Role.OPERATOR: frozenset((Role.ISSUER, Role.VIEWER, Role.OPERATOR)),
    Role.ADMIN: frozenset(Role),
}
ROLES: Final = tuple(role.value for role in Role)


class Reach(StrEnum):
    """What an operation touches, and so how a limit to projects applies to it."""

    ANY = "nothing that belongs to a project"
    LISTED = "what the caller's projects hold; the rest is left out"
    PROJECT = "one project; another one is 404"
    NAMED = "the project that the request names (another one is 404); without one, all projects"
    ALL = "all projects: refused with 403 where the caller is limited to some"
    KEYS = "keys that are not stronger than the caller; others are 404"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, the roles that may use it, and what it touches."""

    method: str
    path: str
    title: str
    roles: tuple[Role, ...]
    reach: Reach

    def allows(self, role: Role) -> bool:
        """Whether the role, or one that it includes, may use it."""
        return not role.included.isdisjoint(self.roles)

    @property
    def needed(self) -> Role:
        """The weakest role that may use it; for a refusal's text."""
        return self.roles[0]


_ALL = (Role.VIEWER, Role.ISSUER)
_READ, _ISSUE, _OPERATE, _ADMIN = (Role.VIEWER,), (Role.ISSUER,), (Role.OPERATOR,), (Role.ADMIN,)
_PROVIDER_KEYS = "/manage/projects/{id}/provider-keys"
_TABLE = (
    Operation("GET", "/manage/projects", "List projects", _READ, Reach.LISTED),
    Operation("POST", "/manage/projects", "Create a project", _ADMIN, Reach.ALL),
    Operation("GET", "/manage/projects/{id}", "Show a project", _READ, Reach.PROJECT),
    Operation("PATCH", "/manage/projects/{id}", "Change a project, its provider key too", _ADMIN, Reach.PROJECT),
    Operation("GET", f"{_PROVIDER_KEYS}", "List a project's provider keys", _READ, Reach.PROJECT),
    Operation("PUT", f"{_PROVIDER_KEYS}/{{provider}}", "Set a project's key for a provider", _ADMIN, Reach.PROJECT),
    Operation("DELETE", f"{_PROVIDER_KEYS}/{{provider}}", "Remove a project's provider key", _ADMIN, Reach.PROJECT),
    Operation("POST", "/manage/projects/{id}/tokens/revoke", "Revoke a project's tokens", _ISSUE, Reach.PROJECT),
    Operation("GET", "/manage/tokens", "List tokens", _ALL, Reach.LISTED),
    Operation("POST", "/manage/tokens", "Create a token", _ISSUE, Reach.PROJECT),
    Operation("POST", "/manage/tokens/lookup", "Find a token by its value", _ALL, Reach.LISTED),
    Operation("GET", "/manage/tokens/{id}", "Show a token", _ALL, Reach.PROJECT),
    Operation("PATCH", "/manage/tokens/{id}", "Change a token", _OPERATE, Reach.PROJECT),
    Operation("DELETE", "/manage/tokens/{id}", "Revoke a token", _ISSUE, Reach.PROJECT),
    Operation("POST", "/manage/tokens/{id}/roll", "Replace a token, with an overlap", _ISSUE, Reach.PROJECT),
    Operation("POST", "/manage/tokens/revoke", "Revoke several tokens", _ISSUE, Reach.LISTED),
    Operation("GET", "/manage/tokens/{id}/refusals", "Read why a token was refused", _READ, Reach.PROJECT),
    Operation("GET", "/manage/stats", "Read totals", _READ, Reach.LISTED),
    Operation("GET", "/manage/outcomes", "Read how requests ended", _READ, Reach.LISTED),
    Operation("GET", "/manage/traffic", "Read traffic by hour or day", _READ, Reach.LISTED),
    Operation("GET", "/manage/streams", "List running requests", _READ, Reach.LISTED),
    Operation("DELETE", "/manage/streams/{id}", "Cut a running request", _OPERATE, Reach.LISTED),
    Operation("GET", "/manage/events/tail", "Watch events as they come", _READ, Reach.LISTED),
    Operation("GET", "/manage/dispatcher", "Read the state of the event bus", _READ, Reach.ALL),
    Operation("GET", "/manage/dispatcher/dead-letters", "List events that were given up", _OPERATE, Reach.ALL),
    Operation("POST", "/manage/dispatcher/dead-letters/{id}/replay", "Replay a dead letter", _OPERATE, Reach.ALL),
    Operation("DELETE", "/manage/dispatcher/dead-letters/{id}", "Drop a dead letter", _OPERATE, Reach.ALL),
    Operation("GET", "/manage/usage", "Read usage", _READ, Reach.LISTED),
    Operation("GET", "/manage/audit", "List audit records", _READ, Reach.LISTED),
    Operation("GET", "/manage/audit/verification", "Read when the audit trail was last verified", _READ, Reach.ALL),
    Operation("POST", "/manage/audit/verification", "Verify the audit trail", _OPERATE, Reach.ALL),
    Operation("GET", "/manage/audit/{id}", "Show an audit record", _READ, Reach.LISTED),
    Operation("GET", "/manage/cache", "Read figures of the cache", _READ, Reach.ALL),
    Operation("POST", "/manage/cache/purge", "Remove stored responses", _OPERATE, Reach.NAMED),
    Operation("GET", "/manage/keys", "List management keys", _ADMIN, Reach.KEYS),
    Operation("POST", "/manage/keys", "Create a management key", _ADMIN, Reach.KEYS),
    Operation("GET", "/manage/keys/{id}", "Show a management key", _ADMIN, Reach.KEYS),
    Operation("PATCH", "/manage/keys/{id}", "Change a management key", _ADMIN, Reach.KEYS),
    Operation("DELETE", "/manage/keys/{id}", "Revoke a management key", _ADMIN, Reach.KEYS),
    Operation("POST", "/manage/keys/{id}/roll", "Replace a management key's secret", _ADMIN, Reach.KEYS),
    Operation("GET", "/manage/sessions", "List sessions of people", _READ, Reach.ANY),
    Operation("DELETE", "/manage/sessions/{id}", "End a session", _OPERATE, Reach.ANY),
    Operation("GET", "/manage/settings", "Read the settings in force, secrets left out", _ADMIN, Reach.ALL),
    Operation("GET", "/manage/doctor", "Read what is wrong with the installation", _OPERATE, Reach.ALL),
    Operation("GET", "/manage/whoami", "Show the caller", _ALL, Reach.ANY),
    Operation("GET", "/manage/openapi.json", "Read the API's description", _ALL, Reach.ANY),
)
OPERATIONS: Final = {(operation.method, operation.path): operation for operation in _TABLE}


def operation(method: str, path: str) -> Operation:
    """Return the row of a method and path; path parameters are written `{id}`. Raises LookupError without a row."""
    try:
        return OPERATIONS[method, path]
    except KeyError:
        raise LookupError(f"{method} {path} has no row in llm_proxy/access/roles.py") from None
