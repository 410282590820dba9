"""/manage/tokens: one case per status, on each database."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from support.databases import on_sqlite

from llm_proxy.db.types import to_column

from .conftest import Manager

SHOWN = {
    "id", "token", "project_id", "name", "metadata", "providers", "expires_at", "is_active", "deactivated_at", "status",
    "request_count", "max_requests", "idle_timeout_minutes", "requests_per_minute", "tokens_per_minute",
    "max_total_tokens", "max_cost_usd", "total_tokens", "total_cost_usd", "created_at", "created_by",
    "last_used_at", "cache_hit_count", "description",
}  # fmt: skip


def _last(manage: Manager) -> dict[str, Any]:
    return manage.audited()[-1]


def _set(manage: Manager, token_id: str, **values: Any) -> None:
    engine = manage.app.services.engine
    bound = {k: to_column(engine.dialect.name, v) if isinstance(v, datetime) else v for k, v in values.items()}
    with engine.begin() as connection:
        columns = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(text(f"UPDATE tokens SET {columns} WHERE id = :id"), {**bound, "id": token_id})


def test_creation_shows_the_bearer_once(manage: Manager) -> None:
    """200 with the bearer; nothing else ever shows it."""
    project = manage.project()
    response = manage.call("POST", "/tokens", {"project_id": project["id"], "duration_minutes": 60})
    token = response.get_json()
    assert response.status_code == 200
    assert "max_requests" not in token
    assert len(token["token"]) == 25
    lifetime = datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < lifetime <= timedelta(minutes=60)
    shown = manage.call("GET", f"/tokens/{token['id']}").get_json()
    assert set(shown) == SHOWN
    assert shown["token"] == token["token"][:7] + "*" * 14 + token["token"][-4:]
    record = [found for found in manage.audited() if found["action"] == "token.create"][-1]
    assert record["project_id"] == project["id"]
    assert record["details"]["token_id"] == token["id"]
    assert record["details"]["duration_minutes"] == 60


@pytest.mark.parametrize(
    ("body", "minutes"),
    [({"duration_minutes": 525600}, 525600), ({"duration_hours": 2}, 120), ({"expires_in_days": 3}, 4320)],
)
def test_a_duration_has_three_names(manage: Manager, body: dict[str, int], minutes: int) -> None:
    """Minutes, hours and days, up to a year."""
    project = manage.project()
    token = manage.call("POST", "/tokens", {"project_id": project["id"], **body}).get_json()
    lifetime = datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])
    assert lifetime == timedelta(minutes=minutes)


def test_a_limit_is_kept_exactly(manage: Manager) -> None:
    """`max_requests` up to 2147483647 is shown as given; 0 and null are unlimited."""
    project = manage.project()
    largest = manage.token(project["id"], max_requests=2147483647)
    assert largest["max_requests"] == 2147483647
    assert manage.call("GET", f"/tokens/{largest['id']}").get_json()["max_requests"] == 2147483647
    for unlimited in (0, None):
        token = manage.token(project["id"], max_requests=unlimited)
        assert "max_requests" not in token
        assert manage.call("GET", f"/tokens/{token['id']}").get_json()["max_requests"] is None


def test_name_and_metadata_are_kept(manage: Manager) -> None:
    """What a user notes beside a token comes back as it was."""
    project = manage.project()
    metadata = {"team": "ä", "n": 1, "f": 1.5, "b": True, "none": None}
    token = manage.token(project["id"], name=" ci ", metadata=metadata)
    shown = manage.call("GET", f"/tokens/{token['id']}").get_json()
    assert (shown["name"], shown["metadata"]) == ("ci", metadata)
    changed = manage.call("PATCH", f"/tokens/{token['id']}", {"name": "x", "metadata": None}).get_json()
    assert (changed["name"], changed["metadata"]) == ("x", None)


@on_sqlite
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"project_id": 5, "duration_minutes": 1}, "invalid request body"),
        ({"project_id": "p", "duration_minutes": "60"}, "invalid request body"),
        ({"project_id": "p", "duration_minutes": 1.5}, "invalid request body"),
        ({"project_id": "p", "duration_minutes": True}, "invalid request body"),
        ({"project_id": "p", "duration_minutes": 10**30}, "invalid request body"),
        ({"project_id": "p"}, "project_id and duration_minutes are required"),
        ({}, "project_id and duration_minutes are required"),
        ({"project_id": "p", "duration_minutes": 0}, "project_id and duration_minutes are required"),
        ({"project_id": "p", "duration_minutes": -5}, "project_id and duration_minutes are required"),
        ({"project_id": "p", "duration_minutes": 525601}, "duration_minutes exceeds maximum allowed"),
        ({"project_id": "p", "expires_in_days": 366}, "duration_minutes exceeds maximum allowed"),
        ({"project_id": "p", "duration_minutes": 1, "duration_hours": 1},
         "only one of duration_minutes, duration_hours, expires_in_days may be set"),
        ({"duration_minutes": 1}, "project_id is required"),
        ({"project_id": "", "duration_minutes": 1}, "project_id is required"),
        ({"project_id": "p", "duration_minutes": 1, "max_requests": -1}, "max_requests must be >= 0"),
        ({"project_id": "p", "duration_minutes": 1, "max_requests": 2**31}, "max_requests must be <= 2147483647"),
        ({"project_id": "p", "duration_minutes": 1, "max_total_tokens": 0},
         "max_total_tokens must be 1 to 9007199254740991"),
        ({"project_id": "p", "duration_minutes": 1, "tokens_per_minute": "many"},
         "tokens_per_minute must be 1 to 2147483647"),
        ({"project_id": "p", "duration_minutes": 1, "max_cost_usd": "0"},
         "max_cost_usd must be more than 0 and at most 1000000000, with at most 6 decimals"),
        ({"project_id": "p", "duration_minutes": 1, "max_cost_usd": 0.0000001},
         "max_cost_usd must be more than 0 and at most 1000000000, with at most 6 decimals"),
        ({"project_id": "p", "duration_minutes": 1, "idle_timeout_minutes": 0},
         "idle_timeout_minutes must be 1 to 525600"),
        ({"project_id": "p", "duration_minutes": 1, "idle_timeout_minutes": 525601},
         "idle_timeout_minutes must be 1 to 525600"),
        ({"project_id": "p", "duration_minutes": 1, "name": ""}, "name must be 1 to 255 printable characters"),
        ({"project_id": "p", "duration_minutes": 1, "metadata": {"a": {}}},
         "metadata must be a flat object of at most 16 keys"),
        ({"project_id": "p", "duration_minutes": 1, "metadata": {str(n): 1 for n in range(17)}},
         "metadata must be a flat object of at most 16 keys"),
        ({"project_id": "p", "duration_minutes": 1, "metadata": {"a": "x" * 1024}},
         "metadata must not exceed 1024 bytes"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_creation_that_is_wrong_is_400(manage: Manager, body: Any, said: str) -> None:
    """400 with the row's text, in the row's order, and a failure record."""
    manage.refuses("/tokens", body, said, "token.create")


def test_a_creation_needs_an_active_project(manage: Manager) -> None:
    """404 for an unknown project, 403 for an inactive one."""
    response = manage.call("POST", "/tokens", {"project_id": "nobody", "duration_minutes": 1})
    assert (response.status_code, response.get_json()) == (404, {"error": "project not found"})
    project = manage.project()
    manage.call("PATCH", f"/projects/{project['id']}", {"is_active": False})
    response = manage.call("POST", "/tokens", {"project_id": project["id"], "duration_minutes": 1})
    assert response.status_code == 403
    wanted = {"error": "cannot create tokens for inactive projects", "code": "project_inactive"}
    assert response.get_json() == wanted
    assert _last(manage)["details"]["error_type"] == "project_inactive"


class TestDefaults:
    """DEFAULT_TOKEN_LIFETIME and DEFAULT_TOKEN_REQUEST_LIMIT."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """A day, and 7 requests."""
        return {"tokens.default_lifetime_s": 86400.0, "tokens.default_request_limit": 7}

    def test_what_is_not_said_is_filled_in(self, manage: Manager) -> None:
        """Without duration and limit the defaults apply; an explicit 0 or null is unlimited."""
        project = manage.project()
        token = manage.call("POST", "/tokens", {"project_id": project["id"]}).get_json()
        lifetime = datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])
        assert (lifetime, token["max_requests"]) == (timedelta(days=1), 7)
        for unlimited in (0, None):
            asked = {"project_id": project["id"], "max_requests": unlimited}
            assert "max_requests" not in manage.call("POST", "/tokens", asked).get_json()


class TestEndless:
    """DEFAULT_TOKEN_LIFETIME=0."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """For ever."""
        return {"tokens.default_lifetime_s": 0.0}

    def test_zero_means_never(self, manage: Manager) -> None:
        """A token without a duration never expires."""
        project = manage.project()
        assert manage.call("POST", "/tokens", {"project_id": project["id"]}).get_json()["expires_at"] is None


def test_a_list_is_newest_first_and_filtered(manage: Manager) -> None:
    """All documented filters work, under each of their names; an unknown project is an empty list."""
    a, b = manage.project("a"), manage.project("b")
    one, two, three, four = (manage.token(a["id"])["id"] for _ in range(4))
    other = manage.token(b["id"], max_requests=1)["id"]
    manage.call("DELETE", f"/tokens/{two}")
    _set(manage, three, expires_at=datetime.now(UTC) - timedelta(seconds=5))
    _set(manage, other, request_count=1)

    def ids(query: str) -> list[str]:
        return [token["id"] for token in manage.call("GET", f"/tokens?{query}").get_json()]

    assert ids("") == [other, four, three, two, one]
    assert ids(f"project_id={a['id']}") == ids(f"projectId={a['id']}") == [four, three, two, one]
    assert ids(f"projectId={b['id']}&project_id={a['id']}") == [other]
    assert ids("active_only=true") == ids("activeOnly=true") == ids("status=active") == [four, one]
    assert ids("status=revoked") == [two]
    assert ids("status=expired") == [three]
    assert ids("status=rate_limited") == [other]
    assert ids(f"search={one[:8]}") == [one]
    assert ids("project_id=nobody") == ids("project_id=%C3%A9") == ids("search=%C3%A9") == []
    statuses = {token["id"]: token["status"] for token in manage.call("GET", "/tokens").get_json()}
    assert [statuses[key] for key in (one, two, three, other)] == ["active", "revoked", "expired", "rate_limited"]
    manage.call("GET", f"/tokens?project_id={a['id']}")
    assert _last(manage)["details"] | {"token_count": 4, "filtered_by_project": True} == _last(manage)["details"]


def test_a_status_tells_whatever_ends_a_token(manage: Manager) -> None:
    """Idled to death is expired, a budget used up is limited; the filters find what the status says (0.1)."""
    now = datetime.now(UTC)
    wanted: dict[str, list[dict[str, Any]]] = {
        "active": [{}, {"last_used_at": now - timedelta(minutes=3)}, {"total_tokens": 9, "total_cost_nano_usd": 9}],
        "expired": [{"last_used_at": now - timedelta(minutes=6)}, {"created_at": now - timedelta(minutes=6)}],
        "rate_limited": [{"total_tokens": 10}, {"total_cost_nano_usd": 10}, {"max_requests": 3, "request_count": 3}],
    }
    project = manage.project()["id"]
    limits = {"idle_timeout_minutes": 5, "max_total_tokens": 10, "max_cost_nano_usd": 10}
    made: dict[str, set[str]] = {}
    for status, cases in wanted.items():
        for values in cases:
            token_id = manage.token(project)["id"]
            _set(manage, token_id, **limits, **values)
            made.setdefault(status, set()).add(token_id)
    listed = manage.call("GET", f"/tokens?project_id={project}").get_json()
    for status, ids in made.items():
        found = manage.call("GET", f"/tokens?project_id={project}&status={status}").get_json()
        assert {token["id"] for token in found} == ids == {one["id"] for one in listed if one["status"] == status}
    found = manage.call("GET", f"/tokens?project_id={project}&active_only=true").get_json()
    assert {token["id"] for token in found} == made["active"]


@pytest.mark.parametrize(
    "sort", ["created_at", "-created_at", "expires_at", "-expires_at", "last_used_at", "-last_used_at", "request_count"]
)
def test_pages_by_key_see_each_token_once(manage: Manager, sort: str) -> None:
    """Following `next` shows each token once in the same order as the whole list, rows without a value last."""
    project = manage.project()
    for n in range(7):
        token = manage.token(project["id"])
        if n % 2:
            _set(manage, token["id"], last_used_at=datetime.now(UTC), expires_at=None, request_count=n)
    whole = [token["id"] for token in manage.call("GET", f"/tokens?sort={sort}").get_json()]
    seen = [token["id"] for page in manage.pages(f"/tokens?sort={sort}&limit=2") for token in page]
    assert seen == whole
    assert len(set(seen)) == 7


@on_sqlite
@pytest.mark.parametrize("query", ["status=odd", "active_only=odd", "sort=token", "limit=101", "cursor=e30"])
def test_a_wrong_parameter_is_400(manage: Manager, query: str) -> None:
    """400 that names it."""
    response = manage.call("GET", f"/tokens?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.get_json()["error"]


def test_an_idle_timeout_is_set_changed_and_taken_away(manage: Manager) -> None:
    """On creation and by PATCH, null = none; shown, and part of the tag."""
    asked = {"project_id": manage.project()["id"], "duration_minutes": 60, "idle_timeout_minutes": 30}
    token_id = manage.call("POST", "/tokens", asked).get_json()["id"]
    seen = [manage.call("GET", f"/tokens/{token_id}")]
    for minutes in (525600, None):
        seen.append(manage.call("PATCH", f"/tokens/{token_id}", {"idle_timeout_minutes": minutes}))
    assert [response.get_json()["idle_timeout_minutes"] for response in seen] == [30, 525600, None]
    assert len({response.headers["ETag"] for response in seen}) == 3
    wrong = manage.call("PATCH", f"/tokens/{token_id}", {"idle_timeout_minutes": 0})
    assert (wrong.status_code, wrong.get_json()) == (400, {"error": "idle_timeout_minutes must be 1 to 525600"})


def test_reading_an_unknown_id_is_404(manage: Manager) -> None:
    """404 for an unknown id; 400 for a bearer in its place, which is shown nowhere."""
    response = manage.call("GET", f"/tokens/{uuid.uuid4()}")
    assert (response.status_code, response.get_json()) == (404, {"error": "token not found"})
    for method, body in (("GET", None), ("PATCH", {"max_requests": 1}), ("DELETE", None)):
        response = manage.call(method, "/tokens/sk-AAAAAAAAAAAAAAAAAAAAAA", body)
        assert (response.status_code, response.get_json()) == (400, {"error": "use the token's id, not its value"})
    assert "sk-AAAAAAAAAAAAAAAAAAAAAA" not in manage.audit_file.read_text()


def test_a_patch_writes_what_it_names_and_no_counter(manage: Manager) -> None:
    """State and limit change; counters that move meanwhile stay; each write adds to the lease version."""
    project = manage.project()
    token = manage.token(project["id"], max_requests=5)
    path = f"/tokens/{token['id']}"
    _set(manage, token["id"], request_count=3, cache_hit_count=2)
    changed = manage.call("PATCH", path, {"max_requests": 9}).get_json()
    assert (changed["max_requests"], changed["request_count"], changed["cache_hit_count"]) == (9, 3, 2)
    assert _last(manage)["details"]["updated_max_requests"] == 9
    assert manage.call("PATCH", path, {"max_requests": None}).get_json()["max_requests"] is None
    assert _last(manage)["details"]["updated_max_requests"] == "unlimited"
    limits = {"tokens_per_minute": 5, "max_total_tokens": 6, "max_cost_usd": "0.5"}
    manage.call("PATCH", f"/tokens/{token['id']}", limits)
    found = _last(manage)["details"]
    assert {name: found[f"updated_{name}"] for name in limits} == {
        "tokens_per_minute": 5,
        "max_total_tokens": 6,
        "max_cost_usd": 0.5,
    }
    assert manage.call("PATCH", path, {"max_requests": 0}).get_json()["max_requests"] is None
    off = manage.call("PATCH", path, {"is_active": False}).get_json()
    assert (off["is_active"], off["status"]) == (False, "revoked")
    assert off["deactivated_at"]
    again = manage.call("PATCH", path, {"is_active": False}).get_json()
    assert again["deactivated_at"] == off["deactivated_at"]
    on = manage.call("PATCH", path, {"is_active": True}).get_json()
    assert (on["is_active"], on["deactivated_at"]) == (True, None)
    with manage.app.services.engine.connect() as connection:
        assert connection.execute(text("SELECT lease_version FROM tokens")).scalar_one() == 7


@on_sqlite
@pytest.mark.parametrize(
    ("body", "said"),
    [({}, "no fields to update"), ({"is_active": None}, "no fields to update"),
     ({"max_requests": -1}, "max_requests must be >= 0"), ({"max_requests": "5"}, "invalid request body"),
     ({"max_requests": 2**31}, "max_requests must be <= 2147483647"), ({"is_active": 1}, "invalid request body"),
     ({"expires_at": None}, "expires_at cannot be changed"),
     ({"max_requests": 1, "expires_at": "2030-01-01T00:00:00Z"}, "expires_at cannot be changed"),
     ({"requests_per_minute": 0}, "requests_per_minute must be 1 to 2147483647"),
     ({"tokens_per_minute": 0}, "tokens_per_minute must be 1 to 2147483647"),
     ({"max_cost_usd": "1e3"}, "max_cost_usd must be more than 0 and at most 1000000000, with at most 6 decimals")],
)  # fmt: skip
def test_a_patch_that_is_wrong_is_400(manage: Manager, body: Any, said: str) -> None:
    """400 with the row's text."""
    token = manage.token(manage.project()["id"])
    response = manage.call("PATCH", f"/tokens/{token['id']}", body)
    assert (response.status_code, response.get_json()) == (400, {"error": said})


def test_an_expired_token_stays_dead(manage: Manager) -> None:
    """Reactivation is 409; a PATCH that leaves it as it is works."""
    token = manage.token(manage.project()["id"])
    path = f"/tokens/{token['id']}"
    manage.call("DELETE", path)
    _set(manage, token["id"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    response = manage.call("PATCH", path, {"is_active": True})
    assert response.status_code == 409
    wanted = {"error": "token has expired and cannot be reactivated", "code": "token_expired"}
    assert response.get_json() == wanted
    assert manage.call("PATCH", path, {"is_active": False}).status_code == 200


def test_a_patch_of_an_unknown_id_is_404(manage: Manager) -> None:
    """404."""
    response = manage.call("PATCH", "/tokens/nobody", {"max_requests": 1})
    assert (response.status_code, response.get_json()) == (404, {"error": "token not found"})


def test_if_match_ignores_counters(manage: Manager) -> None:
    """The tag is over what PATCH can change: use does not move it, a PATCH does; a stale one is 412, also on DELETE."""
    token = manage.token(manage.project()["id"])
    path = f"/tokens/{token['id']}"
    tag = manage.call("GET", path).headers["ETag"]
    _set(manage, token["id"], request_count=3)
    changed = manage.call("PATCH", path, {"max_requests": 9}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert manage.call("PATCH", path, {"max_requests": 1}, headers={"If-Match": tag}).status_code == 412
    assert manage.call("DELETE", path, headers={"If-Match": tag}).status_code == 412
    assert manage.call("DELETE", path, headers={"If-Match": changed.headers["ETag"]}).status_code == 204


def test_revocation_is_idempotent(manage: Manager) -> None:
    """204 twice; the row stays, with the time of the first; 404 for an unknown id."""
    token = manage.token(manage.project()["id"])
    path = f"/tokens/{token['id']}"
    first = manage.call("DELETE", path)
    assert (first.status_code, first.data) == (204, b"")
    revoked_at = manage.call("GET", path).get_json()["deactivated_at"]
    assert revoked_at
    assert manage.call("DELETE", path).status_code == 204
    assert _last(manage)["details"]["already_revoked"] is True
    assert manage.call("GET", path).get_json()["deactivated_at"] == revoked_at
    assert manage.call("DELETE", "/tokens/nobody").status_code == 404


def test_a_limit_a_minute_goes_both_ways(manage: Manager) -> None:
    """requests_per_minute, on tokens and on their projects: set at the creation, changed, and off again by null."""
    project = manage.project(requests_per_minute=60)
    token = manage.token(project["id"], requests_per_minute=7)
    for path, given in ((f"/projects/{project['id']}", 60), (f"/tokens/{token['id']}", 7)):
        seen = [manage.call("GET", path).get_json()["requests_per_minute"]]
        for wanted in (9, None):
            seen.append(manage.call("PATCH", path, {"requests_per_minute": wanted}).get_json()["requests_per_minute"])
        assert seen == [given, 9, None]


@pytest.mark.parametrize(
    ("field", "given", "shown"),
    [
        ("description", " for the nightly job ", "for the nightly job"),
        ("tokens_per_minute", 1, 1),
        ("max_total_tokens", 2**53 - 1, 2**53 - 1),
        ("max_cost_usd", "0.000001", 0.000001),
        ("max_cost_usd", 12.5, 12.5),
        ("max_cost_usd", "1000000000", 1_000_000_000),
        ("max_cost_usd", 3, 3),
    ],
)
def test_a_tokens_budget_goes_both_ways(manage: Manager, field: str, given: Any, shown: Any) -> None:
    """Set at the creation or by PATCH, shown as it counts, off again by null; another ETag each time."""
    project = manage.project()
    path = f"/tokens/{manage.token(project['id'], **{field: given})['id']}"
    first = manage.call("GET", path)
    assert first.get_json()[field] == shown
    off = manage.call("PATCH", path, {field: None})
    assert off.get_json()[field] is None
    again = manage.call("PATCH", path, {field: given})
    assert (again.get_json()[field], again.headers["ETag"]) == (shown, first.headers["ETag"])
    assert off.headers["ETag"] != first.headers["ETag"]
    assert (first.get_json()["total_tokens"], first.get_json()["total_cost_usd"]) == (0, 0)


def test_a_projects_budget_of_the_month_goes_both_ways(manage: Manager) -> None:
    """max_cost_usd_per_month and tokens_per_minute of a project."""
    path = f"/projects/{manage.project(max_cost_usd_per_month='2.50', tokens_per_minute=10)['id']}"
    found = manage.call("GET", path).get_json()
    assert (found["max_cost_usd_per_month"], found["tokens_per_minute"]) == (2.5, 10)
    off = manage.call("PATCH", path, {"max_cost_usd_per_month": None, "tokens_per_minute": None}).get_json()
    assert (off["max_cost_usd_per_month"], off["tokens_per_minute"]) == (None, None)
    refused = manage.call("PATCH", path, {"max_cost_usd_per_month": -1})
    assert (refused.status_code, "max_cost_usd_per_month" in refused.get_json()["error"]) == (400, True)


def test_a_token_is_found_by_its_value(manage: Manager) -> None:
    """The value stands in the body; the response and the audit trail name the id alone."""
    made = manage.token(manage.project()["id"], name="found")
    found = manage.call("POST", "/tokens/lookup", {"token": made["token"]})
    hashed = hashlib.sha256(made["token"].encode()).hexdigest()
    assert manage.call("POST", "/tokens/lookup", {"sha256": hashed.upper()}).get_json() == found.get_json()
    assert (found.status_code, found.get_json()["id"]) == (200, made["id"])
    assert made["token"] not in found.text
    assert made["token"] not in json.dumps(manage.audited())
    for wrong, status in (({"token": "sk-" + "x" * 22}, 404), ({"token": ""}, 400), ({}, 400)):
        assert manage.call("POST", "/tokens/lookup", wrong).status_code == status


def test_lists_are_narrowed_to_ids_and_names(manage: Manager) -> None:
    """`ids` names the wanted ones, `search` also finds a part of a token's name."""
    project = manage.project()["id"]
    first, second = manage.token(project, name="Build Server"), manage.token(project)
    assert [each["id"] for each in manage.call("GET", "/tokens?search=d%20serv").get_json()] == [first["id"]]
    assert [each["id"] for each in manage.call("GET", f"/tokens?ids={second['id']},x").get_json()] == [second["id"]]
    assert manage.call("GET", "/projects?ids=" + project).get_json()[0]["id"] == project
    assert manage.call("GET", "/projects?ids=x").get_json() == []
    assert manage.call("GET", "/tokens?ids=" + ",".join(map(str, range(101)))).status_code == 400
