"""Management keys over REST, on each database: shown once, stored as hashes, never stronger than their maker."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from llm_proxy.access.secret import is_well_formed, new_secret
from llm_proxy.db.types import to_column

from .conftest import Manager

MEMBERS = ["id", "name", "role", "projects", "expires_at", "created_at", "created_by", "last_used_at"]


def _made(manage: Manager, name: str = "ci", role: str = "admin", by: str | None = None, **more: Any) -> dict[str, Any]:
    response = _as(manage, by, "POST", "/keys", {"name": name, "role": role, **more})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.get_json()
    return found


def _as(manage: Manager, secret: str | None, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
    """Call with a key, or as root."""
    credential = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return manage.call(method, path, body, headers={**credential, **headers})


def test_a_key_is_shown_once(manage: Manager) -> None:
    """Creation returns the key; no other response, no column and no audit record holds it."""
    made = _made(manage, projects=None, duration_minutes=60)
    assert list(made) == [*MEMBERS, "key"]
    assert is_well_formed(made["key"])
    assert (made["created_by"], made["projects"], made["last_used_at"]) == ("root", None, None)
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert abs(lifetime - timedelta(minutes=60)) < timedelta(seconds=5)
    shown = manage.call("GET", f"/keys/{made['id']}").get_json()
    assert shown == {name: made[name] for name in MEMBERS}
    assert manage.call("GET", "/keys").get_json() == [shown]
    with manage.app.services.engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM management_keys")).all())
    assert made["key"] not in stored + manage.audit_file.read_text() + "".join(manage.responses[1:])


def test_whoami_tells_the_caller_its_rights(manage: Manager) -> None:
    """For the root token, an unlimited key and a limited one."""
    project = manage.project()
    root = {"actor": "root", "role": "admin", "projects": None, "expires_at": None}
    assert manage.call("GET", "/whoami").get_json() == root
    made = _made(manage, "sandbox", "issuer", projects=[project["id"]])
    who = _as(manage, made["key"], "GET", "/whoami").get_json()
    assert who == {"actor": "key:sandbox", "role": "issuer", "projects": [project["id"]], "expires_at": None}
    assert manage.call("GET", f"/keys/{made['id']}").get_json()["last_used_at"] is not None


def test_a_roll_keeps_the_id_and_the_old_secret_for_its_overlap(manage: Manager) -> None:
    """Without an overlap the old secret is dead at once; with one both work; a second roll ends the first overlap."""
    made = _made(manage)
    path = f"/keys/{made['id']}/roll"
    second = manage.call("POST", path).get_json()
    assert second["id"] == made["id"]
    assert second["key"] != made["key"]
    assert _as(manage, made["key"], "GET", "/whoami").status_code == 401
    third = manage.call("POST", path, {"overlap_minutes": 60}).get_json()
    assert [_as(manage, key["key"], "GET", "/whoami").status_code for key in (second, third)] == [200, 200]
    fourth = manage.call("POST", path, {"overlap_minutes": 60}).get_json()
    assert [_as(manage, key["key"], "GET", "/whoami").status_code for key in (second, third, fourth)] == [401, 200, 200]
    with manage.app.services.engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        values = {"at": to_column(connection.dialect.name, past)}
        connection.execute(text("UPDATE management_keys SET previous_until = :at"), values)
    manage.app.services.key_directory.forget()
    assert _as(manage, third["key"], "GET", "/whoami").status_code == 401


def test_a_revoked_key_is_refused_and_its_name_is_free(manage: Manager) -> None:
    """204, then 401 for its secret, 404 for its id, and a second key of the name."""
    made = _made(manage)
    assert _as(manage, made["key"], "GET", "/whoami").status_code == 200
    assert manage.call("DELETE", f"/keys/{made['id']}").status_code == 204
    refused = _as(manage, made["key"], "GET", "/whoami")
    assert (refused.status_code, refused.get_json()["error"]) == (401, "invalid management token")
    assert manage.call("DELETE", f"/keys/{made['id']}").status_code == 404
    _made(manage)


def test_names_are_unique(manage: Manager) -> None:
    """409 on creation and on PATCH."""
    _made(manage, "a")
    other = _made(manage, "b")
    for response in (
        manage.call("POST", "/keys", {"name": "a", "role": "viewer"}),
        manage.call("PATCH", f"/keys/{other['id']}", {"name": "a"}),
    ):
        assert (response.status_code, response.get_json()["code"]) == (409, "key_exists")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "x\n", "role": "viewer "}, "role"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x"}, "role"),
        ({"name": "x", "role": "viewer", "projects": []}, "projects"),
        ({"name": "x", "role": "viewer", "projects": "all"}, "projects"),
        ({"name": "x", "role": "viewer", "projects": ["no-such-project"]}, "projects"),
        ({"name": "x", "role": "viewer", "projects": ["\u00e9"]}, "projects"),
        ({"name": "x", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "2090-01-01"}, "expires_at"),
        ({"name": "x", "role": "viewer", "duration_minutes": 0}, "duration_minutes"),
        (
            {"name": "x", "role": "viewer", "duration_minutes": 5, "expires_at": "2090-01-01T00:00:00Z"},
            "duration_minutes",
        ),
    ],
)
def test_bad_input_names_the_field(manage: Manager, body: dict[str, Any], named: str) -> None:
    """400, and the field is in the text."""
    response = manage.call("POST", "/keys", body)
    assert response.status_code == 400, response.text
    assert named in response.get_json()["error"]


def test_etags_guard_changes(manage: Manager) -> None:
    """A roll changes the tag; PATCH, DELETE and roll with the old one are 412."""
    made = _made(manage)
    path = f"/keys/{made['id']}"
    tag = manage.call("GET", path).headers["ETag"]
    assert manage.call("POST", f"{path}/roll", headers={"If-Match": tag}).status_code == 200
    for method, where, body in (("PATCH", path, {"name": "z"}), ("DELETE", path, None), ("POST", f"{path}/roll", None)):
        assert manage.call(method, where, body, headers={"If-Match": tag}).status_code == 412


def test_an_idempotency_key_belongs_to_its_caller(manage: Manager) -> None:
    """The same key and body from another caller is another creation: nothing of the first response is shown."""
    project = manage.project()
    first, second = _made(manage, "first", "issuer"), _made(manage, "second", "issuer")
    body = {"project_id": project["id"], "duration_minutes": 5}
    header = {"Idempotency-Key": "same"}
    made = [_as(manage, key, "POST", "/tokens", body, **header) for key in (None, first["key"], second["key"])]
    assert [response.status_code for response in made] == [200] * 3
    assert len({response.get_json()["token"] for response in made}) == 3
    again = _as(manage, first["key"], "POST", "/tokens", body, **header)
    assert again.get_json() == made[1].get_json()
    assert again.headers["Idempotent-Replayed"] == "true"
    narrowed = manage.call("PATCH", f"/keys/{first['id']}", {"projects": [manage.project("other")["id"]]})
    assert narrowed.status_code == 200
    assert _as(manage, first["key"], "POST", "/tokens", body, **header).status_code == 404


def test_a_limited_admin_makes_nothing_wider(manage: Manager) -> None:
    """Wider, foreign or longer keys are refused, on creation and by PATCH; stronger ones cannot be seen or touched."""
    mine, foreign = manage.project("mine"), manage.project("foreign")
    boss = _made(manage, "boss", "admin")
    limited = _made(manage, "limited", "admin", projects=[mine["id"]], duration_minutes=60)
    key = limited["key"]
    wide = {"name": "w", "role": "viewer"}
    assert _as(manage, key, "POST", "/keys", wide).status_code == 403
    assert _as(manage, key, "POST", "/keys", {**wide, "projects": [foreign["id"]]}).status_code == 400
    assert _as(manage, key, "POST", "/keys", {**wide, "projects": [mine["id"]], "expires_at": None}).status_code == 403
    own = _made(manage, "own", "operator", by=key, projects=[mine["id"]])
    assert own["expires_at"] == limited["expires_at"]
    assert own["created_by"] == "key:limited"
    visible = _as(manage, key, "GET", "/keys").get_json()
    assert [item["name"] for item in visible] == ["limited", "own"]
    assert _as(manage, key, "GET", "/keys?limit=1").get_json() == visible[:1]
    for path in (f"/keys/{boss['id']}", f"/keys/{boss['id']}/roll"):
        method = "POST" if path.endswith("roll") else "DELETE"
        assert _as(manage, key, method, path).status_code == 404
    for patch in ({"projects": None}, {"expires_at": None}, {"duration_minutes": 5000}):
        assert _as(manage, key, "PATCH", f"/keys/{limited['id']}", patch).status_code == 403
    assert _as(manage, key, "PATCH", f"/keys/{own['id']}", {"role": "issuer"}).status_code == 200


def test_an_admin_that_expires_takes_over_no_key_that_does_not(manage: Manager) -> None:
    """Rolling a key that outlives the caller, or giving it rights, would outlive the caller."""
    lasting, weak = _made(manage, "lasting"), _made(manage, "weak", "viewer")
    brief = _made(manage, "brief", duration_minutes=5)["key"]
    assert _as(manage, brief, "POST", f"/keys/{lasting['id']}/roll").status_code == 403
    assert _as(manage, brief, "PATCH", f"/keys/{weak['id']}", {"role": "admin"}).status_code == 403
    assert _as(manage, brief, "PATCH", f"/keys/{weak['id']}", {"name": "renamed"}).status_code == 200


def test_actors_are_named_everywhere(manage: Manager) -> None:
    """created_by, audit records with the key's id, and the audit filter; the chain verifies."""
    project = manage.project()
    made = _made(manage, "maker", "operator")
    token = _as(manage, made["key"], "POST", "/tokens", {"project_id": project["id"], "duration_minutes": 5}).get_json()
    assert manage.call("GET", f"/tokens/{token['id']}").get_json()["created_by"] == "key:maker"
    assert manage.call("GET", f"/projects/{project['id']}").get_json()["created_by"] == "root"
    found = manage.call("GET", "/audit?actor=key:maker").get_json()["events"]
    assert [event["action"] for event in found] == ["token.create"]
    assert made["id"] in found[0]["metadata"]


def test_wrong_keys_are_throttled(manage: Manager) -> None:
    """The 21st wrong key a minute gets 429; the right one still works."""
    made = _made(manage)
    seen = [_as(manage, new_secret(), "GET", "/whoami").status_code for _ in range(21)]
    assert seen == [401] * 20 + [429]
    assert _as(manage, made["key"], "GET", "/whoami").status_code == 200


def test_an_expired_key_is_told_so(manage: Manager) -> None:
    """401 with its own code."""
    made = _made(manage, duration_minutes=5)
    with manage.app.services.engine.begin() as connection:
        values = {"at": to_column(connection.dialect.name, datetime.now(UTC))}
        connection.execute(text("UPDATE management_keys SET expires_at = :at"), values)
    refused = _as(manage, made["key"], "GET", "/whoami")
    assert (refused.status_code, refused.get_json()["code"]) == (401, "key_expired")


def test_a_secret_in_a_path_is_refused_and_not_recorded(manage: Manager) -> None:
    """400 says to use the id; no audit record holds the secret."""
    made = _made(manage)
    assert manage.call("GET", f"/keys/{made['key']}").status_code == 400
    assert made["key"] not in manage.audit_file.read_text()
