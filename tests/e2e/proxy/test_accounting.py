"""Each row of the accounting table that this version has, driven over sockets and counted."""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from e2e.proxy.conftest import CHAT, STREAM
from support.gateway import Gateway, Token, eventually
from support.provider import Provider
from support.raw import Client, Closed, request

from llm_proxy.accounting.outcomes import TABLE

COUNTED = (
    "llm_proxy_requests_total",
    "llm_proxy_errors_total",
    "llm_proxy_upstream_requests_total",
    "llm_proxy_rejected_total",
    "llm_proxy_client_disconnects_total",
)


def snapshot(gateway: Gateway) -> dict[str, float]:
    """All counters of the table."""
    return {name: value for prefix in COUNTED for name, value in gateway.metrics(prefix).items()}


def moved(gateway: Gateway, before: dict[str, float]) -> dict[str, int]:
    """What has moved since, in the table's own words."""
    words = {}
    for name, value in snapshot(gateway).items():
        if step := int(value - before.get(name, 0)):
            short = name.removeprefix("llm_proxy_").replace("_total", "").replace('"', "")
            short = short.split("{")[0] + "{" + short.split("=")[1] if "=" in short else short
            words[short] = step
    return words


def post(body: bytes, token: Token | None, *fields: str, target: str = "/v1/chat/completions") -> bytes:
    """A POST as raw bytes."""
    lines = ["Content-Type: application/json", *fields]
    if token is not None:
        lines.append(f"Authorization: Bearer {token.bearer}")
    return request(target, *lines, method="POST", body=body)


def simulate(**plan: Any) -> str:
    """The field that steers the provider."""
    return f"X-Simulate: {json.dumps(plan)}"


@dataclass(frozen=True)
class Case:
    """One way to end, and what it must count."""

    send: Callable[[Gateway, Token], bytes]
    status: int
    charged: int
    counted: dict[str, int]
    code: str | None = None


def _with(*fields: str, body: bytes = CHAT, target: str = "/v1/chat/completions") -> Callable[[Gateway, Token], bytes]:
    return lambda gateway, token: post(body, token, *fields, target=target)


CASES = {
    "1": Case(_with(), 200, 1, {"requests": 1, "upstream_requests{2xx}": 1}),
    "2": Case(_with(simulate(status=429)), 429, 1, {"requests": 1, "errors": 1, "upstream_requests{4xx}": 1}),
    "3": Case(_with(simulate(status=500)), 500, 1, {"requests": 1, "errors": 1, "upstream_requests{5xx}": 1}),
    "5": Case(
        _with(simulate(cut="head")),
        502,
        1,
        {"requests": 1, "errors": 1, "upstream_requests{aborted}": 1},
        "bad_gateway",
    ),
    "5, garbage": Case(
        _with(simulate(garbage=True)),
        502,
        1,
        {"requests": 1, "errors": 1, "upstream_requests{aborted}": 1},
        "bad_gateway",
    ),
    "6": Case(
        _with(simulate(silence="head")),
        504,
        1,
        {"requests": 1, "errors": 1, "upstream_requests{timeout}": 1},
        "timeout",
    ),
    "14, endpoint": Case(
        _with(target="/v1/nothing"),
        404,
        0,
        {"requests": 1, "errors": 1, "rejected{endpoint_not_found}": 1},
        "endpoint_not_found",
    ),
    "14, upgrade": Case(
        _with("Connection: Upgrade", "Upgrade: websocket"),
        426,
        0,
        {"requests": 1, "errors": 1, "rejected{upgrade_not_supported}": 1},
        "upgrade_not_supported",
    ),
    "14, first chunk": Case(
        lambda gateway, token: (
            request(
                "/v1/files",
                f"Authorization: Bearer {token.bearer}",
                f"X-Request-ID: first-chunk-{token.id}",  # the refusal's own would be another
                "Transfer-Encoding: chunked",
                method="POST",
            )
            + b"zz\r\nabc\r\n0\r\n\r\n"
        ),
        400,
        0,
        {"requests": 1, "errors": 1, "rejected{malformed_request}": 1},
        "malformed_request",
    ),
    "15": Case(
        lambda gateway, token: post(CHAT, None),
        401,
        0,
        {"requests": 1, "errors": 1, "rejected{invalid_token}": 1},
        "invalid_token",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_counts_what_the_table_says(both_lanes: Gateway, name: str) -> None:
    """Status, quota, R, E, up, rejected and the access line are the row's, on both lanes."""
    case, token = CASES[name], both_lanes.token(max_requests=5)
    before = snapshot(both_lanes)
    with Client(both_lanes.address) as client:
        response = client.send(case.send(both_lanes, token)).response("POST")
    assert response.status == case.status
    assert moved(both_lanes, before) == case.counted
    assert both_lanes.request_count(token) == case.charged
    if case.code is not None:
        assert json.loads(response.body)["code"] == case.code
        assert json.loads(response.body)["error"]["code"] == case.code
    line = both_lanes.wait_for_access(request_id=response.value("X-Request-ID"))[0]
    assert (line["status_code"], line["row"]) == (case.status, int(name.split(",")[0]))


@pytest.mark.parametrize(
    ("plan", "label"),
    [
        ({"cut": "body", "after": 300}, "aborted"),
        ({"cut": "body", "after": 0}, "aborted"),
        ({"silence": "body", "after": 300}, "timeout"),
    ],
    ids=["break", "break at once", "stall"],
)
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_broken_response_looks_broken(both_lanes: Gateway, framing: str, plan: dict[str, Any], label: str) -> None:
    """An upstream breaks or stalls during a response: the client's transfer ends incomplete, the unit is spent."""
    token, before = both_lanes.token(max_requests=5), snapshot(both_lanes)
    with Client(both_lanes.address) as client:
        response = client.send(post(CHAT, token, simulate(framing=framing, **plan))).response("POST")
    if framing == "close" and label == "aborted":
        assert response.end == "whole"  # a FIN is the end of such a response: a break looks the same
        return
    assert (response.status, response.end == "whole") == (200, False)
    assert moved(both_lanes, before) == {"requests": 1, "errors": 1, f"upstream_requests{{{label}}}": 1}
    assert both_lanes.request_count(token) == 1
    line = both_lanes.wait_for_access(request_id=response.value("X-Request-ID"))[0]
    assert (line["row"], line["status_code"]) == (7, 200)


def assert_client_left(gateway: Gateway, token: Token, before: dict[str, float], phase: str) -> None:
    """Wait for the counts; the unit stays spent."""
    eventually(lambda: moved(gateway, before) != {})
    assert moved(gateway, before) == {
        "requests": 1,
        "upstream_requests{client_gone}": 1,
        f"client_disconnects{{{phase}}}": 1,
    }
    assert gateway.request_count(token) == 1


def test_a_client_that_leaves_before_the_head_frees_the_provider(both_lanes: Gateway, provider: Provider) -> None:
    """Gone while the provider is silent: its connection is closed within a second, the unit stays spent."""
    token, before = both_lanes.token(max_requests=5), snapshot(both_lanes)
    seen = provider.state()["requests"]
    client = Client(both_lanes.address)
    client.send(post(CHAT, token, simulate(silence="head")))
    eventually(lambda: provider.state()["requests"] > seen)
    client.sock.close()
    provider.wait_for_state(within_s=1.0, running=0)
    assert_client_left(both_lanes, token, before, "before_first_byte")
    assert both_lanes.wait_for_access(row=8, token_id=token.id)[0]["status_code"] == 499


def test_a_client_that_leaves_before_dispatch_is_charged_nothing(both_lanes: Gateway, provider: Provider) -> None:
    """Gone with half a body sent: nothing is dispatched, nothing charged."""
    token, before, seen = both_lanes.token(max_requests=5), snapshot(both_lanes), provider.state()["requests"]
    with Client(both_lanes.address) as client:
        client.send(post(b"x" * 100, token)[:-100]).half_close()
        eventually(lambda: moved(both_lanes, before) != {})
    assert moved(both_lanes, before) == {"requests": 1, "client_disconnects{before_dispatch}": 1}
    assert (both_lanes.request_count(token), provider.state()["requests"]) == (0, seen)
    assert both_lanes.wait_for_access(row=9, token_id=token.id)[0]["status_code"] == 499


def test_a_client_that_leaves_in_mid_stream_frees_the_provider(both_lanes: Gateway, provider: Provider) -> None:
    """Gone in mid-stream, while the provider pauses: freed within a second, the unit stays spent, no error."""
    token, before = both_lanes.token(max_requests=5), snapshot(both_lanes)
    client = Client(both_lanes.address)
    client.send(post(STREAM, token, simulate(silence="body", after=600)))
    client.until(b"data: ")
    client.sock.close()
    provider.wait_for_state(within_s=1.0, running=0)
    assert_client_left(both_lanes, token, before, "mid_stream")
    assert both_lanes.wait_for_access(row=10, token_id=token.id)[0]["status_code"] == 200


def test_an_inactive_project_is_refused_and_audited(gateway: Gateway) -> None:
    """403, no charge, an audit record with everything that identifies the request."""
    token, before = gateway.token(gateway.project(is_active=False), max_requests=5), snapshot(gateway)
    status, fields, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
    assert (status, json.loads(body)["code"]) == (403, "project_inactive")
    assert moved(gateway, before) == {"requests": 1, "errors": 1, "rejected{project_inactive}": 1}
    record = audit_record(gateway, fields["X-Request-ID"])
    assert record["action"] == "proxy_request"
    assert (record["actor"], record["result"], record["project_id"]) == ("system", "denied", token.project_id)
    assert record["client_ip"] == "127.0.0.1"
    details = record["details"]
    assert (details["reason"], details["http_method"], details["endpoint"], details["token_id"]) == (
        "project_inactive",
        "POST",
        "/v1/chat/completions",
        token.id,
    )
    assert details["user_agent"].startswith("Python-urllib")


def test_an_exhausted_token_is_refused_for_good_and_audited(gateway: Gateway) -> None:
    """429 without Retry-After and with x-should-retry: false; the count stays at the limit."""
    token = gateway.token(max_requests=1)
    assert gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)[0] == 200
    before = snapshot(gateway)
    status, fields, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
    assert (status, fields["x-should-retry"], "Retry-After" in fields) == (429, "false", False)
    assert json.loads(body) == {
        "error": {
            "message": "Rate limit exceeded",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        },
        "code": "rate_limit_exceeded",
    }
    assert moved(gateway, before) == {"requests": 1, "errors": 1, "rejected{rate_limit_exceeded}": 1}
    assert gateway.request_count(token) == 1
    assert audit_record(gateway, fields["X-Request-ID"])["action"] == "token.access"


def test_a_project_without_a_key_charges_nothing(gateway: Gateway) -> None:
    """503 upstream_auth_error; the token counts as used, its quota is untouched."""
    token, before = gateway.token(gateway.project(api_key=""), max_requests=5), snapshot(gateway)
    status, _, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
    assert (status, json.loads(body)["code"]) == (503, "upstream_auth_error")
    assert moved(gateway, before) == {"requests": 1, "errors": 1, "rejected{upstream_auth_error}": 1}
    assert gateway.request_count(token) == 0
    last_used = "SELECT last_used_at FROM tokens WHERE id = ?"
    eventually(lambda: gateway.rows(last_used, (token.id,))[0][0] is not None)


def test_a_preflight_is_not_counted(gateway: Gateway) -> None:
    """204 without a body, no counter moves."""
    before = snapshot(gateway)
    status, fields, body = gateway.ask(
        "OPTIONS", "/v1/anything", headers={"Origin": "https://app.example", "Access-Control-Request-Headers": "x-a"}
    )
    assert (status, body, fields["Access-Control-Allow-Headers"]) == (204, b"", "x-a")
    assert moved(gateway, before) == {}


def test_a_refusal_of_the_server_layer_counts_as_its_code_alone(gateway: Gateway) -> None:
    """rejected{code} and one access line; neither a request nor an error."""
    before = snapshot(gateway)
    with Client(gateway.address) as client:
        response = client.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").response()
    assert (response.status, json.loads(response.body)["code"]) == (400, "malformed_request")
    assert moved(gateway, before) == {"rejected{malformed_request}": 1}
    assert gateway.wait_for_access(row=26, request_id=response.value("X-Request-ID"))[0]["status_code"] == 400


def test_a_body_that_goes_silent_before_dispatch_is_408(both_lanes: Gateway, provider: Provider) -> None:
    """408 and close; nothing charged, the provider saw nothing."""
    token, before, seen = both_lanes.token(max_requests=5), snapshot(both_lanes), provider.state()["requests"]
    with Client(both_lanes.address) as client:
        response = client.send(post(b"x" * 100, token)[:-100]).response("POST")
        assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
        assert client.more() == b""
    assert moved(both_lanes, before) == {"requests": 1, "errors": 1, "rejected{request_timeout}": 1}
    assert (both_lanes.request_count(token), provider.state()["requests"]) == (0, seen)
    assert len(both_lanes.wait_for_access(token_id=token.id)) == 1


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "ended"])
def test_an_upload_that_stops_halfway_is_charged(both_lanes: Gateway, provider: Provider, is_silent: bool) -> None:
    """A streamed upload that stops: 408, or nothing for a client that left; the unit is spent."""
    token, before, seen = both_lanes.token(max_requests=5), snapshot(both_lanes), provider.state()["requests"]
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token.bearer}\r\n"
    with Client(both_lanes.address) as client:
        client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
        eventually(lambda: provider.state()["requests"] > seen)
        if is_silent:
            response = client.response("POST")
            assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
        else:
            client.half_close()
            with pytest.raises(Closed):
                client.response("POST")
    provider.wait_for_state(within_s=2.0, running=0)
    eventually(lambda: moved(both_lanes, before) != {})
    wanted = {"requests": 1, "upstream_requests{client_gone}": 1, "client_disconnects{before_first_byte}": 1}
    assert moved(both_lanes, before) == wanted | ({"errors": 1} if is_silent else {})
    assert both_lanes.request_count(token) == 1
    line = both_lanes.wait_for_access(row=28, token_id=token.id)[0]
    assert line["status_code"] == (408 if is_silent else 499)


def test_each_request_so_far_has_the_event_of_its_row(lane_gateway: Gateway, gateway: Gateway) -> None:
    """Of each access line the one event that its row names, or none; as many events as `up{…}` counts (check b)."""
    wanted = {row.number: row.event for row in TABLE}
    for one in (lane_gateway, gateway):
        rows = [(line["request_id"], wanted[line["row"]]) for line in one.access_lines() if "row" in line]
        due = Counter(pair for pair in rows if pair[1])
        eventually(lambda: _events(one) == due, what=lambda: f"too many: {_events(one) - due}, {due - _events(one)}")  # noqa: B023
        assert len(due) == sum(one.metrics("llm_proxy_upstream_requests_total").values())


def _events(gateway: Gateway) -> Counter[tuple[str, str | None]]:
    path = gateway.folder / "events.jsonl"  # made by the first event
    events = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    return Counter((event["request_id"], event["outcome"]) for event in events)


def test_a_provider_that_cannot_be_reached_returns_the_unit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """502, and the quota is as before; five in a row open the circuit, which sends nothing."""
    with unreachable() as url, new_gateway(tmp_path_factory, url) as gateway:
        token, before = gateway.token(max_requests=5), snapshot(gateway)
        for _ in range(5):
            status, _, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
            assert (status, json.loads(body)["code"]) == (502, "bad_gateway")
        assert moved(gateway, before) == {"requests": 5, "errors": 5, "upstream_requests{connect_error}": 5}
        status, fields, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
        assert (status, json.loads(body)["code"]) == (503, "circuit_open")
        assert 1 <= int(fields["Retry-After"]) <= 30
        assert gateway.request_count(token) == 0
        line = gateway.wait_for_access(5, row=4)[0]
        assert line["error"] == f"connect to {url.removeprefix('http://')}: connection refused"


def test_a_failing_model_closes_no_other_way(
    gateway: Gateway, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """CIRCUIT_BREAKER_FAILURES 503s in a row close the way to it alone; 0 switches all of it off."""

    def ask(world: Gateway, token: Token, model: str) -> int:
        fields = {"X-Simulate": '{"status": 503}'} if model == "broken" else {}
        body = json.dumps({"model": model, "messages": []}).encode()
        return world.ask("POST", "/v1/chat/completions", body, token=token, headers=fields)[0]

    for failures, wanted in (("3", "circuit_open"), ("0", "simulated")):
        with new_gateway(tmp_path_factory, provider.url, CIRCUIT_BREAKER_FAILURES=failures) as world:
            token = world.token()
            assert [ask(world, token, "broken") for _ in range(3)] == [503] * 3
            _, _, content = world.ask(
                "POST", "/v1/chat/completions", b'{"model":"broken","messages":[]}', token=token,
                headers={"X-Simulate": '{"status": 503}'},
            )  # fmt: skip
            assert json.loads(content)["error"]["code"] == wanted
            assert ask(world, token, "gpt-4o") == 200
            assert world.ask("GET", "/v1/models", token=token)[0] == 200


def test_a_key_that_the_provider_refuses_is_a_warning(gateway: Gateway, token: Token) -> None:
    """Its 401 passes through; the log says whose key it is about."""
    fields = {"X-Simulate": '{"status": 401}', "X-Request-ID": "refused-key"}
    assert gateway.ask("POST", "/v1/chat/completions", CHAT, token=token, headers=fields)[0] == 401
    line = gateway.wait_for_access(request_id="refused-key")[0]
    assert (line["level"], line["error"]) == ("warn", "provider_refused_key")


@contextmanager
def unreachable() -> Iterator[str]:
    """A port that refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: no other process gets it
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def new_gateway(factory: pytest.TempPathFactory, upstream: str, **variables: str) -> Iterator[Gateway]:
    """A gateway for one test."""
    from support.gateway import running_gateway

    with running_gateway(factory.mktemp("gateway"), upstream, **variables) as gateway:
        yield gateway


def audit_record(gateway: Gateway, request_id: str) -> dict[str, Any]:
    """The audit file's record of a request, once it is there."""
    file = gateway.folder / "data" / "audit.log"

    def found() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [record for record in records if record.get("request_id") == request_id]

    eventually(lambda: len(found()) == 1, what=lambda: f"audit of {request_id}")
    return found()[0]
