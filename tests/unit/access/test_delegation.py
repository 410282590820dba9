"""A viewer named in a signed field: only of this credential and request, and never with more than either has."""

from datetime import UTC, datetime, timedelta

import pytest

from llm_proxy.access.caller import ROOT, Caller
from llm_proxy.access.delegation import Viewer, delegated, sign
from llm_proxy.access.key import Key
from llm_proxy.access.roles import Role
from llm_proxy.errors import Forbidden, Unauthorized, ViewerEnded

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = Key("k1", "anna", Role.OPERATOR, frozenset({"p"}), None, NOW, "root", None, None, "hash", None)
VIEWER = Viewer("k1", "hash", Role.OPERATOR, frozenset({"p"}))
ROOT_VIEWER = Viewer(None, "root-hash", Role.ADMIN, None)


class _Known:
    def __init__(self, key: Key | None = KEY) -> None:
        self._key = key

    def by_id(self, key_id: str) -> Key | None:
        return self._key if self._key is not None and key_id == self._key.id else None

    def is_root_fingerprint(self, fingerprint: str) -> bool:
        return fingerprint == "root-hash"


def _told(
    viewer: Viewer = VIEWER,
    *,
    own: Caller = ROOT,
    signed: str = "secret",
    path: str = "/manage/tokens",
    known: _Known | None = None,
    now: datetime = NOW,
) -> Caller:
    field = sign(viewer, signed, "GET", "/manage/tokens", NOW.timestamp())
    there = known or _Known()
    return delegated(field, "secret", own, "GET", path, there, there, now)


def test_viewer_acts_under_its_own_name_and_limits() -> None:
    """The actor is the key's, whatever the signer says; the rights are those of the sign-in."""
    found = _told(Viewer("k1", "hash", Role.ISSUER, frozenset({"p"})))
    assert (found.actor, found.role, found.projects) == ("key:anna", Role.ISSUER, frozenset({"p"}))
    assert _told(ROOT_VIEWER) == ROOT


def test_a_person_acts_under_the_name_that_the_process_vouches_for() -> None:
    """Never with more than the process's own credential has, whose key the record names; no other kind of actor."""
    anna = Viewer(None, "settings", Role.OPERATOR, frozenset({"p"}), "oidc:anna@example.org")
    own = Caller("key:ui", Role.OPERATOR, frozenset({"p"}), "k9")
    found = _told(anna, own=own)
    assert (found.actor, found.role, found.key_id) == ("oidc:anna@example.org", Role.OPERATOR, "k9")
    with pytest.raises(Forbidden):
        _told(Viewer(None, "settings", Role.ADMIN, None, "oidc:eve@example.org"), own=own)
    with pytest.raises(Unauthorized):
        _told(Viewer(None, "settings", Role.OPERATOR, frozenset({"p"}), "root"), own=own)


@pytest.mark.parametrize(
    "wrong",
    [{"signed": "other"}, {"path": "/manage/keys"}, {"now": NOW + timedelta(seconds=61)}],
    ids=["credential", "path", "age"],
)
def test_field_is_of_this_credential_request_and_minute(wrong: dict[str, object]) -> None:
    """Anything else is refused."""
    with pytest.raises(Unauthorized):
        _told(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("viewer", "known"),
    [
        (VIEWER, _Known(None)),
        (Viewer("k1", "old", Role.OPERATOR, frozenset({"p"})), None),
        (Viewer("k1", "hash", Role.ADMIN, frozenset({"p"})), None),
        (Viewer("k1", "hash", Role.OPERATOR, None), None),
        (Viewer(None, "old-root-hash", Role.ADMIN, None), None),
    ],
    ids=["revoked", "rolled", "stronger", "all projects", "root replaced"],
)
def test_viewer_ends_with_its_credential(viewer: Viewer, known: _Known | None) -> None:
    """A key that is gone, rolled or narrowed, and a root token that was replaced, end the session."""
    with pytest.raises(ViewerEnded):
        _told(viewer, known=known)


def test_viewer_has_no_more_than_the_signer() -> None:
    """A viewer's credential hands on no admin."""
    with pytest.raises(Forbidden):
        _told(ROOT_VIEWER, own=Caller("key:ui", Role.OPERATOR))
