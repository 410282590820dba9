"""A viewer of the admin UI, named by the UI's own process in a field that it signs under its credential.

The field binds the viewer to one method, path and minute. The viewer never has more rights than the credential that
signs, nor than what the viewer signed in with has now: the root token, or a management key.
"""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from llm_proxy.access.caller import ROOT, Caller, Projects
from llm_proxy.access.key import Key
from llm_proxy.access.roles import Role
from llm_proxy.errors import Forbidden, Unauthorized, ViewerEnded

FIELD = "X-Admin-Viewer"
PERSON = "oidc:"  # an actor of this kind
_VALID_S = 60.0
_LONGEST = 16_384


@dataclass(frozen=True, slots=True)
class Viewer:
    """What a person signed in with, and the rights that this had then.

    Attributes:
        key_id: Of the management key; None: the root token.
        fingerprint: Hash of what was presented.
        person: Actor of a person whom an OpenID provider vouches for to the UI's process; None for keys and root.
    """

    key_id: str | None
    fingerprint: str
    role: Role
    projects: Projects
    person: str | None = None


class Keys(Protocol):
    """Finds management keys."""

    def by_id(self, key_id: str) -> Key | None:
        """Return the key, None when it is gone."""


class Roots(Protocol):
    """Knows the root token."""

    def is_root_fingerprint(self, fingerprint: str) -> bool:
        """Whether this is the hash of a root token that is valid now."""


def sign(viewer: Viewer, credential: str, method: str, path: str, at_s: float | None = None) -> str:
    """Return the field's value for one request."""
    said = {
        "key_id": viewer.key_id,
        "fingerprint": viewer.fingerprint,
        "role": viewer.role.value,
        "projects": None if viewer.projects is None else sorted(viewer.projects),
        "person": viewer.person,
        "at": time.time() if at_s is None else at_s,
    }
    content = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
    return f"{content}.{_seal(content, credential, method, path)}"


def delegated(
    field: str,
    credential: str,
    own: Caller,
    method: str,
    path: str,
    keys: Keys,
    roots: Roots,
    now: datetime,
) -> Caller:
    """Return the caller that a signed field makes of the credential's own.

    Raises:
        Forbidden: The viewer has more rights than the credential.
        Unauthorized: The field is not one of this credential and request, or is too old.
        ViewerEnded: What the viewer signed in with is gone, or has fewer rights now.
    """
    viewer = _opened(field, credential, method, path, now)
    caller = _person(viewer, own) if viewer.person is not None else _live(viewer, keys, roots, now)
    if not own.covers(caller.role, caller.projects):
        raise Forbidden("this person has more rights than the credential of the admin UI: give that one the same role")
    return caller


def _person(viewer: Viewer, own: Caller) -> Caller:
    """Return a person that the process has signed in itself; the record names the process's key as well."""
    if not str(viewer.person).startswith(PERSON):
        raise Unauthorized(f"{FIELD} names a person that no OpenID provider vouches for")
    return Caller(str(viewer.person), viewer.role, viewer.projects, own.key_id, own.expires_at)


def _live(viewer: Viewer, keys: Keys, roots: Roots, now: datetime) -> Caller:
    if viewer.key_id is None:
        if not roots.is_root_fingerprint(viewer.fingerprint):
            raise ViewerEnded
        return ROOT
    key = keys.by_id(viewer.key_id)
    if key is None or key.is_expired(now) or not key.opens_with(viewer.fingerprint, now):
        raise ViewerEnded
    if not key.caller().covers(viewer.role, viewer.projects):
        raise ViewerEnded
    return replace(key.caller(), role=viewer.role, projects=viewer.projects)


def _opened(field: str, credential: str, method: str, path: str, now: datetime) -> Viewer:
    content, _, seal = field.partition(".")
    if len(field) > _LONGEST or not hmac.compare_digest(seal, _seal(content, credential, method, path)):
        raise Unauthorized(f"{FIELD} is not signed under this credential for this request")
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(content))
    if abs(now.timestamp() - said["at"]) > _VALID_S:
        raise Unauthorized(f"{FIELD} is too old: the clocks of the admin UI and the proxy differ")
    projects = said["projects"]
    within = None if projects is None else frozenset(projects)
    return Viewer(said["key_id"], said["fingerprint"], Role(said["role"]), within, said.get("person"))


def _seal(content: str, credential: str, method: str, path: str) -> str:
    said = "\n".join(("llm-proxy viewer", method, path, content))
    return hmac.new(credential.encode("utf-8", "replace"), said.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
