"""Rolling and revoking tokens, and what tells how a server is doing."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from support.databases import on_sqlite
from support.redis import RedisServer

from llm_proxy.access.caller import Caller
from llm_proxy.access.roles import Role
from llm_proxy.access.sessions import Browser, Method, Origin
from llm_proxy.accounting.outcomes import DELIVERED, HIT, OVER_QUOTA, UNAUTHENTICATED
from llm_proxy.errors import QuotaExhausted, Unauthorized
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.request import ProxyRequest

from .conftest import Manager

LIMITS = {"max_requests": 7, "requests_per_minute": 5, "max_total_tokens": 1000, "name": "ci", "max_cost_usd": 2.5}


def instant(text: str) -> datetime:
    """RFC 3339."""
    return datetime.fromisoformat(text)


def key_of(manage: Manager, role: str, projects: list[str]) -> dict[str, str]:
    """The header of a new management key."""
    made = manage.call("POST", "/keys", {"name": f"{role}-of-some", "role": role, "projects": projects}).get_json()
    return {"Authorization": f"Bearer {made['key']}"}


def test_a_rolled_token_hands_its_limits_on(manage: Manager) -> None:
    """The new one has the same limits and span; the old one lives for the overlap, and both are in the record."""
    old = manage.token(manage.project()["id"], **LIMITS)
    response = manage.call("POST", f"/tokens/{old['id']}/roll", {"overlap_minutes": 10})
    assert response.status_code == 200, response.text
    rolled = response.get_json()
    assert rolled["token"].startswith("sk-")
    assert rolled["token"] != old["token"]
    before = manage.call("GET", f"/tokens/{old['id']}").get_json()
    after = manage.call("GET", f"/tokens/{rolled['id']}").get_json()
    assert {name: after[name] for name in LIMITS} == LIMITS
    assert instant(after["expires_at"]) - instant(after["created_at"]) == timedelta(minutes=60)
    left = instant(before["expires_at"]) - instant(after["created_at"])
    assert before["is_active"]
    assert left == timedelta(minutes=10)
    record = next(record for record in manage.audited() if record["action"] == "token.roll")
    assert record["details"]["new_token_id"] == rolled["id"]
    assert rolled["token"] not in manage.audit_file.read_text()


def test_a_roll_without_overlap_revokes_at_once(manage: Manager) -> None:
    """And what is revoked cannot be rolled again: 409."""
    old = manage.token(manage.project()["id"])
    assert manage.call("POST", f"/tokens/{old['id']}/roll").status_code == 200
    assert manage.call("GET", f"/tokens/{old['id']}").get_json()["status"] == "revoked"
    again = manage.call("POST", f"/tokens/{old['id']}/roll")
    assert (again.status_code, again.get_json()["code"]) == (409, "token_inactive")
    wrong = manage.call("POST", f"/tokens/{old['id']}/roll", {"overlap_minutes": -1})
    assert wrong.status_code == 400
    assert "overlap_minutes" in wrong.get_json()["error"]


def test_several_tokens_are_revoked_in_one_call(manage: Manager) -> None:
    """Counts, and the ids that are unknown; a caller of some projects reaches only theirs."""
    mine, other = manage.project("mine")["id"], manage.project("other")["id"]
    tokens = [manage.token(mine)["id"], manage.token(mine)["id"], manage.token(other)["id"]]
    manage.call("DELETE", f"/tokens/{tokens[0]}")
    limited = key_of(manage, "issuer", [mine])
    found = manage.call("POST", "/tokens/revoke", {"ids": [*tokens, "nothing"]}, headers=limited).get_json()
    assert found == {"revoked_count": 1, "already_revoked_count": 1, "unknown_ids": [tokens[2], "nothing"]}
    states = [manage.call("GET", f"/tokens/{token_id}").get_json()["status"] for token_id in tokens]
    assert states == ["revoked", "revoked", "active"]
    record = next(record for record in manage.audited() if record["action"] == "token.revoke_batch")
    assert sorted(record["details"]["token_ids"]) == sorted(tokens[:2])


@pytest.mark.parametrize("ids", [None, [], "x", [1], ["sk-abcdefghijklmnopqrstuv"], ["x"] * 201])
def test_a_wrong_list_of_ids_is_named(manage: Manager, ids: Any) -> None:
    """400 at the field."""
    response = manage.call("POST", "/tokens/revoke", {"ids": ids})
    assert response.status_code == 400
    assert "id" in response.get_json()["error"]


def end(manage: Manager, token: dict[str, Any], *endings: tuple[Any, BaseException | None]) -> None:
    """Count exchanges of a token as they end, and write the counts."""
    services = manage.app.services
    snapshot = services.directory.authenticate(token["token"])
    for row, failure in endings:
        exchange = Exchange(ProxyRequest("POST", "/v1/chat/completions", []), services.lanes[0])
        exchange.token = snapshot
        services.outcomes.report(exchange, row, failure)
    assert services.outcomes.flush()


def test_outcomes_are_added_up_and_cut_to_the_callers_projects(manage: Manager) -> None:
    """Two batches of the same hour are one row; another's project is not in the sums, nor its refusals."""
    mine, other = manage.project("mine")["id"], manage.project("other")["id"]
    token, foreign = manage.token(mine), manage.token(other)
    end(manage, token, (DELIVERED, None), (OVER_QUOTA, QuotaExhausted()))
    end(manage, token, (DELIVERED, None), (OVER_QUOTA, QuotaExhausted()))
    end(manage, foreign, (OVER_QUOTA, QuotaExhausted()))
    found = manage.call("GET", "/outcomes?group_by=project,code").get_json()
    assert {(row["project_id"], row["code"]): row["requests"] for row in found["data"]} == {
        (mine, "ok"): 2, (mine, "rate_limit_exceeded"): 2, (other, "rate_limit_exceeded"): 1,
    }  # fmt: skip
    assert found["is_more"] is False
    limited = key_of(manage, "viewer", [mine])
    assert manage.call("GET", "/outcomes", headers=limited).get_json()["data"] == [{"requests": 4}]
    assert manage.call("GET", "/stats", headers=limited).get_json()["today"]["by_code"]["ok"] == 2
    assert manage.call("GET", f"/tokens/{foreign['id']}/refusals", headers=limited).status_code == 404
    refusals = manage.call("GET", f"/tokens/{token['id']}/refusals", headers=limited).get_json()
    assert [(row["code"], row["refusals"]) for row in refusals] == [("rate_limit_exceeded", 2)]
    table = manage.call("GET", "/outcomes?group_by=hour,code&format=csv").get_data(as_text=True)
    assert table.splitlines()[0] == "hour,code,requests"


def test_traffic_is_added_up_by_hour_and_cut_to_the_callers_projects(manage: Manager) -> None:
    """Requests, errors, refusals, latency, cache and money; without a filter all projects are read."""
    services = manage.app.services
    mine, other = manage.project("mine")["id"], manage.project("other")["id"]
    for token, row, failure, hit in (
        (manage.token(mine), DELIVERED, None, False),
        (manage.token(mine), HIT, None, True),
        (manage.token(other), OVER_QUOTA, QuotaExhausted(), False),
        (None, UNAUTHENTICATED, Unauthorized(), False),
    ):
        exchange = Exchange(ProxyRequest("POST", "/v1/chat/completions", []), services.lanes[0])
        exchange.token = None if token is None else services.directory.authenticate(token["token"])
        exchange.timing.response_started_s = 0.0 if hit else exchange.request.received_s + 0.15
        exchange.timing.ended_s = exchange.request.received_s + (0.05 if hit else 1.5)
        services.traffic.report(exchange, row, failure)
    services.traffic.spent(mine, 70, 30, 2_500_000_000)
    assert services.outcomes.flush()
    services.traffic.spent(mine, 30, 20, 0)
    assert services.outcomes.flush()
    (row,) = manage.call("GET", "/traffic").get_json()["data"]
    assert (row["requests"], row["errors"], row["refused"], row["cache_hits"]) == (4, 2, 2, 1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_usd"]) == (100, 50, 2.5)
    assert 1000 < row["duration_p95_ms"] <= 2000
    assert 100 < row["first_byte_p50_ms"] <= 250
    limited = key_of(manage, "viewer", [other])
    (row,) = manage.call("GET", "/traffic?group_by=day", headers=limited).get_json()["data"]
    assert (row["requests"], row["refused"], row["cost_usd"], row["duration_p50_ms"]) == (1, 1, 0, None)
    assert manage.call("GET", f"/traffic?project_id={mine}", headers=limited).get_json() == {"data": []}
    assert manage.call("GET", f"/traffic?project_id={mine}").get_json()["data"][0]["requests"] == 2
    table = manage.call("GET", "/traffic?format=csv").get_data(as_text=True)
    assert table.startswith("hour,requests,errors,")


@pytest.mark.parametrize("query", ["group_by=week", "from=soon", "format=xml", "from=2024-01-01&to=2026-01-01"])
def test_a_wrong_parameter_of_traffic_is_named(manage: Manager, query: str) -> None:
    """400."""
    response = manage.call("GET", f"/traffic?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.get_json()["error"]


@pytest.mark.parametrize("query", ["group_by=model", "from=soon", "format=xml", "from=2026-02-01&to=2026-01-01"])
def test_a_wrong_parameter_of_outcomes_is_named(manage: Manager, query: str) -> None:
    """400."""
    response = manage.call("GET", f"/outcomes?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.get_json()["error"]


def test_totals_tell_live_tokens_from_dead_ones(manage: Manager) -> None:
    """Never-expiring ones are active; revoked ones are neither active nor expired."""
    project = manage.project()["id"]
    manage.project("another")
    tokens = [manage.token(project) for _ in range(3)]
    manage.call("DELETE", f"/tokens/{tokens[0]['id']}")
    with manage.app.services.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE tokens SET expires_at = NULL WHERE id = '{tokens[1]['id']}'")
    found = manage.call("GET", "/stats").get_json()
    counts = {name: found[name]["count"] for name in ("projects", "tokens", "active_tokens", "expired_tokens")}
    assert counts == {"projects": 2, "tokens": 3, "active_tokens": 2, "expired_tokens": 0}


@on_sqlite
def test_settings_show_no_secret_and_tell_their_source(manage: Manager) -> None:
    """Secrets are `set`; a limited admin is refused."""
    found = {row["variable"]: row for row in manage.call("GET", "/settings").get_json()}
    assert found["MANAGEMENT_TOKEN"]["value"] == "set"
    assert found["LOG_LEVEL"]["source"] == "default"
    limited = key_of(manage, "admin", [manage.project()["id"]])
    assert manage.call("GET", "/settings", headers=limited).status_code == 403


@on_sqlite
def test_findings_are_kept_for_a_moment(manage: Manager) -> None:
    """Two looks are one examination; each finding has code, level and remedy."""
    first, second = (manage.call("GET", "/doctor").get_json() for _ in range(2))
    assert first == second
    assert {finding["code"] for finding in first["findings"]} >= {"migrations", "redis"}


@on_sqlite
def test_figures_of_a_cache_that_is_on(manage: Manager) -> None:
    """Numbers since the start."""
    found = manage.call("GET", "/cache").get_json()
    assert found["is_enabled"]
    assert found["stored_bytes"] == 0
    assert found["hit_ratio"] is None


@on_sqlite
def test_a_session_is_listed_and_ended(manage: Manager) -> None:
    """By its id, which is no secret; the record names whose it was."""
    origin = Origin(Caller("key:ops", Role.OPERATOR), Method.TOKEN, "print")
    secret, session = manage.app.services.sessions.create(origin, Browser("10.0.0.1"))
    listed = manage.call("GET", "/sessions").get_json()
    assert [(one["id"], one["actor"]) for one in listed] == [(session.id, "key:ops")]
    assert secret not in str(listed)
    assert manage.call("DELETE", f"/sessions/{session.id}").status_code == 204
    assert manage.call("DELETE", f"/sessions/{session.id}").status_code == 404
    assert manage.call("GET", "/sessions").get_json() == []
    record = next(record for record in manage.audited() if record["action"] == "session.end")
    assert record["details"]["session_actor"] == "key:ops"


@on_sqlite
def test_the_in_memory_bus_has_no_dead_letters(manage: Manager) -> None:
    """409, and a state without figures."""
    assert manage.call("GET", "/dispatcher").get_json()["bus"] == "in-memory"
    assert manage.call("GET", "/dispatcher/dead-letters").status_code == 409


@on_sqlite
class TestDeadLetters:
    """On a bus in Redis."""

    @pytest.fixture
    def settings_of_app(self, redis_server: RedisServer) -> dict[str, Any]:
        """The stream bus."""
        return {"events.bus": "redis-streams", "redis.addr": redis_server.addr}

    def test_one_is_replayed_and_one_dropped(self, manage: Manager) -> None:
        """What is replayed is on the bus again; both are gone from here; their events are never shown."""
        with manage.app.services.bus_state.letters() as letters:
            for number in (1, 2):
                letters.add(
                    b'{"prompt": "secret"}', reason="rejected", error="422", service="file", attempts=number,
                    original_id="1-1",
                )  # fmt: skip
        found = manage.call("GET", "/dispatcher/dead-letters?reason=rejected").get_json()
        assert [letter["attempts"] for letter in found] == [1, 2]
        assert "secret" not in str(found)
        assert manage.call("POST", f"/dispatcher/dead-letters/{found[0]['id']}/replay").status_code == 204
        assert manage.call("DELETE", f"/dispatcher/dead-letters/{found[1]['id']}").status_code == 204
        state = manage.call("GET", "/dispatcher").get_json()
        assert (state["length"], state["lag"], state["dead_letters"]) == (1, 1, 0)
        assert manage.call("DELETE", "/dispatcher/dead-letters/1-1").status_code == 404
        assert manage.call("DELETE", "/dispatcher/dead-letters/x").status_code == 400
