"""`Idempotency-Key` on creations, on each database."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from support.databases import on_sqlite
from werkzeug.test import TestResponse

from llm_proxy.db.types import to_column

from .conftest import PROVIDER_KEY, Manager

PROJECT = {"name": "once", "api_key": PROVIDER_KEY}


def _create(manage: Manager, path: str, body: Any, key: str = "k-1") -> TestResponse:
    return manage.call("POST", path, body, headers={"Idempotency-Key": key})


def _age(manage: Manager, by: timedelta) -> None:
    engine = manage.app.services.engine
    with engine.begin() as connection:
        at = to_column(engine.dialect.name, datetime.now(UTC) - by)
        connection.execute(text("UPDATE idempotency_keys SET created_at = :at"), {"at": at})


def test_the_first_response_comes_again(manage: Manager) -> None:
    """Same key, same body: the same response with its fields, marked; one project."""
    first, second = (_create(manage, "/projects", PROJECT) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.get_json() == second.get_json()
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    for name in ("Location", "ETag"):
        assert first.headers[name] == second.headers[name]
    assert len(manage.call("GET", "/projects").get_json()) == 1


def test_a_tokens_secret_comes_again_for_ten_minutes(manage: Manager) -> None:
    """Then 409 with the id; it is stored sealed."""
    wanted = {"project_id": manage.project()["id"], "duration_minutes": 5}
    first = _create(manage, "/tokens", wanted).get_json()
    assert _create(manage, "/tokens/", wanted).get_json() == first
    with manage.app.services.engine.connect() as connection:
        assert first["token"] not in str(connection.execute(text("SELECT * FROM idempotency_keys")).all())
    _age(manage, timedelta(minutes=10))
    late = _create(manage, "/tokens", wanted)
    assert late.status_code == 409
    assert (late.get_json()["code"], late.get_json()["id"]) == ("secret_already_shown", first["id"])
    assert len(manage.call("GET", "/tokens").get_json()) == 1


class TestWithoutAKey:
    """No ENCRYPTION_KEY."""

    @pytest.fixture
    def settings_of_app(self) -> dict[str, Any]:
        """Nothing can be sealed."""
        return {"storage.encryption_key": None}

    def test_a_secret_is_not_stored_in_clear(self, manage: Manager) -> None:
        """The second response is 409 with the id, at once."""
        wanted = {"project_id": manage.project()["id"], "duration_minutes": 5}
        first = _create(manage, "/tokens", wanted).get_json()
        again = _create(manage, "/tokens", wanted)
        assert again.status_code == 409
        assert (again.get_json()["code"], again.get_json()["id"]) == ("secret_already_shown", first["id"])
        with manage.app.services.engine.connect() as connection:
            assert first["token"] not in str(connection.execute(text("SELECT * FROM idempotency_keys")).all())


def test_another_body_is_refused(manage: Manager) -> None:
    """409, and nothing is created; another path is another key."""
    _create(manage, "/projects", PROJECT)
    other = _create(manage, "/projects", {**PROJECT, "name": "other"})
    assert (other.status_code, other.get_json()["code"]) == (409, "idempotency_key_reused")
    assert _create(manage, "/tokens", PROJECT).status_code == 400


def test_a_refusal_comes_again_too(manage: Manager) -> None:
    """The first response was 409 for a taken name: it stays that, also when the name is free again."""
    taken = manage.project("once")
    first = _create(manage, "/projects", PROJECT)
    manage.call("PATCH", f"/projects/{taken['id']}", {"name": "moved"})
    second = _create(manage, "/projects", PROJECT)
    assert first.get_json() == second.get_json() == {"error": "project name already exists", "code": "project_exists"}
    assert (first.status_code, second.status_code) == (409, 409)


def test_a_key_is_forgotten_after_a_day(manage: Manager) -> None:
    """The same key creates again."""
    _create(manage, "/projects", PROJECT)
    _age(manage, timedelta(hours=24, seconds=1))
    assert _create(manage, "/projects", {**PROJECT, "name": "new"}).status_code == 201


def test_a_running_call_is_409_until_it_counts_as_dead(manage: Manager) -> None:
    """`idempotency_in_progress` while the first runs; a claim whose process died is taken over."""
    keys = manage.app.services.idempotency
    keys.claim("/manage/projects", "k-1", b"x")
    assert manage.call("POST", "/projects", b"x", headers={"Idempotency-Key": "k-1"}).get_json()["code"] == (
        "idempotency_in_progress"
    )
    _age(manage, timedelta(minutes=3))
    assert _create(manage, "/projects", PROJECT).status_code == 201


def test_a_failure_of_ours_gives_the_key_back(manage: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 500 the same call may be tried again."""
    projects = manage.app.services.projects
    with monkeypatch.context() as patch:
        patch.setattr(projects, "_shown", lambda row: 1 / 0)
        assert _create(manage, "/projects", PROJECT).status_code == 500
    assert _create(manage, "/projects", PROJECT).status_code == 201


def test_many_at_once_create_one(manage: Manager) -> None:
    """Eight calls with one key at once: one project, and every other response is its replay or `in progress`."""
    found: list[tuple[int, str]] = []

    def call() -> None:
        response = manage.app.test_client().post(
            "/manage/projects", json=PROJECT,
            headers={"Authorization": "Bearer test-management-token", "Idempotency-Key": "k-1"},
        )  # fmt: skip
        found.append((response.status_code, response.get_json().get("code", "")))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert set(found) <= {(201, ""), (409, "idempotency_in_progress")}, found
    assert (201, "") in found
    assert len(manage.call("GET", "/projects").get_json()) == 1


@on_sqlite
@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_a_malformed_key_is_400(manage: Manager, key: str) -> None:
    """1 to 255 visible ASCII characters."""
    response = _create(manage, "/projects", PROJECT, key)
    assert (response.status_code, response.get_json()) == (400, {"error": "invalid Idempotency-Key"})
