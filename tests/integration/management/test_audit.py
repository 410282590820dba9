"""/manage/audit and the records that calls leave, on each database."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llm_proxy.audit.record import AuditEvent

from .conftest import Manager


def _write(manage: Manager, **values: Any) -> AuditEvent:
    event = AuditEvent(**{"action": "test.act", "actor": "tester", "outcome": "success", **values})
    manage.app.services.audit.record(event)
    return event


def _events(manage: Manager, **query: Any) -> list[dict[str, Any]]:
    response = manage.call("GET", "/audit", query_string={"actor": "tester", **query})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.get_json()["events"]
    return found


def test_the_trail_is_verified_by_a_call(manage: Manager) -> None:
    """Never at first; whole, as a record of the trail; broken, with the fault, after a record was changed."""
    assert manage.call("GET", "/audit/verification").get_json()["state"] == "never"
    manage.project()
    found = manage.call("POST", "/audit/verification").get_json()
    assert (found["state"], found["actor"], found["faults"]) == ("whole", "root", [])
    assert found["records"] >= 1
    assert manage.call("GET", "/audit/verification").get_json() == found
    with manage.app.services.engine.begin() as connection:
        connection.execute(text("UPDATE audit_events SET actor = 'mallory' WHERE action = 'project.create'"))
    broken = manage.call("POST", "/audit/verification").get_json()
    assert (broken["state"], len(broken["faults"])) == ("broken", 1)
    records = [record for record in manage.audited() if record["action"] == "audit.verify"]
    assert [record["result"] for record in records] == ["success", "failure"]


def test_a_call_leaves_one_record_of_actor_and_way(manage: Manager) -> None:
    """Ids, address, method, path and agent are their own columns; metadata is a JSON string."""
    headers = {"X-Request-ID": "req-1", "X-Correlation-ID": "cor-1", "User-Agent": "tests/1"}
    project = manage.call("POST", "/projects", {"name": "a", "api_key": "k" * 20}, headers=headers).get_json()
    [event] = manage.call("GET", "/audit?action=project.create").get_json()["events"]
    assert event | {
        "actor": "root", "outcome": "success", "project_id": project["id"], "request_id": "req-1",
        "correlation_id": "cor-1", "client_ip": "127.0.0.1", "method": "POST", "path": "/manage/projects",
        "user_agent": "tests/1",
    } == event  # fmt: skip
    assert json.loads(event["metadata"])["project_name"] == "a"
    assert "reason" not in event
    one = manage.call("GET", f"/audit/{event['id']}").get_json()
    assert one == event


def test_the_admin_ui_speaks_for_its_client(manage: Manager) -> None:
    """`X-Admin-Origin: 1` brings the browser's agent and page along, cut and without a query."""
    headers = {
        "X-Admin-Origin": "1", "X-Forwarded-User-Agent": "Browser" + "x" * 2000,
        "X-Forwarded-Referer": "https://ui/projects?token=abc",
    }  # fmt: skip
    manage.call("GET", "/projects", headers=headers)
    details = manage.audited()[-1]["details"]
    assert details["origin"] == "admin-ui"
    assert details["user_agent"].startswith("Browserx")
    assert len(details["user_agent"]) == 1024
    assert details["referer"] == "https://ui/projects"


def test_pages_and_their_bounds(manage: Manager) -> None:
    """Newest first; sizes above 100 act as 100; past the end is empty; junk is 400."""
    for n in range(5):
        _write(manage, details={"n": n})
    response = manage.call("GET", "/audit?actor=tester&page=2&page_size=2").get_json()
    assert [json.loads(event["metadata"])["n"] for event in response["events"]] == [2, 1]
    assert response["pagination"] == {
        "page": 2, "page_size": 2, "total_count": 5, "total_pages": 3, "has_next": True, "has_prev": True,
    }  # fmt: skip
    assert manage.call("GET", "/audit?page_size=5000").get_json()["pagination"]["page_size"] == 100
    past = manage.call("GET", "/audit?actor=tester&page=1000000000").get_json()
    assert (past["events"], past["pagination"]["has_next"]) == ([], False)
    for query in ("page=0", "page=-1", "page=12abc", "page=1000000001", "page_size=0", "page_size=x"):
        response = manage.call("GET", f"/audit?{query}")
        name = query.partition("=")[0]
        assert (response.status_code, response.get_json()) == (400, {"error": f"invalid {name}"})


def test_keyset_pages(manage: Manager) -> None:
    """`limit` and `cursor` see each record once, either way round."""
    for n in range(5):
        _write(manage, details={"n": n})
    for sort, wanted in (("asc", [0, 1, 2, 3, 4]), ("desc", [4, 3, 2, 1, 0])):
        seen, cursor = [], ""
        while cursor is not None:
            page = manage.call("GET", f"/audit?actor=tester&limit=2&sort={sort}&cursor={cursor}").get_json()
            seen += [json.loads(event["metadata"])["n"] for event in page["events"]]
            cursor = page["next_cursor"]
        assert seen == wanted


def test_exact_filters(manage: Manager) -> None:
    """Each filter finds its record and no other, by every character."""
    values = {"action": "a.b", "client_ip": "10.0.0.9", "project_id": "p", "outcome": "denied", "request_id": "R",
              "correlation_id": "C"}  # fmt: skip
    details = {"http_method": "BREW", "endpoint": "/pot", "token_id": "t"}
    _write(manage)
    _write(manage, **values, details=details)
    for name, value in {**values, "method": "BREW", "path": "/pot", "token_id": "t"}.items():
        assert len(_events(manage, **{name: value})) == 1, name
        if value.swapcase() != value:
            assert _events(manage, **{name: value.swapcase()}) == [], name
        assert _events(manage, **{name: "é\x00"}) == [], name


def test_search_is_literal_and_ignores_case(manage: Manager) -> None:
    """`%` and `_` mean themselves in every searched column, and case does not matter."""
    _write(manage, details={"reason": "100% Über_lauf"})
    _write(manage, details={"reason": "100 percent ueberXlauf"})
    assert len(_events(manage, search="100%")) == 1
    assert len(_events(manage, search="über_LAUF")) == 1
    assert len(_events(manage, search="r_l")) == 1
    assert manage.call("GET", "/audit", query_string={"search": "x" * 201}).status_code == 400


def test_time_filters_are_instants(manage: Manager) -> None:
    """Zones are honoured, ends are included, a whole second and a whole day are covered."""
    at = datetime(2026, 3, 1, 12, 0, 0, 500000, tzinfo=UTC)
    for shift in (0, 1, 2):
        _write(manage, timestamp=at + timedelta(seconds=shift), details={"n": shift})

    def found(**query: str) -> list[int]:
        return sorted(json.loads(event["metadata"])["n"] for event in _events(manage, **query))

    assert found(start_time="2026-03-01T12:00:01Z") == [1, 2]
    assert found(start_time="2026-03-01T12:00:01.5Z") == [1, 2]
    assert found(end_time="2026-03-01T12:00:01Z") == [0, 1]
    assert found(end_time="2026-03-01T12:00:01.4Z") == [0]
    assert found(start_time="2026-03-01T14:00:01+02:00") == [1, 2]
    assert found(start_time="2026-03-01T14:00:01 02:00") == [1, 2]
    assert found(start_time="2026-03-01", end_time="2026-03-01") == [0, 1, 2]
    assert found(end_time="2026-02-28") == []
    for name in ("start_time", "end_time"):
        for bad in (
            "yesterday",
            "2026-03-01T12:00:00",
            "2026-13-01",
            "2026-03-01T25:00:00Z",
            "0001-01-01T00:00:00+23:00",
        ):
            response = manage.call("GET", "/audit", query_string={name: bad})
            assert (response.status_code, response.get_json()) == (400, {"error": f"invalid {name}"}), bad
    assert manage.call("GET", "/audit?start_time=2026-03-02&end_time=2026-03-01").status_code == 400


def test_reading_nothing_is_404(manage: Manager) -> None:
    """404, and the question is recorded."""
    response = manage.call("GET", "/audit/nobody")
    assert (response.status_code, response.get_json()) == (404, {"error": "audit event not found"})
    assert manage.audited()[-1]["action"] == "audit.show"
    assert manage.audited()[-1]["details"]["audit_event_id"] == "nobody"


def test_no_record_is_lost_for_its_length_or_characters(manage: Manager) -> None:
    """Whatever clients send is cut to its column, NUL and half characters included."""
    long = "ü" * 40_000
    _write(
        manage, action="a" * 100, project_id="p" * 100, request_id=long, correlation_id="x\x00y", client_ip="1" * 100,
        details={"http_method": "M" * 50, "endpoint": "/" + long, "user_agent": long, "error": long, "more": long,
                 "half": "\ud800"},
    )  # fmt: skip
    [event] = _events(manage)
    assert len(event["action"]) == 64
    assert len(event["request_id"]) == 128
    assert event["correlation_id"] == "x\ufffdy"
    assert json.loads(event["metadata"])["truncated"] is True
    assert len(event["metadata"].encode()) <= 16 * 1024


def test_a_failed_mutation_leaves_no_success_record(manage: Manager) -> None:
    """The record belongs to the mutation's transaction: a conflict rolls both back and leaves a failure record."""
    manage.project("a")
    manage.call("POST", "/projects", {"name": "a", "api_key": "k" * 20})
    outcomes = [event["outcome"] for event in manage.call("GET", "/audit?action=project.create").get_json()["events"]]
    assert outcomes == ["failure", "success"]


def test_a_refused_row_does_not_take_the_mutation_along(manage: Manager) -> None:
    """When the table takes no record, the call goes on, the file has it, and the failure is counted."""
    with manage.app.services.engine.begin() as connection:
        connection.execute(text("DROP TABLE audit_events"))
    lost: list[str] = []
    manage.app.services.audit._failed = lost.append
    assert manage.call("POST", "/projects", {"name": "a", "api_key": "k" * 20}).status_code == 201
    assert manage.audited()[-1]["action"] == "project.create"
    assert lost == ["table"]
    assert len(manage.call("GET", "/projects").get_json()) == 1


class TestRequired:
    """AUDIT_REQUIRED."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """Records are required."""
        return {"operation.audit_required": True}

    def test_what_cannot_be_recorded_is_not_done(self, manage: Manager) -> None:
        """A sink that fails makes a mutation 503, rolled back; reading goes on."""
        with manage.app.services.engine.begin() as connection:
            connection.execute(text("DROP TABLE audit_events"))
        response = manage.call("POST", "/projects", {"name": "a", "api_key": "k" * 20})
        assert (response.status_code, response.get_json()) == (503, {"error": "audit unavailable"})
        response = manage.call("GET", "/projects")
        assert (response.status_code, response.get_json()) == (200, [])


class TestTableOnly:
    """AUDIT_LOG_FILE empty."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """No file."""
        return {"operation.audit_log_file": ""}

    def test_the_table_alone_has_it(self, manage: Manager, tmp_path: Path) -> None:
        """Records reach the table; no file is made."""
        manage.project()
        assert len(manage.call("GET", "/audit?action=project.create").get_json()["events"]) == 1
        assert list(tmp_path.glob("*.log")) == []


class TestFileOnly:
    """AUDIT_STORE_IN_DB=false."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """No table."""
        return {"operation.audit_store_in_db": False}

    def test_the_file_alone_has_it(self, manage: Manager) -> None:
        """Records reach the file; the table stays empty."""
        manage.project()
        assert manage.audited()[-1]["action"] == "project.create"
        assert manage.call("GET", "/audit").get_json()["events"] == []


class TestWithoutACache:
    """HTTP_CACHE_ENABLED=false."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """No cache."""
        return {"cache.enabled": False}

    def test_purging_without_a_cache_is_400(self, manage: Manager) -> None:
        """400 `caching is disabled`, whatever the body, and recorded with its reason."""
        response = manage.call("POST", "/cache/purge", b"junk")
        assert (response.status_code, response.get_json()) == (400, {"error": "caching is disabled"})
        assert manage.audited()[-1]["details"]["reason"] == "caching_disabled"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"junk", "invalid JSON"),
        ({}, "method and url are required"),
        ({"method": "GET"}, "method and url are required"),
        ({"method": "GET", "url": "http://[bad"}, "invalid URL"),
        ({"key": "v1:a:b:c", "all": True}, "only one of"),
        ({"prefix": "/v1/", "key": "v1:a:b:c"}, "only one of"),
        ({"all": {}}, "invalid JSON"),
        ({"all": 0, "prefix": "/v1/"}, "invalid JSON"),
        ({"all": True, "key": []}, "invalid JSON"),
        ({"all": None, "key": None}, "method and url are required"),
    ],
)
def test_a_purge_that_cannot_be_understood_is_400(manage: Manager, body: Any, error: str) -> None:
    """Each fault has its text, in a fixed order; several scopes at once are refused."""
    response = manage.call("POST", "/cache/purge", body)
    assert response.status_code == 400
    assert response.get_json()["error"].startswith(error)


@pytest.mark.parametrize(
    ("body", "deleted"),
    [
        ({"method": "GET", "url": "/v1/models"}, False),
        ({"prefix": "/v1/"}, 0),
        ({"key": "v1:a:b:c"}, 0),
        ({"project_id": "p"}, 0),
        ({"all": True}, 0),
    ],
    ids=["address", "prefix", "key", "project", "all"],
)
def test_a_purge_is_answered_with_what_it_removed_and_recorded(manage: Manager, body: Any, deleted: Any) -> None:
    """A boolean for one address, a number for all else; committed, whatever was there."""
    response = manage.call("POST", "/cache/purge", body)
    assert (response.status_code, response.get_json()) == (200, {"deleted": deleted})
    record = manage.audited()[-1]
    assert (record["action"], record["result"], record["details"]["deleted"]) == ("cache.purge", "success", deleted)
