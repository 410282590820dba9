"""Model tokens and money through the whole proxy: what the provider reported is what the sums say."""

import csv
import http.client
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.commands import run
from support.gateway import MANAGEMENT_TOKEN, Gateway, Token, eventually, running_gateway
from support.provider import Provider

CHAT_PATH = "/v1/chat/completions"
PLANS: tuple[dict[str, Any], ...] = ({}, {"gzip": True}, {"status": 500}, {"cut": "head"}, {})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with two workers."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), provider.url, WEB_CONCURRENCY="2") as running:
        yield running


def call(
    gateway: Gateway, token: Token, body: dict[str, Any], path: str = CHAT_PATH, /, **plan: Any
) -> tuple[int, dict[str, str], bytes]:
    """One POST, steered by a plan."""
    headers = {"Content-Type": "application/json", "X-Simulate": json.dumps(plan)}
    return gateway.ask("POST", path, json.dumps(body).encode(), token=token, headers=headers)


def chat(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
    """A chat completion's body."""
    return {"model": model, "messages": [{"role": "user", "content": "hello there"}], **more}


def manage(gateway: Gateway, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One call of the management API."""
    data = None if body is None else json.dumps(body).encode()
    status, _, response = gateway.ask(
        method, f"/manage{path}", data, headers={"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    )
    assert status in (200, 201), response
    return json.loads(response)


def sums(gateway: Gateway, **query: str) -> list[dict[str, Any]]:
    """Rows of /manage/usage."""
    found: list[dict[str, Any]] = manage(gateway, "GET", f"/usage?{urlencode(query)}")["data"]
    return found


def summed(gateway: Gateway, token: Token, requests: int) -> dict[str, Any]:
    """A token's sums, once so many of its requests are in them."""
    eventually(lambda: sums(gateway, token_id=token.id)[0]["requests"] == requests, what=lambda: f"{requests} requests")
    return sums(gateway, token_id=token.id)[0]


def test_sums_equal_what_the_provider_reported(gateway: Gateway, provider: Provider) -> None:
    """Many calls of several families, whole and streamed, over two workers, with clients that hurry: to the token."""
    choice = random.Random(7)
    tokens = [gateway.token() for _ in range(3)]
    jobs = []
    expected: dict[tuple[str, str], Counter[str]] = {}
    for number in range(120):
        token, model = choice.choice(tokens), choice.choice(["gpt-4o", "gpt-4o-mini-2024-07-18", "not-priced"])
        usage = {"prompt": choice.randint(1, 900), "completion": choice.randint(0, 900)}
        usage |= {"cached": choice.randint(0, usage["prompt"]), "reasoning": choice.randint(0, usage["completion"])}
        body, path = [
            (chat(model), CHAT_PATH),
            (chat(model, stream=True, stream_options={"include_usage": True}), CHAT_PATH),
            ({"model": model, "input": "hello"}, "/v1/responses"),
            ({"model": model, "input": "hello", "stream": True}, "/v1/responses"),
        ][number % 4]
        jobs.append((token, body, path, {"usage": usage, "gzip": choice.random() < 0.3}))
        expected.setdefault((token.id, model), Counter()).update({"requests": 1, **usage})
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda job: call(gateway, job[0], job[1], job[2], **job[3])[0], jobs))
    assert set(responses) == {200}

    def found() -> dict[tuple[str, str], Counter[str]]:
        rows = [row for token in tokens for row in sums(gateway, token_id=token.id, group_by="token,model")]
        names = {"prompt": "prompt_tokens", "completion": "completion_tokens"}
        names |= {"cached": "cached_tokens", "reasoning": "reasoning_tokens", "requests": "requests"}
        return {
            (row["token"], row["model"]): Counter({name: row[column] for name, column in names.items()}) for row in rows
        }

    eventually(lambda: found() == expected, what=lambda: f"{expected}, but {found()}")
    rows = [row for token in tokens for row in sums(gateway, token_id=token.id, group_by="model")]
    for row in rows:
        if row["model"] == "not-priced":
            assert row["cost_usd"] is None
    for token in tokens:
        shown = manage(gateway, "GET", f"/tokens/{token.id}")
        total = sums(gateway, token_id=token.id)[0]
        assert shown["total_tokens"] == total["prompt_tokens"] + total["completion_tokens"]
        assert shown["total_cost_usd"] == pytest.approx(total["cost_usd"])
        assert total["estimated"] == 0
    counted = gateway.metrics("llm_proxy_model_tokens_total")
    assert counted['llm_proxy_model_tokens_total{kind="prompt"}'] >= sum(one["prompt"] for one in expected.values())
    assert gateway.metric("llm_proxy_unpriced_requests_total") >= 1
    assert gateway.metric("llm_proxy_cost_usd_total") > 0


def test_money_follows_the_price_list(gateway: Gateway) -> None:
    """gpt-4o at 2.50, cached at 1.25, completion at 10 USD a million."""
    token = gateway.token()
    assert call(gateway, token, chat(), usage={"prompt": 1000, "cached": 400, "completion": 100})[0] == 200
    assert summed(gateway, token, 1)["cost_usd"] == (600 * 2.5 + 400 * 1.25 + 100 * 10) / 1_000_000


def test_a_stream_without_usage_is_estimated_and_marked(gateway: Gateway) -> None:
    """Characters over four, rounded up, of what was asked and of what came."""
    token = gateway.token()
    status, _, body = call(gateway, token, chat(stream=True))
    text = "".join(
        json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        for line in body.decode().splitlines()
        if line.startswith("data: {")
    )
    found = summed(gateway, token, 1)
    assert status == 200
    assert (found["estimated"], found["prompt_tokens"], found["completion_tokens"]) == (1, 3, -(-len(text) // 4))


def test_a_background_object_counts_once(gateway: Gateway) -> None:
    """Not with the POST that queued it, once with the first response that shows it finished, never again."""
    token = gateway.token()
    queued = {"id": "resp_1", "object": "response", "background": True, "status": "queued", "model": "gpt-4o"}
    done = queued | {"status": "completed", "usage": {"input_tokens": 70, "output_tokens": 30}}
    plain = {"id": "resp_2", "object": "response", "status": "completed", "model": "gpt-4o", "usage": done["usage"]}
    ask = {"model": "gpt-4o", "input": "x", "background": True}
    assert call(gateway, token, ask, "/v1/responses", body=json.dumps(queued | {"usage": None}))[0] == 200
    for shown in [done] * 6 + [plain] * 2:
        headers = {"X-Simulate": json.dumps({"body": json.dumps(shown)}), "Cache-Control": "no-store"}
        assert gateway.ask("GET", f"/v1/responses/{shown['id']}", token=token, headers=headers)[0] == 200
    found = summed(gateway, token, 9)
    eventually(lambda: sums(gateway, token_id=token.id)[0]["prompt_tokens"] == 70)
    assert found["estimated"] == 0
    assert sums(gateway, token_id=token.id)[0]["completion_tokens"] == 30


def test_a_refused_exchange_uses_nothing(gateway: Gateway) -> None:
    """A provider's error counts as a request and has no tokens, whatever model was made up for it."""
    token = gateway.token()
    assert call(gateway, token, chat("made-up"), status=404)[0] == 404
    assert summed(gateway, token, 1)["prompt_tokens"] == 0
    assert [row["model"] for row in sums(gateway, token_id=token.id, group_by="model")] == ["unknown"]


def budgeted(gateway: Gateway, **limits: Any) -> Token:
    """A token with limits."""
    token = gateway.token()
    manage(gateway, "PATCH", f"/tokens/{token.id}", limits)
    return token


def spent(gateway: Gateway, token: Token, **plan: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Call until it is refused: the refusal. At most what two seconds allow gets through."""
    refused: list[tuple[int, dict[str, str], bytes]] = []

    def is_refused() -> bool:
        response = call(gateway, token, chat(), **plan)
        if response[0] != 200:
            refused.append(response)
        return bool(refused)

    eventually(is_refused)
    status, fields, body = refused[0]
    return status, fields, json.loads(body)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_total_tokens": 100}, "token_budget_exceeded"),
        ({"max_cost_usd": "0.0001"}, "cost_budget_exceeded"),
    ],
)
def test_a_budget_ends_a_token(gateway: Gateway, limits: dict[str, Any], code: str) -> None:
    """429, final for stock clients; PATCH lets it go on."""
    token = budgeted(gateway, **limits)
    assert call(gateway, token, chat(), usage={"prompt": 60, "completion": 60})[0] == 200
    status, fields, body = spent(gateway, token, usage={"prompt": 60, "completion": 60})
    assert (status, body["code"], body["error"]["type"]) == (429, code, "rate_limit_error")
    assert fields["x-should-retry"] == "false"
    assert "Retry-After" not in fields
    manage(gateway, "PATCH", f"/tokens/{token.id}", dict.fromkeys(limits))
    eventually(lambda: call(gateway, token, chat())[0] == 200)


def test_a_projects_month_ends_all_its_tokens(gateway: Gateway) -> None:
    """max_cost_usd_per_month over all tokens of the project, and only of that."""
    one = gateway.token()
    other, stranger = gateway.token(one.project_id), gateway.token()
    manage(gateway, "PATCH", f"/projects/{one.project_id}", {"max_cost_usd_per_month": "0.001"})
    eventually(lambda: call(gateway, one, chat(), usage={"prompt": 100, "completion": 10})[0] == 429)
    status, fields, body = spent(gateway, other)
    assert (status, body["code"]) == (429, "cost_budget_exceeded")
    assert fields["x-should-retry"] == "false"
    assert call(gateway, stranger, chat())[0] == 200


def test_money_buys_only_what_has_a_price(gateway: Gateway, provider: Provider) -> None:
    """403 `model_not_priced` before dispatch, in JSON and in a form; no model named passes."""
    token = budgeted(gateway, max_cost_usd="5")
    before = len(provider.seen())
    status, _, body = call(gateway, token, chat("not-priced"))
    assert (status, json.loads(body)["code"]) == (403, "model_not_priced")
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nnot-priced\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, _, response = gateway.ask("POST", "/v1/audio/transcriptions", form, token=token, headers=headers)
    assert (status, json.loads(response)["code"]) == (403, "model_not_priced")
    assert len(provider.seen()) == before
    assert gateway.request_count(token) == 0
    assert call(gateway, token, {"messages": [{"role": "user", "content": "x"}]})[0] == 200
    assert call(gateway, token, chat("gpt-4o-2024-08-06"))[0] == 200
    assert gateway.ask("GET", "/v1/models", token=token)[0] == 200
    assert gateway.metric('llm_proxy_rejected_total{code="model_not_priced"}') == 2


def test_model_tokens_a_minute(gateway: Gateway) -> None:
    """429 with Retry-After once the minute's tokens are used; the window knows model tokens, not requests."""
    token = budgeted(gateway, tokens_per_minute=500)
    status, fields, body = spent(gateway, token, usage={"prompt": 100, "completion": 100})
    assert (status, body["code"], body["description"]) == (429, "rate_limit_exceeded", "token rate limit")
    assert 1 <= int(fields["Retry-After"]) <= 120
    assert fields["RateLimit-Policy"] == '"token-tokens";q=500;qu="tokens";w=60'
    assert "x-should-retry" not in fields


def test_usage_is_listed_by_group_page_by_page_and_as_csv(gateway: Gateway) -> None:
    """group_by, filters, cursor, format; what is wrong is 400 by name."""
    token = gateway.token()
    for model in ("gpt-4o", "gpt-4o-mini", "o3"):
        assert call(gateway, token, chat(model))[0] == 200
    summed(gateway, token, 3)
    query = {"token_id": token.id, "group_by": "model,day", "limit": "2"}
    first = manage(gateway, "GET", f"/usage?{urlencode(query)}")
    assert [row["model"] for row in first["data"]] == ["gpt-4o", "gpt-4o-mini"]
    rest = manage(gateway, "GET", f"/usage?{urlencode({**query, 'cursor': first['next_cursor']})}")
    assert ([row["model"] for row in rest["data"]], rest["next_cursor"]) == (["o3"], None)
    headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    status, fields, body = gateway.get(f"/manage/usage?token_id={token.id}&group_by=model&format=csv", headers)
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert (status, fields["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert [(row["model"], row["requests"]) for row in rows] == [("gpt-4o", "1"), ("gpt-4o-mini", "1"), ("o3", "1")]
    assert sums(gateway, token_id=token.id, to="2020-01-01")[0]["requests"] == 0
    for wrong in ("group_by=colour", "format=xml", "from=2030-01-01&to=2020-01-01", "limit=0", "cursor=x"):
        status, _, body = gateway.get(f"/manage/usage?{wrong}", headers)
        assert status == 400
        assert wrong.partition("=")[0] in json.loads(body)["error"]


def test_the_numbers_agree_and_the_commands_say_so(gateway: Gateway) -> None:
    """`usage show` in three forms, `usage reconcile` with exit 0, and 1 once a counter was changed."""
    token = gateway.token()
    assert [call(gateway, token, chat())[0] for _ in range(5)] == [200] * 5
    summed(gateway, token, 5)
    where = {"variables": gateway.env, "folder": gateway.folder}
    flags = ("--direct", "--token-id", token.id, "--group-by", "model")
    shown = run("usage", "show", *flags, "-o", "json", **where)  # type: ignore[arg-type]
    assert (shown.returncode, json.loads(shown.stdout)["data"][0]["requests"]) == (0, 5), shown.stderr
    table = run("usage", "show", *flags, **where)  # type: ignore[arg-type]
    assert "gpt-4o" in table.stdout
    as_csv = run("usage", "show", *flags, "-o", "csv", **where)  # type: ignore[arg-type]
    assert as_csv.stdout.splitlines()[0].startswith("model,requests,prompt_tokens")

    def differences() -> list[dict[str, Any]]:
        said = run("usage", "reconcile", "--json", **where)  # type: ignore[arg-type]
        found = json.loads(said.stdout)["differences"]
        assert said.returncode == bool(found), said.stderr
        return [one for one in found if one["token_id"] == token.id]

    assert differences() == []
    gateway.execute("UPDATE tokens SET request_count = request_count + 2 WHERE id = ?", (token.id,))
    assert [(one["what"], one["difference"]) for one in differences()] == [("requests", 2)]


def test_a_small_budget_is_kept_by_workers_that_take_turns(gateway: Gateway) -> None:
    """What one worker has just settled is known to the other: of 12 calls in a row a budget of 3 lets few more pass."""
    token = gateway.token()
    manage(gateway, "PATCH", f"/tokens/{token.id}", {"max_total_tokens": 300})
    statuses = [call(gateway, token, chat(), usage={"prompt": 50, "completion": 50})[0] for _ in range(12)]
    assert set(statuses) == {200, 429}
    assert 3 <= statuses.count(200) <= 7


def test_who_leaves_a_stream_has_used_what_had_come(gateway: Gateway) -> None:
    """Hanging up is no way round a budget: what passed is estimated."""
    token = gateway.token()
    connection = http.client.HTTPConnection(*gateway.address, timeout=20)
    headers = {"Authorization": f"Bearer {token.bearer}", "Content-Type": "application/json"}
    headers["X-Simulate"] = json.dumps({"events": 500, "interval": "20ms"})
    connection.request("POST", CHAT_PATH, json.dumps(chat(stream=True)), headers)
    connection.getresponse().read(2000)
    connection.close()
    found = summed(gateway, token, 1)
    assert (found["estimated"], found["prompt_tokens"]) == (1, 3)
    assert 1 <= found["completion_tokens"] < 400


def test_a_drain_writes_everything_down(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> None:
    """SIGTERM right behind the last response: its usage is in the database, and agrees with counters and events."""
    folder = tmp_path_factory.mktemp("drained")
    events = str(folder / "events.jsonl")
    with running_gateway(folder, provider.url, FILE_EVENT_LOG=events) as gateway:
        token = gateway.token()
        responses = [call(gateway, token, chat(), usage={"prompt": 5, "completion": 6}, **plan)[0] for plan in PLANS]
        assert responses == [200, 200, 500, 502, 200]
        assert gateway.stop() == 0
        rows = gateway.rows("SELECT sum(requests), sum(prompt_tokens), sum(completion_tokens) FROM usage_daily")
        assert rows == [(5, 15, 18)]
        said = run("usage", "reconcile", "--events", events, "--json", variables=gateway.env, folder=folder)
        assert (said.returncode, json.loads(said.stdout)["events"]) == (0, 5), said.stdout + said.stderr
        lines = Path(events).read_text().splitlines()
        Path(events).write_text("\n".join(lines[1:]) + "\n")
        said = run("usage", "reconcile", "--events", events, variables=gateway.env, folder=folder)
        assert (said.returncode, f"{token.id}  events" in said.stdout) == (1, True), said.stdout
