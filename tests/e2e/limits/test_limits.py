"""Rate limits through the whole proxy: what is admitted, what the refusal says, and what Redis' absence changes."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, Token, eventually, running_gateway
from support.provider import Provider, running_provider
from support.redis import RedisServer

pytestmark = pytest.mark.times


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The simulated provider."""
    with running_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


def asked(gateway: Gateway, token: Token, number: int, **headers: str) -> list[tuple[int, dict[str, str], bytes]]:
    """That many questions, one after another."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return [gateway.ask("GET", "/v1/models", token=token, headers=fields) for _ in range(number)]


def statuses(responses: list[tuple[int, dict[str, str], bytes]]) -> list[int]:
    """Only these."""
    return [status for status, _, _ in responses]


def manage(gateway: Gateway, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of the management API."""
    headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    status, _, response = gateway.ask(method, f"/manage{path}", json.dumps(body).encode(), headers=headers)
    assert status == 200, response
    found: dict[str, Any] = json.loads(response)
    return found


def test_addresses_and_everybody_have_windows_over_all_workers(tmp_path: Path, provider: Provider) -> None:
    """Step 8, by the address behind a trusted proxy, then for all; wrong management tokens by address, too."""
    limits = {"IP_RATE_LIMIT": "3", "GLOBAL_RATE_LIMIT": "5", "WEB_CONCURRENCY": "2", "TRUSTED_PROXIES": "127.0.0.0/8"}
    with running_gateway(tmp_path, provider.url, **limits) as gateway:
        guess = {"Authorization": "Bearer wrong", "Connection": "close", "X-Forwarded-For": "192.0.2.1"}
        guesses = [gateway.get("/manage/tokens", guess)[0] for _ in range(30)]
        assert guesses == [401] * 20 + [429] * 10  # as exact, and it fills no window
        assert gateway.get("/manage/tokens", {**guess, "X-Forwarded-For": "192.0.2.2"})[0] == 401
        assert gateway.get("/manage/tokens", {**guess, "Authorization": f"Bearer {MANAGEMENT_TOKEN}"})[0] == 200
        token = gateway.token()
        first = asked(gateway, token, 5, X_Forwarded_For="192.0.2.1")
        assert statuses(first) == [200, 200, 200, 429, 429]
        body = json.loads(first[-1][2])
        assert (body["code"], body["description"]) == ("rate_limit_exceeded", "client rate limit")
        assert body["error"]["type"] == "rate_limit_error"
        second = asked(gateway, token, 3, X_Forwarded_For="192.0.2.2")
        assert statuses(second) == [200, 200, 429]
        assert json.loads(second[-1][2])["description"] == "global rate limit"
        fields = second[-1][1]
        assert 1 <= int(fields["Retry-After"]) <= 120
        assert fields["RateLimit-Policy"] == '"global";q=5;w=60'
        assert fields["RateLimit"].startswith('"global";r=0;t=')
        eventually(lambda: gateway.request_count(token) == 5)
        assert gateway.get("/live")[0] == 200
        assert "limits, counted on this server: 5 requests a minute in all, 3 from one address" in gateway.output()


def test_a_stock_client_waits_as_long_as_it_is_told(tmp_path: Path, provider: Provider) -> None:
    """OpenAI's client asks again after Retry-After, once, and gets its response; it accepts a used-up quota."""
    window = {"DISTRIBUTED_RATE_LIMIT_MAX": "2", "DISTRIBUTED_RATE_LIMIT_WINDOW": "2s"}
    with running_gateway(tmp_path, provider.url, **window, HTTP_CACHE_ENABLED="false") as gateway:
        token = gateway.token(max_requests=3)
        with openai.OpenAI(api_key=token.bearer, base_url=f"{gateway.url}/v1", max_retries=5) as client:
            for _ in range(3):
                assert client.models.list().data
            with pytest.raises(openai.RateLimitError):
                client.models.list()
        gateway.wait_for_access(row=17, token_id=token.id)
        lines = gateway.access_lines(token_id=token.id)
        assert [(line["status_code"], line["row"]) for line in lines[:4]] == [(200, 1), (200, 1), (429, 18), (200, 1)]
        refused, served = (datetime.fromisoformat(line["ts"]) for line in lines[2:4])
        assert 0.9 < (served - refused).total_seconds() < 6


def test_a_token_and_its_project_have_limits_of_their_own(tmp_path: Path, provider: Provider) -> None:
    """0.1: requests_per_minute, felt within a second of the PATCH, checked token first."""
    with running_gateway(tmp_path, provider.url) as gateway:
        one = gateway.token()
        other = gateway.token(project_id=one.project_id)
        manage(gateway, "PATCH", f"/tokens/{one.id}", {"requests_per_minute": 2})
        responses = asked(gateway, one, 3)
        assert statuses(responses) == [200, 200, 429]
        assert json.loads(responses[-1][2])["description"] == "token rate limit"
        assert statuses(asked(gateway, other, 4)) == [200] * 4
        manage(gateway, "PATCH", f"/projects/{one.project_id}", {"requests_per_minute": 3})
        eventually(lambda: asked(gateway, other, 1)[0][0] == 429, within_s=10)
        refused = asked(gateway, other, 1)[0]
        assert json.loads(refused[2])["description"] == "project rate limit"


def counts_in_redis(gateway: Gateway, token: Token) -> bool:
    """Make a request, and tell whether Redis was asked for it."""
    asked(gateway, token, 1)
    return gateway.metric("llm_proxy_ratelimit_fallback") == 0


def test_replicas_share_a_tokens_window_in_redis_and_go_on_without(
    tmp_path: Path, provider: Provider, redis_server: RedisServer
) -> None:
    """100 of 300 that hurry, over two servers; with Redis gone midway each server goes on by itself.

    What a server admitted through Redis counts there too: of 100 it has at most what is left.
    """
    shared = {
        "DISTRIBUTED_RATE_LIMIT_ENABLED": "true",
        "DISTRIBUTED_RATE_LIMIT_MAX": "100",
        "DISTRIBUTED_RATE_LIMIT_WINDOW": "1h",
        "REDIS_ADDR": redis_server.addr,
        "DATABASE_PATH": str(tmp_path / "shared.db"),
        "ENCRYPTION_KEY": "0" * 43 + "=",
    }
    with (
        running_gateway(tmp_path / "a", provider.url, **shared) as one,
        running_gateway(tmp_path / "b", provider.url, **shared) as other,
    ):
        project = one.ask(
            "POST",
            "/manage/projects",
            b'{"name": "p", "api_key": "sk-provider"}',
            headers={"Authorization": f"Bearer {MANAGEMENT_TOKEN}"},
        )
        body = {"project_id": json.loads(project[2])["id"], "duration_minutes": 5}
        made = [manage(one, "POST", "/tokens", body) for _ in range(3)]
        tokens = [Token(found["id"], found["project_id"], found["token"]) for found in made]
        with ThreadPoolExecutor(16) as pool:
            # first with another token: opening 16 connections to Redis at once takes longer than a call may
            list(pool.map(lambda each: asked(each, tokens[2], 1), [one, other] * 16))
            eventually(lambda: all(counts_in_redis(each, tokens[2]) for each in (one, other)), 20)
            found = list(pool.map(lambda each: asked(each, tokens[0], 1)[0][0], [one, other] * 150))
        assert (found.count(200), found.count(429)) == (100, 200)
        assert set(statuses(asked(one, tokens[1], 40))) == {200}
        redis_server.kill()
        found = statuses(asked(one, tokens[1], 80))
        assert (found.count(200), found.count(429)) == (60, 20)
        eventually(lambda: one.metric("llm_proxy_ratelimit_fallback") == 1)
        assert one.get("/ready")[0] == 200


def test_without_a_fallback_redis_is_required(tmp_path: Path, provider: Provider, redis_server: RedisServer) -> None:
    """503 `service_unavailable` rather than an unlimited token."""
    with running_gateway(
        tmp_path,
        provider.url,
        DISTRIBUTED_RATE_LIMIT_ENABLED="true",
        DISTRIBUTED_RATE_LIMIT_FALLBACK="false",
        REDIS_ADDR=redis_server.addr,
    ) as gateway:
        token = gateway.token()
        assert statuses(asked(gateway, token, 1)) == [200]
        redis_server.kill()
        status, fields, body = asked(gateway, token, 1)[0]
        assert (status, json.loads(body)["code"]) == (503, "service_unavailable")
        assert fields["Retry-After"] == "1"
