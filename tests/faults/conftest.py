"""One installation for all faults; each part is behind a line that can be broken."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.databases import Postgres, running
from support.dispatcher import Dispatcher, dispatching, variables
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, eventually, running_gateway
from support.link import Link, State, linked
from support.provider import Provider, running_provider
from support.raw import Client, Closed, request
from support.redis import RedisServer, running_redis
from support.services import Service
from support.services import running as serving

CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()
STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
PATH = "/v1/chat/completions"
OPEN_S = 1.0  # of the circuit
SETTINGS = {
    "WEB_CONCURRENCY": "2",
    "LLM_PROXY_EVENT_BUS": "redis-streams",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "1s",
    "UPSTREAM_CONNECT_TIMEOUT": "1s",
    "CIRCUIT_BREAKER_OPEN": f"{OPEN_S}s",
    "HTTP_CACHE_ENABLED": "false",
}


def post(bearer: str, body: bytes = CHAT, **plan: Any) -> bytes:
    """A request as bytes."""
    fields = [f"Authorization: Bearer {bearer}", "Content-Type: application/json"]
    return request(PATH, *fields, f"X-Simulate: {json.dumps(plan)}", method="POST", body=body)


@dataclass(frozen=True)
class Call:
    """One request: when it began, its token, its status (0: no response), how long it took."""

    at: float
    kind: str
    status: int
    took_s: float
    retry_after: str | None = None


@dataclass
class Load:
    """Callers that ask on and on, a token each, and what they were told."""

    world: "World"
    tokens: dict[str, Any]
    calls: list[Call] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, kind: str) -> None:
        """Ask until it is over."""
        while not self._is_over.is_set():
            self.calls.append(self.world.call(self.tokens[kind]["token"], kind))
            time.sleep(0.02)

    def stop(self) -> None:
        """Let the callers end."""
        self._is_over.set()

    def since(self, at: float, kind: str | None = None) -> list[Call]:
        """Calls that began after an instant."""
        return [call for call in list(self.calls) if call.at >= at and kind in (None, call.kind)]

    def statuses(self, at: float, kind: str | None = None) -> Counter[int]:
        """How calls ended that began after an instant."""
        return Counter(call.status for call in self.since(at, kind))

    def until(self, at: float, number: int, *statuses: int, kind: str | None = None, within_s: float = 15.0) -> None:
        """Wait until the last `number` calls since an instant all had one of these statuses."""

        def is_so() -> bool:
            last = self.since(at, kind)[-number:]
            return len(last) == number and all(call.status in statuses for call in last)

        eventually(is_so, within_s, lambda: f"{statuses}: {[call.status for call in self.since(at, kind)[-12:]]}")


@dataclass
class World:
    """The installation."""

    gateway: Gateway
    provider: Provider
    redis: RedisServer
    database: Postgres
    service: Service
    dispatcher: Dispatcher
    told: dict[str, str]  # to the dispatcher
    links: dict[str, Link]
    project_id: str = ""

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the management API that succeeds."""
        fields = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        status, _, content = self.gateway.ask(method, f"/manage{path}", data, headers=fields)
        assert status < 300, content
        return json.loads(content) if content else None

    def token(self, **more: Any) -> Any:
        """A new token."""
        return self.manage("POST", "/tokens", {"project_id": self.project_id, "duration_minutes": 60, **more})

    def call(self, bearer: str, kind: str = "", **plan: Any) -> Call:
        """One request on its own connection."""
        began = time.monotonic()
        status, retry_after = 0, None
        with suppress(OSError, Closed), Client(self.gateway.address) as client:
            response = client.send(post(bearer, **plan)).response("POST")
            status, retry_after = response.status, response.value("Retry-After")
        return Call(began, kind, status, time.monotonic() - began, retry_after)

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Two callers with a quota and two without; afterwards all counts are compared with what they were told."""
        load = Load(self, {"limited": self.token(max_requests=100_000), "free": self.token()})
        threads = [threading.Thread(target=load.run, args=(kind,), daemon=True) for kind in ("limited", "free") * 2]
        for thread in threads:
            thread.start()
        try:
            load.until(0.0, 8, 200)
            yield load
        finally:
            load.stop()
            for thread in threads:
                thread.join(20)
        for kind in load.tokens:
            self.check_counts(load, kind)

    def check_counts(self, load: Load, kind: str) -> None:
        """Every request that was served is charged, and none that was refused before it could be sent."""
        ended = load.statuses(0.0, kind)
        token_id = load.tokens[kind]["id"]
        least, most = ended[200] + ended[507], sum(ended[status] for status in (0, 200, 502, 504, 507)) + 1  # a stream

        def charged() -> int:
            return int(self.manage("GET", f"/tokens/{token_id}")["request_count"])

        eventually(lambda: least <= charged() <= most, 10, lambda: f"{kind}: {least} <= {charged()} <= {most}, {ended}")

    def delivered(self) -> int:
        """How many events the target has."""
        return len(self.service.accepted)

    def expect_events(self, before: int, load: Load) -> None:
        """Wait until each request that was served has its event at the target."""
        eventually(
            lambda: self.delivered() - before >= load.statuses(0.0)[200],
            30,
            lambda: f"{self.delivered() - before} events of {load.statuses(0.0)}",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All of it, each part behind a line."""
    folder = tmp_path_factory.mktemp("faults")
    for name in ("provider", "redis", "gateway", "dispatcher"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        database = stack.enter_context(running(Postgres))
        assert isinstance(database, Postgres)
        redis = stack.enter_context(running_redis(folder / "redis"))
        provider = stack.enter_context(running_provider(folder / "provider", "--interval", "0"))
        service = stack.enter_context(serving("lunary"))
        ports = {"Database": database.port, "Redis": redis.port, "Provider": _port(provider.url)}
        ports["Target of the dispatcher"] = _port(service.url)
        links = {part: stack.enter_context(linked(port)) for part, port in ports.items()}
        name = f"t_{uuid.uuid4().hex[:12]}"
        database.run(f"CREATE DATABASE {name}")
        settings = SETTINGS | {"DB_DRIVER": "postgres", "EVENT_SPOOL_DIR": str(folder / "spool")}
        settings["DATABASE_URL"] = database.url(name).replace(f":{database.port}/", f":{links['Database'].port}/")
        settings["REDIS_ADDR"] = f"127.0.0.1:{links['Redis'].port}"
        target = service.url.replace(
            str(ports["Target of the dispatcher"]), str(links["Target of the dispatcher"].port)
        )
        told = variables(redis, "lunary", target, DISPATCHER_TIMEOUT="1s")
        dispatcher = stack.enter_context(dispatching(folder / "dispatcher", told))
        upstream = f"http://127.0.0.1:{links['Provider'].port}"
        gateway = stack.enter_context(running_gateway(folder / "gateway", upstream, **settings))
        world = World(gateway, provider, redis, database, service, dispatcher, told, links)
        project = {"name": uuid.uuid4().hex, "api_key": PROVIDER_KEY}
        world.project_id = world.manage("POST", "/projects", project)["id"]
        yield world


def _port(url: str) -> int:
    return int(url.split("://", 1)[1].partition("/")[0].rpartition(":")[2])


@contextmanager
def broken(world: World, part: str, fault: str) -> Iterator[float]:
    """A fault, for the length of a `with`; yields when it began."""
    began = time.monotonic()
    world.links[part].set(State(fault))
    try:
        yield began
    finally:
        world.links[part].set(State.UP)


@contextmanager
def streaming(world: World, bearer: str, events: int = 40) -> Iterator[Client]:
    """A stream that has begun; the caller reads on."""
    with Client(world.gateway.address) as client:
        client.send(post(bearer, STREAM, events=events, interval=0.1))
        client.until(b"data: ")
        yield client
