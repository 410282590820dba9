"""/manage/projects: one case per status, on each database."""

import uuid
from typing import Any

import pytest
from support.databases import on_sqlite

from llm_proxy.operations import stats

from .conftest import PROVIDER_KEY, Manager


def _last(manage: Manager) -> dict[str, Any]:
    return manage.audited()[-1]


def test_creation_shows_the_project_and_hides_the_key(manage: Manager) -> None:
    """201, the key obfuscated, a Location and an ETag."""
    response = manage.call("POST", "/projects", {"name": " Team A ", "api_key": PROVIDER_KEY})
    project = response.get_json()
    assert response.status_code == 201
    assert list(project) == [
        "id",
        "name",
        "api_key",
        "is_active",
        "event_privacy",
        "requests_per_minute",
        "tokens_per_minute",
        "max_cost_usd_per_month",
        "created_at",
        "created_by",
        "updated_at",
    ]
    assert (project["name"], project["api_key"], project["is_active"]) == ("Team A", "sk-provi...ghij", True)
    assert project["created_at"].endswith("Z")
    assert response.headers["Location"] == f"/manage/projects/{project['id']}"
    assert response.headers["ETag"]
    assert _last(manage)["action"] == "project.create"
    assert _last(manage)["details"]["project_name"] == "Team A"


def test_openai_api_key_is_an_alias(manage: Manager) -> None:
    """`openai_api_key` is taken; `api_key` wins when both are given."""
    first = manage.call("POST", "/projects", {"name": "a", "openai_api_key": "sk-first-0123456789abcdefg"}).get_json()
    both = {"name": "b", "openai_api_key": "sk-first-0123456789abcdefg", "api_key": "sk-other-0123456789abcdefg"}
    assert first["api_key"].startswith("sk-first")
    assert manage.call("POST", "/projects", both).get_json()["api_key"].startswith("sk-other")


@on_sqlite
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "name and api_key are required"),
        ({"name": "a"}, "name and api_key are required"),
        ({"name": "", "api_key": "k"}, "name and api_key are required"),
        ({"name": "a", "api_key": ""}, "name and api_key are required"),
        ({"name": "a", "api_key": None}, "name and api_key are required"),
        ({"name": "a", "api_key": 5}, "invalid request body"),
        ({"name": ["a"], "api_key": "k"}, "invalid request body"),
        ({"name": "a", "api_key": "sk-12345...6789"},
         "cannot save obfuscated API key - please provide the full API key"),
        ({"name": "a", "api_key": "sk-****"}, "cannot save obfuscated API key - please provide the full API key"),
        ({"name": "a\nb", "api_key": "k"}, "name must be 1 to 255 printable characters"),
        ({"name": "a" * 256, "api_key": "k"}, "name must be 1 to 255 printable characters"),
        ({"name": "a", "api_key": "a b"}, "api_key contains invalid characters"),
        ({"name": "a", "api_key": "ключ"}, "api_key contains invalid characters"),
        ({"name": "a", "api_key": "enc:v1:abc"}, "api_key contains invalid characters"),
        ({"name": "a", "api_key": "k" * 4097}, "api_key contains invalid characters"),
        ({"name": "a", "api_key": "k", "tokens_per_minute": 0}, "tokens_per_minute must be 1 to 2147483647"),
        ({"name": "a", "api_key": "k", "requests_per_minute": 0}, "requests_per_minute must be 1 to 2147483647"),
        ({"name": "a", "api_key": "k", "event_privacy": "odd"}, "event_privacy must be one of full, metadata, off"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_creation_that_is_wrong_is_400(manage: Manager, body: Any, said: str) -> None:
    """400 with the row's text, a failure record, and no project."""
    assert manage.refuses("/projects", body, said, "project.create")["details"]["validation_error"]
    assert manage.call("GET", "/projects").get_json() == []


def test_names_are_unique_by_every_character(manage: Manager) -> None:
    """The same name is 409, another case or accent is another name, on every database."""
    manage.project("Team")
    response = manage.call("POST", "/projects", {"name": "Team", "api_key": PROVIDER_KEY})
    assert response.status_code == 409
    assert response.get_json() == {"error": "project name already exists", "code": "project_exists"}
    other = [manage.project(name)["id"] for name in ("team", "TEAM", "Téam", "Team2")]
    assert len(set(other)) == 4
    response = manage.call("PATCH", f"/projects/{other[0]}", {"name": "Team"})
    assert (response.status_code, response.get_json()["code"]) == (409, "project_exists")


def test_a_list_is_ordered_by_code_point(manage: Manager) -> None:
    """Name ascending by code point, the same everywhere."""
    names = ["b", "B", "a", "ä", "Z", "_", "1", "é"]
    for name in names:
        manage.project(name)
    response = manage.call("GET", "/projects")
    assert [project["name"] for project in response.get_json()] == sorted(names)
    assert _last(manage)["details"]["project_count"] == len(names)


def test_pages_by_number(manage: Manager) -> None:
    """The body stays an array; place and neighbours are in the header fields."""
    for n in range(5):
        manage.project(f"p{n}")
    response = manage.call("GET", "/projects?page=2&page_size=2&search=P")
    assert [project["name"] for project in response.get_json()] == ["p2", "p3"]
    fields = [response.headers[name] for name in ("X-Total-Count", "X-Page", "X-Page-Size", "X-Total-Pages")]
    assert fields == ["5", "2", "2", "3"]
    assert response.headers["Link"] == (
        '<?search=P&page=3&page_size=2>; rel="next", <?search=P&page=1&page_size=2>; rel="prev"'
    )
    assert manage.call("GET", "/projects?page=9").get_json() == []


def test_pages_by_key_see_each_row_once(manage: Manager) -> None:
    """Following `next` gives every project once, in order, also backwards and by time."""
    for n in range(7):
        manage.project(f"p{n}")
    for sort in ("name", "-name", "created_at", "-created_at"):
        seen = [project["name"] for page in manage.pages(f"/projects?limit=3&sort={sort}") for project in page]
        wanted = [f"p{n}" for n in range(7)]
        assert seen == (wanted[::-1] if sort.startswith("-") else wanted), sort


@on_sqlite
@pytest.mark.parametrize(
    ("query", "said"),
    [("page=0", "invalid page"), ("page=x", "invalid page"), ("page=1&page_size=101", "invalid page_size"),
     ("page=1&page_size=0", "invalid page_size"), ("limit=0", "invalid limit"), ("cursor=x", "invalid cursor"),
     ("is_active=perhaps", "invalid is_active"), ("search=" + "a" * 201, "invalid search"),
     ("page=1&limit=1", "page and limit cannot be combined"), ("search=%00", "invalid search"),
     ("sort=colour", "sort must be one of name, created_at, updated_at, with - before it for descending")],
)  # fmt: skip
def test_a_wrong_parameter_is_named(manage: Manager, query: str, said: str) -> None:
    """400 that names the parameter."""
    response = manage.call("GET", f"/projects?{query}")
    assert (response.status_code, response.get_json()) == (400, {"error": said})


def test_a_search_takes_wildcards_literally_and_ignores_case(manage: Manager) -> None:
    """`%` and `_` mean themselves, and letters beyond ASCII have cases too."""
    for name in ("100%", "100 percent", "a_b", "aXb", "Äpfel", "back\\slash", "wow!"):
        manage.project(name)

    def found(query: str) -> list[str]:
        return [
            project["name"] for project in manage.call("GET", "/projects", query_string={"search": query}).get_json()
        ]

    assert found("0%") == ["100%"]
    assert found("A_B") == ["a_b"]
    assert found("äPF") == ["Äpfel"]
    assert found("\\S") == ["back\\slash"]
    assert found("W!") == ["wow!"]


def test_active_projects_can_be_asked_for(manage: Manager) -> None:
    """`is_active` filters."""
    manage.project("on")
    off = manage.project("off")
    manage.call("PATCH", f"/projects/{off['id']}", {"is_active": False})
    assert [project["name"] for project in manage.call("GET", "/projects?is_active=true").get_json()] == ["on"]
    assert [project["name"] for project in manage.call("GET", "/projects?is_active=0").get_json()] == ["off"]


def test_reading_one(manage: Manager) -> None:
    """200 with the project; 404 for an unknown id, other case included; 400 with a slash in it."""
    project = manage.project()
    assert manage.call("GET", f"/projects/{project['id']}").get_json() == project
    assert _last(manage)["action"] == "project.read"
    for unknown in (str(uuid.uuid4()), project["id"].upper(), "x" * 300, "%00", "%F0%9F%98%80"):
        if unknown != project["id"]:
            response = manage.call("GET", f"/projects/{unknown}")
            assert (response.status_code, response.get_json()) == (404, {"error": "project not found"})
    response = manage.call("GET", "/projects/a/b")
    assert (response.status_code, response.get_json()) == (400, {"error": "invalid project id"})


def test_a_patch_writes_what_it_names(manage: Manager) -> None:
    """Name, key and state change one by one; deactivation is timed and taken back."""
    project = manage.project()
    path = f"/projects/{project['id']}"
    assert manage.call("PATCH", path, {"name": "new"}).get_json()["name"] == "new"
    changed = manage.call("PATCH", path, {"api_key": "sk-another-0123456789abcdefghij"}).get_json()
    assert (changed["name"], changed["api_key"]) == ("new", "sk-anoth...ghij")
    assert manage.call("PATCH", path, {"api_key": ""}).get_json()["api_key"] == "sk-anoth...ghij"
    off = manage.call("PATCH", path, {"is_active": False}).get_json()
    assert off["is_active"] is False
    assert off["deactivated_at"]
    assert _last(manage)["details"]["updated_fields"] == ["deactivated_at", "is_active"]
    on = manage.call("PATCH", path, {"is_active": True}).get_json()
    assert "deactivated_at" not in on


def test_an_empty_patch_writes_nothing(manage: Manager) -> None:
    """`{}` and a value that is there already are 200 on every database."""
    project = manage.project()
    response = manage.call("PATCH", f"/projects/{project['id']}", {})
    assert (response.status_code, response.get_json()) == (200, project)
    assert manage.call("PATCH", f"/projects/{project['id']}", {"name": "team"}).status_code == 200


@on_sqlite
@pytest.mark.parametrize(
    ("body", "said"),
    [({"name": ""}, "name must be 1 to 255 printable characters"),
     ({"revoke_tokens": True}, "revoke_tokens requires is_active=false"),
     ({"revoke_tokens": False, "is_active": True}, "revoke_tokens requires is_active=false"),
     ({"is_active": "no"}, "invalid request body"), ({"is_active": 0}, "invalid request body"),
     ({"api_key": "sk-...x"}, "cannot save obfuscated API key - please provide the full API key"),
     ({"tokens_per_minute": -1}, "tokens_per_minute must be 1 to 2147483647")],
)  # fmt: skip
def test_a_patch_that_is_wrong_is_400(manage: Manager, body: Any, said: str) -> None:
    """400 with the row's text; nothing is written."""
    project = manage.project()
    response = manage.call("PATCH", f"/projects/{project['id']}", body)
    assert (response.status_code, response.get_json()) == (400, {"error": said})
    assert manage.call("GET", f"/projects/{project['id']}").get_json() == project


def test_a_patch_of_an_unknown_id_is_404(manage: Manager) -> None:
    """404, recorded with what was asked for."""
    response = manage.call("PATCH", "/projects/nobody", {"name": "x"})
    assert (response.status_code, response.get_json()) == (404, {"error": "project not found"})
    assert _last(manage)["details"]["error_type"] == "project not found"
    assert _last(manage)["details"]["provided_id"] == "nobody"


def test_a_patch_can_revoke_the_tokens(manage: Manager) -> None:
    """`revoke_tokens` works with deactivation, and also when the project was inactive before."""
    project = manage.project()
    tokens = [manage.token(project["id"]) for _ in range(3)]
    path = f"/projects/{project['id']}"
    manage.call("PATCH", path, {"is_active": False})
    assert manage.call("GET", f"/tokens/{tokens[0]['id']}").get_json()["is_active"] is True
    assert manage.call("PATCH", path, {"is_active": False, "revoke_tokens": True}).status_code == 200
    assert _last(manage)["details"]["tokens_revoked"] == 3
    assert manage.call("GET", f"/tokens/{tokens[0]['id']}").get_json()["status"] == "revoked"


def test_if_match_guards_a_patch(manage: Manager) -> None:
    """A tag of an older state is 412 and changes nothing; the present one, `*` and none pass."""
    project = manage.project()
    path = f"/projects/{project['id']}"
    tag = manage.call("GET", path).headers["ETag"]
    changed = manage.call("PATCH", path, {"name": "b"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    stale = manage.call("PATCH", path, {"name": "c"}, headers={"If-Match": tag})
    assert stale.status_code == 412
    assert stale.get_json() == {"error": "precondition failed", "code": "precondition_failed"}
    weak = manage.call("PATCH", path, {"name": "c"}, headers={"If-Match": "W/" + changed.headers["ETag"]})
    assert weak.status_code == 412
    both = f'"other", {changed.headers["ETag"]}'
    assert manage.call("PATCH", path, {"name": "d"}, headers={"If-Match": both}).status_code == 200
    assert manage.call("PATCH", path, {"name": "e"}, headers={"If-Match": "*"}).status_code == 200


def test_deletion_is_never_allowed(manage: Manager) -> None:
    """405 with its own message, whichever project is meant."""
    response = manage.call("DELETE", "/projects/nobody")
    assert response.status_code == 405
    assert response.get_json() == {"error": "method not allowed", "message": "project deletion is not permitted"}
    assert response.headers["Allow"] == "GET, PATCH"
    record = _last(manage)
    assert (record["action"], record["result"]) == ("project.delete", "failure")
    assert record["details"]["error_type"] == "method not allowed"


def test_bulk_revocation_counts(manage: Manager) -> None:
    """200 with counts, idempotent, other projects untouched; 404; 400 without an id."""
    project, other = manage.project("a"), manage.project("b")
    tokens = [manage.token(project["id"]) for _ in range(3)]
    kept = manage.token(other["id"])
    manage.call("DELETE", f"/tokens/{tokens[0]['id']}")
    first = manage.call("GET", f"/tokens/{tokens[0]['id']}").get_json()["deactivated_at"]
    path = f"/projects/{project['id']}/tokens/revoke"
    counts = manage.call("POST", path).get_json()
    assert counts == {"revoked_count": 2, "already_revoked_count": 1, "total_tokens": 3}
    assert manage.call("POST", path, b"junk").get_json()["already_revoked_count"] == 3
    assert manage.call("GET", f"/tokens/{tokens[0]['id']}").get_json()["deactivated_at"] == first
    assert manage.call("GET", f"/tokens/{kept['id']}").get_json()["is_active"] is True
    response = manage.call("POST", "/projects/nobody/tokens/revoke")
    assert (response.status_code, response.get_json()) == (404, {"error": "project not found"})
    response = manage.call("POST", "/projects//tokens/revoke")
    assert (response.status_code, response.get_json()) == (400, {"error": "invalid path"})


def test_a_key_that_does_not_open_spoils_its_own_row_only(manage: Manager) -> None:
    """A tampered key shows as `****`, and the list is whole."""
    from sqlalchemy import text

    good, bad = manage.project("good"), manage.project("bad")
    with manage.app.services.engine.begin() as connection:
        connection.execute(
            text("UPDATE projects SET api_key = (SELECT k FROM (SELECT api_key k FROM projects WHERE id = :good) x)"
                 " WHERE id = :bad"), {"good": good["id"], "bad": bad["id"]},
        )  # fmt: skip
    shown = {project["name"]: project["api_key"] for project in manage.call("GET", "/projects").get_json()}
    assert shown == {"good": "sk-provi...ghij", "bad": "****"}


def test_a_list_tells_token_counts_where_it_is_asked(manage: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """By page number, by cursor and whole; a project with more tokens than are counted says so."""
    monkeypatch.setattr(stats, "MOST", 2)
    monkeypatch.setattr(stats, "_AT_ONCE", 2)
    for name, tokens in (("none", 0), ("two", 2), ("three", 3)):
        project = manage.project(name)["id"]
        for _ in range(tokens):
            manage.token(project)
    wanted = {
        "none": {"count": 0, "is_more": False},
        "three": {"count": 2, "is_more": True},
        "two": {"count": 2, "is_more": False},
    }
    for place in ("", "&page=1", "&limit=3"):
        found = manage.call("GET", f"/projects?token_counts=true{place}").get_json()
        assert {project["name"]: project["tokens"] for project in found} == wanted, place
    assert "tokens" not in manage.call("GET", "/projects").get_json()[0]
    assert manage.call("GET", "/projects?token_counts=many").status_code == 400
