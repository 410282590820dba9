"""Events of the real server: one an exchange and none for refusals, whole and masked, whatever Redis does."""

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.dispatcher import dispatching, until, variables
from support.gateway import PROVIDER_KEY, Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request
from support.redis import RedisServer, running_redis
from support.services import running

from llm_proxy.events.event import Event
from llm_proxy.formats.streams import merge

CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()
STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
PATH = "/v1/chat/completions"
LIMITS = {"UPSTREAM_FIRST_BYTE_TIMEOUT": "800ms", "UPSTREAM_IDLE_TIMEOUT": "800ms", "REQUEST_BODY_TIMEOUT": "1s"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests that do not stop it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


class World:
    """A proxy, and the events that it made."""

    def __init__(self, gateway: Gateway, redis: RedisServer) -> None:
        self.gateway, self.redis = gateway, redis

    def events(self) -> list[Event]:
        """All on the stream."""
        entries: Any = self.redis.client().xrange("llm-proxy-events")
        return [Event.from_wire(fields[b"data"]) for _, fields in entries]

    def of(self, token: Token, number: int = 1) -> list[Event]:
        """A token's events, once there are so many."""
        eventually(lambda: len([e for e in self.events() if e.token_id == token.id]) >= number, 10)
        return [event for event in self.events() if event.token_id == token.id]

    def ask(self, token: Token, body: bytes = CHAT, path: str = PATH, **plan: Any) -> tuple[int, dict[str, str], bytes]:
        """One call."""
        fields = {"Content-Type": "application/json", **({"X-Simulate": json.dumps(plan)} if plan else {})}
        return self.gateway.ask("POST", path, body, token=token, headers=fields)


@pytest.fixture(scope="module", params=["fast", "slow"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, provider: Provider, redis: RedisServer
) -> Iterator[World]:
    """On both lanes, on the stream bus."""
    redis.client().flushall()
    lane = "true" if request.param == "fast" else "false"
    told = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": redis.addr, "LLM_PROXY_FAST_LANE": lane, **LIMITS}
    with running_gateway(tmp_path_factory.mktemp("gateway"), provider.url, WEB_CONCURRENCY="1", **told) as started:
        yield World(started, redis)


def post(token: Token, body: bytes, **plan: Any) -> bytes:
    """A POST as raw bytes."""
    lines = ["Content-Type: application/json", f"Authorization: Bearer {token.bearer}"]
    return request(PATH, *lines, f"X-Simulate: {json.dumps(plan)}", method="POST", body=body)


def test_an_exchange_is_one_event_with_all_its_facts(world: World) -> None:
    """Ids, status, times, bodies, fields; the secrets are in none of them."""
    token = world.gateway.token()
    body = CHAT.replace(b"hello", f"my key is {token.bearer} and {PROVIDER_KEY}".encode())
    status, fields, response = world.ask(token, body)
    (event,) = world.of(token)
    assert (event.status, event.outcome, event.method, event.path) == (status, "ok", "POST", PATH)
    assert (event.project_id, event.provider) == (token.project_id, "openai")
    assert event.request_id == fields["X-Request-ID"]
    assert event.response_body == response
    assert event.request_content_type == "application/json"
    assert event.log_id > 0
    assert event.started_at is not None
    assert abs(event.started_at.timestamp() - time.time()) < 60
    assert 0 < (event.time_to_first_byte_ns or 0) <= event.duration_ns < 30e9
    assert event.header("content-type") == fields["Content-Type"]
    wire = event.to_wire() + (event.request_body or b"")
    assert token.bearer.encode() not in wire
    assert PROVIDER_KEY.encode() not in wire
    assert b"my key is sk-" in (event.request_body or b"")


def test_a_stream_is_captured_as_it_was_sent(world: World) -> None:
    """Every chunk, and they merge to the response with its usage."""
    token = world.gateway.token()
    asked = json.loads(STREAM) | {"stream_options": {"include_usage": True}}
    _, _, response = world.ask(token, json.dumps(asked).encode())
    (event,) = world.of(token)
    assert event.response_body == response
    merged = merge(event.response_body or b"")
    assert merged is not None
    assert merged.response["usage"]["total_tokens"] > 0


def test_a_gzipped_response_stays_gzipped(world: World) -> None:
    """Bytes as sent."""
    token = world.gateway.token()
    _, _, response = world.ask(token, gzip=True)
    assert world.of(token)[0].response_body == response
    assert response[:2] == b"\x1f\x8b"


def test_a_long_response_is_cut_and_keeps_its_end(world: World) -> None:
    """The first 256 KiB and the last 16."""
    token = world.gateway.token()
    _, _, response = world.ask(token, size=1_000_000, content_type="text/plain")
    (event,) = world.of(token)
    assert event.response_body == response[:262144]
    assert event.response_truncated
    assert (event.response_tail, event.response_bytes) == (response[-16384:], len(response))


def test_uploads_and_sounds_are_measured(world: World) -> None:
    """A streamed upload and audio: lengths without bodies."""
    token = world.gateway.token()
    upload = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--b\r\n'
    upload += b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 300_000 + b"\r\n--b--\r\n"
    fields = {"Content-Type": "multipart/form-data; boundary=b"}
    assert world.gateway.ask("POST", "/v1/files", upload, token=token, headers=fields)[0] == 200
    (event,) = world.of(token)
    assert (event.request_body, event.request_bytes) == (None, len(upload))
    speech = json.dumps({"model": "tts-1", "input": "hi", "voice": "alloy"}).encode()
    _, _, response = world.ask(token, speech, "/v1/audio/speech")
    sound = world.of(token, 2)[1]
    assert (sound.response_body, sound.response_bytes) == (None, len(response))


def test_a_streamed_request_body_is_captured_too(world: World) -> None:
    """Chunked JSON, piece by piece."""
    token = world.gateway.token()
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token.bearer}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Client(world.gateway.address) as client:
        client.send(head.encode())
        for piece in (CHAT[:20], CHAT[20:]):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(0.05)
        assert client.send(b"0\r\n\r\n").response("POST").status == 200
    assert world.of(token)[0].request_body == CHAT


@pytest.mark.parametrize(
    ("plan", "status", "outcome"),
    [
        ({"status": 429}, 429, "upstream_error"),
        ({"status": 500}, 500, "upstream_error"),
        ({"cut": "head"}, 502, "upstream_aborted"),
        ({"silence": "head"}, 504, "timeout"),
    ],
    ids=["4xx", "5xx", "broken", "timeout"],
)
def test_failures_are_events(world: World, plan: dict[str, Any], status: int, outcome: str) -> None:
    """Whatever became of it at the provider; without a body where there was no head."""
    token = world.gateway.token()
    assert world.ask(token, **plan)[0] == status
    world.ask(token)  # the circuit sees a success
    event = world.of(token, 2)[0]
    assert (event.status, event.outcome) == (status, outcome)
    assert (event.response_body or b"") == b"" or outcome == "upstream_error"


def test_a_break_in_mid_response_is_an_event_with_what_came(world: World) -> None:
    """upstream_aborted, the provider's status, the part that was relayed, marked."""
    token = world.gateway.token()
    with Client(world.gateway.address) as client:
        client.send(post(token, CHAT, cut="body", after=100, framing="chunked")).response("POST")
    world.ask(token)
    event = world.of(token, 2)[0]
    assert (event.status, event.outcome, event.response_truncated) == (200, "upstream_aborted", True)
    assert len(event.response_body or b"") == 100


def test_a_client_that_leaves_is_an_event(world: World, provider: Provider) -> None:
    """Before the head: 499 and no body. In mid-stream: the provider's status and what was relayed."""
    token = world.gateway.token()
    seen = provider.state()["requests"]
    client = Client(world.gateway.address)
    client.send(post(token, CHAT, silence="head"))
    eventually(lambda: provider.state()["requests"] > seen)
    client.sock.close()
    (event,) = world.of(token)
    assert (event.status, event.outcome, event.response_body or b"") == (499, "client_disconnect", b"")
    other = world.gateway.token()
    client = Client(world.gateway.address)
    client.send(post(other, STREAM, silence="body", after=600))
    client.until(b"data: ")
    client.sock.close()
    (event,) = world.of(other)
    assert (event.status, event.outcome, event.response_truncated) == (200, "client_disconnect", True)
    assert b"data: " in (event.response_body or b"")


def test_refusals_are_no_events(world: World) -> None:
    """404, 401, 403, 429 of the proxy, preflights, probes, management: nothing on the bus."""
    gateway, before = world.gateway, len(world.events())
    spent = gateway.token(max_requests=1)
    world.ask(spent)
    world.of(spent)
    inactive = gateway.token(gateway.project(is_active=False))
    refused = [
        gateway.ask("POST", "/v1/nothing", CHAT, token=spent)[0],
        gateway.ask("POST", PATH, CHAT)[0],
        world.ask(inactive)[0],
        world.ask(spent)[0],
        gateway.ask("OPTIONS", PATH, headers={"Origin": "https://a.example"})[0],
        gateway.get("/health")[0],
    ]
    assert refused == [404, 401, 403, 429, 204, 200]
    token = gateway.token()
    world.ask(token)
    world.of(token)
    assert len(world.events()) == before + 2


@pytest.mark.parametrize("privacy", ["metadata", "off"])
def test_a_project_decides_what_is_seen(world: World, privacy: str) -> None:
    """metadata: no bodies, but the usage. off: no event at all. Felt within a second of the change."""
    gateway = world.gateway
    token, other = gateway.token(), gateway.token()
    gateway.execute("UPDATE projects SET event_privacy = ? WHERE id = ?", (privacy, token.project_id))
    world.ask(token)
    world.ask(other)
    world.of(other)
    found = [event for event in world.events() if event.token_id == token.id]
    if privacy == "off":
        assert found == []
        return
    (event,) = found or world.of(token)
    assert (event.request_body, event.response_body) == (None, None)
    assert event.usage is not None
    assert set(event.usage) >= {"prompt_tokens", "completion_tokens"}
    assert event.request_bytes == len(CHAT)


def test_events_are_as_many_as_exchanges(world: World) -> None:
    """The table's check (b): the sum of events is the sum of up{*}, but for projects that want none."""
    off = world.gateway.rows("SELECT COUNT(*) FROM projects WHERE event_privacy = 'off'")[0][0]

    def balance() -> bool:
        exchanges = sum(world.gateway.metrics("llm_proxy_upstream_requests_total").values())
        published = world.gateway.metric("llm_proxy_events_published_total")
        return bool(exchanges - off == len(world.events()) == published)

    eventually(balance, 5, lambda: f"{world.gateway.metrics('llm_proxy_')}, {len(world.events())}")


# -- outages and ends ------------------------------------------------------------------------------------------------


@contextmanager
def proxy(folder: Path, provider: Provider, redis: RedisServer, **more: str) -> Iterator[World]:
    """A proxy and a Redis of the test's own."""
    told = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": redis.addr, "WEB_CONCURRENCY": "1", **LIMITS, **more}
    with running_gateway(folder, provider.url, **told) as started:
        yield World(started, redis)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis to be stopped."""
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as started:
        yield started


def test_requests_pass_while_redis_is_unavailable(tmp_path: Path, provider: Provider, own_redis: RedisServer) -> None:
    """Stopped under load: /ready stays 200, no request fails or waits for it, and all events arrive after, in order."""
    with proxy(tmp_path / "proxy", provider, own_redis) as world:
        token, times = world.gateway.token(), list[float]()

        def ask() -> None:
            began = time.perf_counter()
            assert world.ask(token)[0] == 200
            times.append(time.perf_counter() - began)

        for _ in range(100):
            ask()
        before = world.of(token, 100)
        own_redis.stop()
        with_redis, times = sorted(times), list[float]()
        for _ in range(200):
            ask()
        without_redis = sorted(times)
        assert world.gateway.get("/ready")[0] == 200
        own_redis.start()  # empty: nothing is kept
        for _ in range(50):
            ask()
        after = world.of(token, 250)
        assert without_redis[100] < with_redis[50] * 1.5 + 0.005
        ids = [event.event_id for event in before + after]
        assert len(set(ids)) == 350
        assert [event.started_at for event in after] == sorted(event.started_at for event in after)  # type: ignore[type-var]
        spooled = world.gateway.metric("llm_proxy_events_spooled_total")
        assert spooled >= 150  # what still waits in memory when Redis is back goes straight to it
        assert world.gateway.metrics("llm_proxy_events_dropped_total") in ({}, dict.fromkeys(_zero(world), 0.0))


def _zero(world: World) -> list[str]:
    return list(world.gateway.metrics("llm_proxy_events_dropped_total"))


def test_the_end_publishes_and_a_cut_spools(tmp_path: Path, provider: Provider, own_redis: RedisServer) -> None:
    """SIGTERM with Redis away: events are on the disk, private, and the next start delivers them."""
    folder = tmp_path / "proxy"
    key = {"ENCRYPTION_KEY": base64.b64encode(bytes(32)).decode()}
    with proxy(folder, provider, own_redis, **key) as world:
        token = world.gateway.token()
        own_redis.stop()
        for _ in range(20):
            world.ask(token)
    segments = list((folder / "data" / "spool").glob("*.seg"))
    assert segments
    assert {path.stat().st_mode & 0o777 for path in segments} == {0o600}
    own_redis.start()
    with proxy(folder, provider, own_redis, **key) as world:
        assert len({event.event_id for event in world.of(token, 20)}) == 20


def test_a_killed_workers_spool_is_taken_up(tmp_path: Path, provider: Provider, own_redis: RedisServer) -> None:
    """kill -9 of the worker while Redis is unavailable: its successor replays what it had spooled."""
    with proxy(tmp_path / "proxy", provider, own_redis) as world:
        token = world.gateway.token()
        own_redis.stop()
        for _ in range(30):
            world.ask(token)
        eventually(lambda: world.gateway.metric("llm_proxy_events_spooled_total") >= 30, 5)
        os.kill(world.gateway.workers()[0], signal.SIGKILL)
        own_redis.start()
        assert len({event.event_id for event in world.of(token, 30)}) == 30


def test_required_events_refuse_requests_rather_than_lose_them(
    tmp_path: Path, provider: Provider, own_redis: RedisServer
) -> None:
    """Redis away and the spool full: 503 event_bus_unavailable; each 200 has its event in the end."""
    more = {"LLM_PROXY_EVENTS_REQUIRED": "true", "EVENT_SPOOL_MAX_BYTES": "1MB"}
    with proxy(tmp_path / "proxy", provider, own_redis, **more) as world:
        token, codes = world.gateway.token(), list[int]()
        own_redis.stop()
        for _ in range(60):
            status, _, body = world.ask(token, size=40_000, content_type="text/plain")
            codes.append(status)
            if status == 503:
                assert json.loads(body)["code"] == "event_bus_unavailable"
                break
            time.sleep(0.02)
        assert codes[-1] == 503
        assert world.gateway.get("/ready")[0] == 200
        own_redis.start()
        eventually(lambda: world.ask(token)[0] == 200, 15)
        taken = codes.count(200)
        assert len({event.event_id for event in world.of(token, taken + 1)}) >= taken + 1
        dropped = world.gateway.metrics("llm_proxy_events_dropped_total")
        assert sum(dropped.values()) == 0


def test_the_file_of_events_sees_all_workers(tmp_path: Path, provider: Provider) -> None:
    """In memory, two workers, one file: a line an exchange, private; SIGUSR1 after a rename."""
    path = tmp_path / "events.jsonl"
    told = {"FILE_EVENT_LOG": str(path), "WEB_CONCURRENCY": "2"}
    with running_gateway(tmp_path / "proxy", provider.url, **told) as gateway:
        token = gateway.token()

        def ask() -> None:
            for _ in range(20):
                gateway.ask("POST", PATH, CHAT, token=token, headers={"Content-Type": "application/json"})

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: path.exists() and path.read_bytes().count(b"\n") == 80, 10)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({line["event_id"] for line in lines}) == 80
        assert {line["token_id"] for line in lines} == {token.id}
        assert token.bearer not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        path.rename(tmp_path / "old")
        gateway.process.send_signal(signal.SIGUSR1)
        ask()
        eventually(lambda: path.exists() and path.read_bytes().count(b"\n") == 20, 10)


def test_from_a_request_to_the_service(tmp_path: Path, provider: Provider, own_redis: RedisServer) -> None:
    """The whole chain: proxy, bus, dispatcher, Lunary; tokens are the provider's."""
    with running("lunary") as service, proxy(tmp_path / "proxy", provider, own_redis) as world:
        found = variables(own_redis, "lunary", service.url)
        with dispatching(tmp_path, found) as dispatcher:
            token = world.gateway.token()
            for body in (CHAT, STREAM) * 10:
                world.ask(token, body)
            until(lambda: len(service.accepted) == 20, why=dispatcher.text)
        assert service.violations == []
        ends = [event for event in service.events if event["event"] == "end"]
        assert all(end["output"]["role"] == "assistant" for end in ends)
        assert all(end["tokensUsage"]["completion"] > 0 for end in ends)
        assert {end["metadata"]["token_id"] for end in ends} == {token.id}


def test_a_connect_failure_is_an_event(tmp_path: Path, own_redis: RedisServer) -> None:
    """No provider there: 502, connect_error, empty body."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        told = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": own_redis.addr}
        with running_gateway(tmp_path / "proxy", url, **told) as gateway:
            world = World(gateway, own_redis)
            token = gateway.token()
            assert world.ask(token)[0] == 502
            (event,) = world.of(token)
    assert (event.status, event.outcome, event.response_body or b"") == (502, "connect_error", b"")
