"""What an operator sees of three workers that run, from whichever of them replies: streams, events, outcomes."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request
from support.redis import RedisServer, running_redis

STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """Three workers on the in-memory bus."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), provider.url, WEB_CONCURRENCY="3") as started:
        yield started


def manage(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One call of the management API."""
    data = None if body is None else json.dumps(body).encode()
    status, _, content = gateway.ask(
        method, f"/manage{path}", data, headers={"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    )
    return status, json.loads(content) if content else None


@contextmanager
def streaming(gateway: Gateway, token: Token) -> Iterator[Client]:
    """A client in the middle of an event stream that the provider does not end."""
    fields = [
        f"Authorization: Bearer {token.bearer}",
        "Content-Type: application/json",
        f"X-Simulate: {json.dumps({'silence': 'body', 'after': 1})}",
    ]
    with Client(gateway.address) as client:
        client.send(request(PATH, *fields, method="POST", body=STREAM))
        assert b" 200 " in client.until(b"\r\n\r\n")
        yield client


def of_token(gateway: Gateway, token: Token) -> list[dict[str, Any]]:
    """What is listed of a token."""
    status, found = manage(gateway, "GET", "/streams")
    assert status == 200, found
    return [one for one in found if one["token_id"] == token.id]


@pytest.mark.times
def test_a_stream_is_seen_and_cut_from_every_worker(gateway: Gateway) -> None:
    """Each of many look-ups, whichever worker replies, lists it; the cut ends it at once, and its outcome is `cut`."""
    token = gateway.token()
    with streaming(gateway, token) as client:
        eventually(lambda: of_token(gateway, token) != [])
        seen = [of_token(gateway, token) for _ in range(8)]
        assert {len(found) for found in seen} == {1}
        assert len({found[0]["id"] for found in seen}) == 1
        shown = seen[0][0]
        assert (shown["kind"], shown["model"], shown["method"], shown["path"], shown["status"]) == (
            "stream", "gpt-4o", "POST", PATH, 200,
        )  # fmt: skip
        assert shown["request_bytes"] == len(STREAM)
        assert manage(gateway, "DELETE", f"/streams/{shown['id']}") == (204, None)
        assert client.closed_within(5.0) < 2.0
    eventually(lambda: of_token(gateway, token) == [])
    assert manage(gateway, "DELETE", f"/streams/{shown['id']}")[0] == 404
    eventually(lambda: outcomes(gateway, token) == {"cut": 1})


def outcomes(gateway: Gateway, token: Token) -> dict[str, int]:
    """Numbers by code."""
    status, found = manage(gateway, "GET", f"/outcomes?group_by=code&token_id={token.id}")
    assert status == 200, found
    return {row["code"]: row["requests"] for row in found["data"]}


def test_outcomes_of_a_token_tell_why_it_was_refused(gateway: Gateway) -> None:
    """Good ones, those over quota, and those after a revocation, by code; the last refusals with their time."""
    token = gateway.token(max_requests=2)
    for expected in (200, 200, 429):
        assert gateway.ask("GET", "/v1/models", token=token)[0] == expected
    assert manage(gateway, "DELETE", f"/tokens/{token.id}")[0] == 204
    eventually(lambda: gateway.ask("GET", "/v1/models", token=token)[0] == 401)
    eventually(lambda: set(outcomes(gateway, token)) >= {"ok", "rate_limit_exceeded", "token_inactive"})
    assert outcomes(gateway, token)["ok"] == 2
    status, refusals = manage(gateway, "GET", f"/tokens/{token.id}/refusals")
    assert status == 200
    assert refusals[0]["code"] == "token_inactive"
    assert {row["code"] for row in refusals} == {"token_inactive", "rate_limit_exceeded"}
    assert all(row["request_id"] for row in refusals)
    stats = manage(gateway, "GET", "/stats")[1]
    assert stats["today"]["by_code"]["ok"] >= 2
    assert stats["today"]["failed"] >= 2


class Watcher:
    """Reads the tail of events in a thread."""

    def __init__(self, gateway: Gateway, query: str = "") -> None:
        self.events: list[dict[str, Any]] = []
        self.is_open, self.has_ended = threading.Event(), threading.Event()
        self._client = Client(gateway.address)
        self._client.send(request(f"/manage/events/tail{query}", f"Authorization: Bearer {MANAGEMENT_TOKEN}"))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.is_open.wait(10)

    def _read(self) -> None:
        held = b""
        while True:
            try:
                piece = self._client.more()
            except OSError:
                break
            if not piece:
                break
            held += piece
            if b"retry:" in held:
                self.is_open.set()
            lines = held.split(b"\n")
            held = lines.pop()
            self.events += [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
        self.has_ended.set()

    def close(self) -> None:
        """Leave."""
        self._client.sock.close()


def seen_of(watcher: Watcher, token: Token) -> list[dict[str, Any]]:
    """The events of a token."""
    return [event for event in watcher.events if event["token_id"] == token.id]


def test_events_of_all_workers_are_watched(gateway: Gateway) -> None:
    """With the in-memory bus; the filter holds, and no body is shown."""
    token, other = gateway.token(), gateway.token()
    watcher = Watcher(gateway, f"?project_id={token.project_id}")
    eventually(lambda: _asked(gateway, token, other) and len(seen_of(watcher, token)) >= 6, 20)
    assert not seen_of(watcher, other)
    event = seen_of(watcher, token)[0]
    assert (event["outcome"], event["status"], event["path"]) == ("ok", 200, PATH)
    assert not any("body" in name or "header" in name for name in event)
    watcher.close()


def _asked(gateway: Gateway, *tokens: Token) -> bool:
    for token in tokens:
        assert gateway.ask("POST", PATH, STREAM.replace(b"true", b"false"), token=token)[0] == 200
    return True


@pytest.mark.times
def test_a_tail_ends_when_the_server_drains(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider, redis: RedisServer
) -> None:
    """On the stream bus in Redis; the stop does not wait for open tails."""
    told = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": redis.addr, "WEB_CONCURRENCY": "2"}
    with running_gateway(tmp_path_factory.mktemp("drained"), provider.url, **told) as gateway:
        token = gateway.token()
        watcher = Watcher(gateway)
        eventually(lambda: _asked(gateway, token) and seen_of(watcher, token) != [])
        state = manage(gateway, "GET", "/dispatcher")[1]
        assert (state["bus"], state["length"] >= 1, state["dead_letters"]) == ("redis-streams", True, 0)
        began = time.monotonic()
        assert gateway.stop() == 0
        assert watcher.has_ended.wait(10)
        assert time.monotonic() - began < 10
        watcher.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis."""
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started
