"""Forms that name no more than their required fields."""

from support.databases import on_sqlite

from .conftest import KEY, Pages

pytestmark = on_sqlite


def test_a_project_is_made_and_changed_by_its_required_fields(pages: Pages) -> None:
    """Name and key make one; a change leaves alone what the form does not name; of two values the last wins."""
    made = pages.post("/projects", name="short form", api_key=KEY)
    assert made.status_code == 303
    project = made.headers["Location"].rpartition("/")[2]
    pages.api("PATCH", f"/projects/{project}", {"event_privacy": "off", "requests_per_minute": 9})
    path = f"/projects/{project}"
    assert pages.post(path, _method="PUT", name="renamed", api_key="", is_active=["false"]).status_code == 303
    shown = pages.api("GET", path)
    assert {name: shown[name] for name in ("name", "is_active", "event_privacy", "requests_per_minute")} == {
        "name": "renamed", "is_active": False, "event_privacy": "off", "requests_per_minute": 9,
    }  # fmt: skip
    assert pages.post(path, _method="PUT", name="renamed", is_active=["false", "true"]).status_code == 303
    assert pages.api("GET", path)["is_active"] is True
    assert pages.post(path, _method="PUT", name="renamed", event_privacy="odd").status_code == 400


def test_small_tables_are_files_too(pages: Pages) -> None:
    """Refusals of a token, consumers of the bus, and a project's keys for providers, for those that see the table."""
    project = pages.api("POST", "/projects", {"name": "small", "api_key": KEY})["id"]
    token = pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})["id"]
    for path, head in (
        (f"/tokens/{token}/refusals", "code,refused_at,request_id,refusals"),
        ("/dispatcher/consumers", "name,pending,undelivered"),
        (f"/projects/{project}/provider-keys", "provider,api_key,created_at,updated_at"),
    ):
        assert pages.get(f"{path}.csv").text.splitlines()[0] == head, path
        assert isinstance(pages.get(f"{path}.json").get_json(), list), path
    assert pages.get("/tokens/nothing/refusals.csv").status_code == 404


def test_a_taken_name_is_told_at_the_name(pages: Pages) -> None:
    """409, the name kept, the key not."""
    pages.api("POST", "/projects", {"name": "taken", "api_key": KEY})
    refused = pages.post("/projects", name="taken", api_key=KEY)
    assert refused.status_code == 409
    assert 'id="name-error">project name already exists' in refused.text
    assert (KEY in refused.text, 'value="taken"' in refused.text) == (False, True)


def test_the_form_of_a_project_with_many_tokens_wants_their_number(pages: Pages) -> None:
    """Without the tick at "Active": 422 and nothing is written until 21 is typed; a new name needs no number."""
    project = pages.api("POST", "/projects", {"name": "large", "api_key": KEY})["id"]
    for _ in range(21):
        pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})
    path, form = f"/projects/{project}", {"_method": "PUT", "is_active": ["false"]}
    refused = pages.post(path, name="renamed", **form)
    assert (refused.status_code, "Type 21 to confirm." in refused.text) == (422, True)
    assert 'name="confirm_count"' in refused.text
    assert pages.api("GET", path)["name"] == "large"
    assert pages.post(path, _method="PUT", name="renamed").status_code == 303
    assert pages.post(path, name="renamed", confirm_count="21", **form).status_code == 303
    assert pages.api("GET", path)["is_active"] is False
