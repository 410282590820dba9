"""Bodies that create and change management keys: what is taken, and which field is named otherwise."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_proxy.access.key import KeyPatch, NewKey, projects_of, stored_projects
from llm_proxy.access.roles import Role
from llm_proxy.errors import BadRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {"name": " ci ", "role": "issuer"}


def test_a_creation() -> None:
    """The name is trimmed, all projects are meant where none is named, and no end is said."""
    assert NewKey.from_json(GOOD, NOW) == NewKey("ci", Role.ISSUER, None, None, False)


@pytest.mark.parametrize(
    ("end", "expires_at"),
    [
        ({"duration_minutes": 60}, NOW + timedelta(hours=1)),
        ({"expires_at": "2026-01-01T02:00:00+01:00"}, NOW + timedelta(hours=1)),
        ({"expires_at": None}, None),
    ],
)
def test_an_end_is_said(end: dict[str, Any], expires_at: datetime | None) -> None:
    """By a duration, by an instant, or as none."""
    new = NewKey.from_json({**GOOD, **end}, NOW)
    assert (new.expires_at, new.says_expiry) == (expires_at, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 1}, "name"),
        ({"role": "root"}, "role"),
        ({"role": None}, "role"),
        ({"projects": []}, "projects"),
        ({"projects": "p"}, "projects"),
        ({"projects": [1]}, "projects"),
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"duration_minutes": True}, "duration_minutes"),
        ({"duration_minutes": 1, "expires_at": "2027-01-01T00:00:00Z"}, "duration_minutes"),
        ({"expires_at": "2025-12-31T23:59:59Z"}, "expires_at"),
        ({"expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
    ],
)
def test_a_refusal_names_the_field(body: dict[str, Any], param: str) -> None:
    """In creations and in changes alike."""
    for read in (lambda: NewKey.from_json({**GOOD, **body}, NOW), lambda: KeyPatch.from_json(body, NOW)):
        with pytest.raises(BadRequest) as refused:
            read()
        assert refused.value.param == param


def test_a_change_holds_what_is_named_alone() -> None:
    """`null` projects mean all, and are a change; an empty body is none."""
    assert KeyPatch.from_json({"projects": None}, NOW).values == {"projects": None}
    assert KeyPatch.from_json({"role": "viewer"}, NOW).values == {"role": Role.VIEWER}
    with pytest.raises(BadRequest):
        KeyPatch.from_json({}, NOW)


@pytest.mark.parametrize("projects", [None, frozenset({"a", "b"})])
def test_projects_are_read_as_they_were_written(projects: frozenset[str] | None) -> None:
    """All, or a sorted list."""
    assert projects_of(stored_projects(projects)) == projects
