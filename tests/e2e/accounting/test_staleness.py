"""How long eight workers of two servers go on with what is not so any more: under a second, whatever was changed."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e.accounting.conftest import Pair, get
from support.gateway import PROVIDER_KEY, eventually
from support.raw import Client, request

pytestmark = pytest.mark.times

OTHER_KEY = "sk-another-provider-key-0123456789abcd"
STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
Change = Callable[[Pair, dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, int, str]] = {
    "PATCH is_active": (
        lambda pair, token: pair.manage("PATCH", f"/tokens/{token['id']}", {"is_active": False}),
        401,
        "token_inactive",
    ),
    "DELETE": (lambda pair, token: pair.manage("DELETE", f"/tokens/{token['id']}"), 401, "token_inactive"),
    "the project's tokens revoked": (
        lambda pair, token: pair.manage("POST", f"/projects/{token['project_id']}/tokens/revoke"),
        401,
        "token_inactive",
    ),
    "project inactive": (
        lambda pair, token: pair.manage("PATCH", f"/projects/{token['project_id']}", {"is_active": False}),
        403,
        "project_inactive",
    ),
    "expiry moved to now": (
        lambda pair, token: pair.execute(
            f"UPDATE tokens SET expires_at = now(), lease_version = lease_version + 1 WHERE id = '{token['id']}'"
        ),
        401,
        "token_expired",
    ),
    "limit below the count": (
        lambda pair, token: pair.manage("PATCH", f"/tokens/{token['id']}", {"max_requests": 1}),
        429,
        "rate_limit_exceeded",
    ),
    "limit of the project": (
        lambda pair, token: pair.manage("PATCH", f"/projects/{token['project_id']}", {"requests_per_minute": 1}),
        429,
        "rate_limit_exceeded",
    ),
}


def test_changes_reach_eight_workers_within_a_second(pair: Pair) -> None:
    """The last request that any of them admits was asked less than a second after the change was answered."""
    tokens, clients = {what: pair.token() for what in CHANGES}, pair.everywhere()
    limited = tokens["limit of the project"]["project_id"]
    pair.manage("PATCH", f"/projects/{limited}", {"requests_per_minute": 1000})  # so that requests are counted already
    for token in tokens.values():
        assert {get(client, token["token"]).status for client in clients} == {200}
    changed, last = {}, dict.fromkeys(CHANGES, 0.0)
    for what, (change, _, _) in CHANGES.items():
        change(pair, tokens[what])
        changed[what] = time.monotonic()
    while time.monotonic() < max(changed.values()) + 1.3:
        for what, token in tokens.items():
            for client in clients:
                asked = time.monotonic()
                if get(client, token["token"]).status == 200:
                    last[what] = asked
    late = {what: at - changed[what] for what, at in last.items()}
    assert max(late.values()) < 1.0, late
    for what, (_, status, code) in CHANGES.items():
        responses = [get(client, tokens[what]["token"]) for client in clients]
        assert {(response.status, json.loads(response.body)["code"]) for response in responses} == {(status, code)}, (
            what
        )


def test_an_expiry_is_kept_to_by_every_worker(pair: Pair) -> None:
    """Known in advance, it needs no news: no worker admits a request that came after it."""
    token, clients = pair.token(), pair.everywhere()
    pair.execute(
        "UPDATE tokens SET expires_at = now() + interval '2 seconds', lease_version = lease_version + 1"
        f" WHERE id = '{token['id']}'"
    )
    expires = time.monotonic() + 2.0
    last = 0.0
    while time.monotonic() < expires + 0.5:
        for client in clients:
            asked = time.monotonic()
            if get(client, token["token"]).status == 200:
                last = asked
    assert -0.7 < last - expires < 0.2  # one clock, the database's; the rest is the statement's way


def test_a_new_provider_key_is_used_by_every_worker_within_a_second(pair: Pair) -> None:
    """The provider sees the old key for the last time less than a second after the PATCH was answered."""
    token, clients, before = pair.token(), pair.everywhere(), len(pair.provider.seen())
    assert {get(client, token["token"]).status for client in clients} == {200}
    pair.manage("PATCH", f"/projects/{token['project_id']}", {"api_key": OTHER_KEY})
    changed = time.time()
    while time.time() < changed + 1.3:
        assert {get(client, token["token"]).status for client in clients} == {200}
    seen = pair.provider.seen()[before:]
    old = [about.at for about in seen if about.authorization == f"Bearer {PROVIDER_KEY}"]
    assert {about.authorization for about in seen[-len(clients) :]} == {f"Bearer {OTHER_KEY}"}
    assert max(old) - changed < 1.0


def _stream(bearer: str, events: int) -> bytes:
    fields = [f"Authorization: Bearer {bearer}", "Content-Type: application/json"]
    fields.append("X-Simulate: " + json.dumps({"events": events, "interval": "50ms"}))
    return request("/v1/chat/completions", *fields, method="POST", body=STREAM)


def test_streams_of_a_revoked_token_are_cut_where_that_is_wanted(pair: Pair) -> None:
    """With REVOKE_CUTS_STREAMS: cut within a second, charged, an error, an event `revoked` with what had come.

    A server without it, and another token's stream, go on to their ends.
    """
    cutting, letting = pair.gateways
    token, other = pair.token(max_requests=5), pair.token()
    errors = cutting.metric("llm_proxy_errors_total")
    aborted = cutting.metric('llm_proxy_upstream_requests_total{outcome="aborted"}')
    with Client(cutting.address) as cut, Client(letting.address) as whole, Client(cutting.address) as foreign:
        streams = ((cut, token, 200), (whole, token, 40), (foreign, other, 40))
        for client, its, count in streams:
            client.send(_stream(its["token"], count)).until(b"data: ")
        pair.manage("PATCH", f"/tokens/{token['id']}", {"is_active": False})
        revoked = time.monotonic()
        data, how = cut.rest()
        assert time.monotonic() - revoked < 1.0
        assert (how, b"[DONE]" in data, data.endswith(b"0\r\n\r\n")) == ("eof", False, False)
        for client in (whole, foreign):
            client.until(b"[DONE]")
            client.until(b"0\r\n\r\n")
    line = cutting.wait_for_access(row=29, token_id=token["id"])[0]
    assert (line["status_code"], line["error"]) == (200, "revoked")
    assert cutting.metric("llm_proxy_errors_total") == errors + 1
    assert cutting.metric('llm_proxy_upstream_requests_total{outcome="aborted"}') == aborted + 1
    assert letting.wait_for_access(row=1, token_id=token["id"])[0]["status_code"] == 200
    eventually(lambda: pair.manage("GET", f"/tokens/{token['id']}")["request_count"] == 2)

    def events() -> list[dict[str, Any]]:
        lines = (cutting.folder / "events.jsonl").read_text().splitlines()
        return [about for about in map(json.loads, lines) if about["token_id"] == token["id"]]

    eventually(lambda: len(events()) == 1)
    assert (events()[0]["outcome"], events()[0]["status"]) == ("revoked", 200)


def test_streams_of_a_deactivated_project_are_cut_as_well(pair: Pair) -> None:
    """Within a second, as those of a revoked token."""
    token = pair.token()
    with Client(pair.gateways[0].address) as client:
        client.send(_stream(token["token"], 200)).until(b"data: ")
        pair.manage("PATCH", f"/projects/{token['project_id']}", {"is_active": False})
        deactivated = time.monotonic()
        assert b"[DONE]" not in client.rest()[0]
        assert time.monotonic() - deactivated < 1.5
