"""The dispatcher as a process, a real Redis, strict stand-ins: kills, outages, bad events, several dispatchers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dispatcher import Dispatcher, dispatching, event_uuid, make_event, until, variables
from support.redis import RedisServer, redis_server
from support.services import KEY, Service, running

from llm_proxy import redisclient
from llm_proxy.events.bus import Bus
from llm_proxy.events.redis_list import ListBus
from llm_proxy.events.redis_streams import StreamBus

__all__ = ["redis_server"]

BUSES = ["redis-streams", "redis"]
KEYS = {"redis-streams": "llm-proxy-events", "redis": "llm-proxy-events:list"}


class World:
    """A bus, a service, and dispatchers between them."""

    def __init__(self, kind: str, redis: RedisServer, service: Service, folder: Path) -> None:
        self.kind, self.redis, self.service, self.folder = kind, redis, service, folder

    @property
    def bus(self) -> Bus:
        """The producer's end."""
        client = redisclient.connect(redisclient.parse_address(self.redis.addr), timeout_s=5)
        if self.kind == "redis":
            return ListBus(client, KEYS["redis"], 0, lambda n: None)
        return StreamBus(client, KEYS["redis-streams"], 0)

    def publish(self, *numbers: int, body_bytes: int = 0) -> None:
        """Events by their numbers."""
        bus = self.bus
        for start in range(0, len(numbers), 100):
            bus.publish([make_event(n, body_bytes=body_bytes).to_wire() for n in numbers[start : start + 100]])

    def variables(self, **more: str) -> dict[str, str]:
        """For a dispatcher of this world."""
        return variables(self.redis, "lunary", self.service.url, LLM_PROXY_EVENT_BUS=self.kind, **more)

    def dead(self) -> int:
        """Dead letters."""
        return int(self.redis.client().xlen(f"{KEYS[self.kind]}:dead"))

    def arrived(self, count: int) -> bool:
        """Whether so many different events have arrived."""
        return len(self.service.accepted) >= count

    def order(self) -> list[str]:
        """Ids in the order of their first arrival."""
        return list(dict.fromkeys(event["runId"] for event in self.service.events if event["event"] == "start"))


def ids(*numbers: int) -> list[str]:
    """The ids of events."""
    return [str(event_uuid(n)) for n in numbers]


@pytest.fixture
def service() -> Iterator[Service]:
    """A Lunary that must see nothing wrong."""
    with running("lunary") as found:
        yield found
        assert found.violations == []


@pytest.fixture(params=BUSES)
def world(request: pytest.FixtureRequest, redis_server: RedisServer, service: Service, tmp_path: Path) -> World:
    """Both buses in turn."""
    return World(request.param, redis_server, service, tmp_path)


@pytest.fixture
def streams(redis_server: RedisServer, service: Service, tmp_path: Path) -> World:
    """The stream bus."""
    return World("redis-streams", redis_server, service, tmp_path)


def test_kills_lose_nothing(world: World) -> None:
    """2000 events, five kill -9 at any moment: every id arrives, in order, duplicates have the same id."""
    world.service.fault = lambda call, body: 0.02
    found = world.variables()
    dispatcher = Dispatcher(world.folder, found)
    world.publish(*range(1000))
    for n in range(5):
        until(lambda: world.arrived(200 * n + 100), why=dispatcher.text)  # noqa: B023
        dispatcher.kill()
        world.publish(*range(1000 + 200 * n, 1200 + 200 * n))
        dispatcher = Dispatcher(world.folder, found)
    until(lambda: world.arrived(2000), why=dispatcher.text)
    assert dispatcher.stop() == 0
    assert world.order() == ids(*range(2000))
    assert max(world.service.accepted.values()) <= 6


def test_an_outage_keeps_everything_in_order(world: World) -> None:
    """503 for a while: nothing dropped, nothing given up, lag reported; then all of it in order."""
    is_down = True
    world.service.fault = lambda call, body: 503 if is_down else None
    with dispatching(world.folder, world.variables(DISPATCHER_RETRY_ATTEMPTS="100")) as dispatcher:
        world.publish(*range(500))
        until(lambda: world.service.calls > 3)
        until(lambda: dispatcher.report().get("events_processed") == 100)
        assert dispatcher.get("/ready") == (200, "ready")
        is_down = False
        until(lambda: world.arrived(500), why=dispatcher.text)
        assert world.order() == ids(*range(500))
        assert world.dead() == 0
        assert dispatcher.stop() == 0


def test_one_bad_event_is_given_up_alone_and_can_be_replayed(world: World, tmp_path: Path) -> None:
    """400 for one of 100: 99 arrive, one is a dead letter; list, show, replay and drop work on it."""
    bad, is_refusing = str(event_uuid(42)).encode(), True
    world.service.fault = lambda call, body: 400 if is_refusing and bad in body else None
    found = world.variables()
    environment = {**found, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def command(*arguments: str) -> str:
        told = ["python", "-m", "llm_proxy.cli", "dispatcher", "dead-letters", *arguments]
        return subprocess.run(told, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    with dispatching(world.folder, found) as dispatcher:
        world.publish(*range(100))
        until(lambda: world.arrived(99) and world.dead() == 1, why=dispatcher.text)
        assert str(event_uuid(42)) not in world.service.accepted
        (letter,) = json.loads(command("list", "--json"))
        assert (letter["reason"], letter["error"], letter["service"]) == ("rejected", "HTTP 400", "lunary")
        assert json.loads(command("show", letter["id"], "--json"))["data"]["EventID"] == str(event_uuid(42))
        assert dispatcher.report()["status"] == "degraded"
        is_refusing = False
        assert json.loads(command("replay", "--reason", "rejected", "--json")) == {"replayed": 1}
        until(lambda: world.arrived(100), why=dispatcher.text)
        assert world.dead() == 0
        assert json.loads(command("drop", "--json")) == {"dropped": 0}
        assert set(world.service.accepted.values()) == {1}
        assert "question 42" not in dispatcher.text()


def test_two_dispatchers_share_the_work(world: World) -> None:
    """The union is complete and nothing arrives twice."""
    world.service.fault = lambda call, body: 0.01
    with dispatching(world.folder, world.variables()), dispatching(world.folder, world.variables()):
        world.publish(*range(1500))
        until(lambda: world.arrived(1500))
    assert set(world.service.accepted.values()) == {1}


def test_a_dead_dispatchers_events_go_to_the_living(world: World) -> None:
    """Killed with events in hand: the other one takes them over within three claim times."""
    blocked: list[int] = []

    def fault(call: int, body: bytes) -> float | None:
        if not blocked:
            blocked.append(call)
            return 5.0
        return None

    world.service.fault = fault
    with dispatching(world.folder, world.variables(REDIS_CONSUMER_NAME="one")) as one:
        world.publish(*range(50))
        until(lambda: bool(blocked), why=one.text)
        with dispatching(world.folder, world.variables(REDIS_CONSUMER_NAME="two")) as two:
            until(lambda: two.get("/ready")[0] == 200, why=two.text)
            one.kill()
            until(lambda: world.arrived(50), 6, two.text)


def test_groups_each_see_everything(streams: World) -> None:
    """One back end a group."""
    with running("lunary") as other:
        first = streams.variables(REDIS_CONSUMER_GROUP="a")
        second = streams.variables(REDIS_CONSUMER_GROUP="b", DISPATCHER_ENDPOINT=other.url)
        with dispatching(streams.folder, first), dispatching(streams.folder, second):
            streams.publish(*range(300))
            until(lambda: streams.arrived(300) and len(other.accepted) == 300)


def test_wrong_credentials_hold_until_they_are_right(streams: World) -> None:
    """401: /ready and /health say so, nothing is given up, and it is no crash."""
    found = streams.variables(LLM_PROXY_API_KEY="wrong")
    with dispatching(streams.folder, found) as dispatcher:
        streams.publish(*range(10))
        until(lambda: dispatcher.get("/ready") == (503, "not ready: held"), why=dispatcher.text)
        status, text = dispatcher.get("/health")
        assert (status, json.loads(text)["message"]) == (503, "Held: HTTP 401")
        assert 'llm_proxy_dispatcher_held{service="lunary"} 1.0' in dispatcher.get("/metrics/prometheus")[1]
        assert "wrong" not in dispatcher.text()
    with dispatching(streams.folder, streams.variables()):
        until(lambda: streams.arrived(10))
    assert streams.dead() == 0


def test_a_flushed_redis_is_survived(world: World) -> None:
    """FLUSHALL under it: what comes after arrives within seconds."""
    with dispatching(world.folder, world.variables()) as dispatcher:
        world.publish(1)
        until(lambda: world.arrived(1))
        world.redis.client().flushall()
        world.publish(2)
        until(lambda: world.arrived(2), 3, dispatcher.text)


def test_redis_may_come_late_and_go(world: World) -> None:
    """Not there at the start, killed in between: /ready says so, and it goes on by itself."""
    world.redis.stop()
    with dispatching(world.folder, world.variables()) as dispatcher:
        until(lambda: dispatcher.get("/ready") == (503, "not ready: redis"), why=dispatcher.text)
        assert dispatcher.get("/live") == (200, "alive")
        world.redis.start()
        until(lambda: dispatcher.get("/ready")[0] == 200, why=dispatcher.text)
        world.publish(1)
        until(lambda: world.arrived(1), why=dispatcher.text)
        world.redis.kill()
        until(lambda: dispatcher.get("/ready")[0] == 503, why=dispatcher.text)
        world.redis.start()
        world.publish(2)
        until(lambda: world.arrived(2), why=dispatcher.text)
        assert dispatcher.stop() == 0


def test_sigterm_finishes_the_batch_in_hand(world: World) -> None:
    """A slow call is waited for; its events are acknowledged; the rest stays on the bus; exit 0."""
    world.service.fault = lambda call, body: 1.0
    with dispatching(world.folder, world.variables(DISPATCHER_BATCH_SIZE="10")) as dispatcher:
        world.publish(*range(30))
        until(lambda: world.service.calls == 1, why=dispatcher.text)
        assert dispatcher.stop() == 0
    assert len(world.service.accepted) in (10, 20)
    world.service.fault = lambda call, body: None
    with dispatching(world.folder, world.variables()):
        until(lambda: world.arrived(30))
    assert set(world.service.accepted.values()) == {1}


@pytest.mark.times
def test_a_stop_during_an_outage_does_not_wait_for_it(streams: World) -> None:
    """Within the shutdown timeout, exit 0, everything pending."""
    streams.service.fault = lambda call, body: 503
    with dispatching(streams.folder, streams.variables(DISPATCHER_SHUTDOWN_TIMEOUT="1s")) as dispatcher:
        streams.publish(*range(10))
        until(lambda: streams.service.calls > 1)
        began = time.monotonic()
        assert dispatcher.stop() == 0
        assert time.monotonic() - began < 5
    assert streams.redis.client().xpending(KEYS["redis-streams"], "llm-proxy-dispatchers")["pending"] == 10


def test_a_second_signal_ends_it_at_once(streams: World) -> None:
    """Whatever it was doing."""
    streams.service.fault = lambda call, body: 8.0
    with dispatching(streams.folder, streams.variables()) as dispatcher:
        streams.publish(1)
        until(lambda: streams.service.calls == 1)
        dispatcher.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in dispatcher.text())
        dispatcher.process.send_signal(signal.SIGTERM)
        assert dispatcher.process.wait(3) == 1


def test_once_drains_and_ends(world: World) -> None:
    """0 when nothing is left, 1 when something had to stay."""
    world.publish(*range(250))
    with dispatching(world.folder, world.variables(), "--once") as dispatcher:
        assert dispatcher.process.wait(20) == 0, dispatcher.text()
    assert world.arrived(250)
    world.publish(300)
    world.service.fault = lambda call, body: 503
    with dispatching(world.folder, world.variables(), "--once") as dispatcher:
        assert dispatcher.process.wait(20) == 1, dispatcher.text()


def test_the_file_gets_every_event_and_is_reopened(redis_server: RedisServer, service: Service, tmp_path: Path) -> None:
    """Lines in order; SIGHUP after a rename; a second dispatcher on the file is refused."""
    world = World("redis-streams", redis_server, service, tmp_path)
    path = tmp_path / "events.jsonl"
    found = variables(redis_server, "file", str(path))
    with dispatching(tmp_path, found) as dispatcher:
        world.publish(*range(200))
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 200, why=dispatcher.text)
        assert [json.loads(line)["runId"] for line in path.read_text().splitlines()] == ids(*range(200))
        with dispatching(tmp_path, variables(redis_server, "file", str(path))) as second:
            assert second.process.wait(15) == 1
            assert "another dispatcher" in second.text()
        os.rename(path, tmp_path / "old")
        dispatcher.process.send_signal(signal.SIGHUP)
        world.publish(200)
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 1, why=dispatcher.text)


def test_probes_and_figures(streams: World) -> None:
    """/live, /ready, /health with its keys, /metrics/prometheus with its names; nothing else."""
    with dispatching(streams.folder, streams.variables()) as dispatcher:
        streams.publish(*range(20))
        until(lambda: streams.arrived(20), why=dispatcher.text)
        until(lambda: dispatcher.report()["events_sent"] == 20)
        status, text = dispatcher.get("/health")
        report = json.loads(text)
        assert (status, report["healthy"], report["status"]) == (200, True, "healthy")
        keys = "events_processed events_dropped events_sent processing_rate lag_count stream_length last_processed_at"
        assert set(keys.split(" ")) < set(report)
        metrics = dispatcher.get("/metrics/prometheus")[1]
        for name in ("events_received_total", "events_sent_total", "send_seconds_bucket", "batch_events_sum", "up"):
            assert f'llm_proxy_dispatcher_{name}{{service="lunary"' in metrics or f"{name}{{" in metrics
        assert 'llm_proxy_dispatcher_events_sent_total{service="lunary"} 20.0' in metrics
        assert dispatcher.get("/other")[0] == 404
        assert (streams.folder / "llm-proxy-dispatcher.alive").exists()


def test_the_start_says_where_everything_is_and_no_secret(streams: World) -> None:
    """Bus, address, key, group, consumer, service, host of the endpoint; never the key."""
    with dispatching(streams.folder, streams.variables()) as dispatcher:
        until(lambda: "dispatcher started" in dispatcher.text())
        line = next(json.loads(line) for line in dispatcher.text().splitlines() if "dispatcher started" in line)
        assert line["endpoint"] == "127.0.0.1"
        assert line["redis"] == f"redis://{streams.redis.addr}/0"
        assert line["consumer"].startswith("dispatcher-lunary-")
        assert KEY not in dispatcher.text()
        command_line = Path(f"/proc/{dispatcher.process.pid}/cmdline").read_bytes()
        assert KEY.encode() not in command_line


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"LLM_PROXY_EVENT_BUS": "in-memory"}, "in-memory"),
        ({"DISPATCHER_SERVICE": "loki"}, "expected one of file, helicone, lunary, otlp"),
        ({"LLM_PROXY_API_KEY": ""}, "requires an API key"),
        ({"DISPATCHER_BATCH_SIZE": "2000"}, "at most DISPATCHER_BUFFER"),
        ({"DISPATCHER_ENDPOINT": "nonsense"}, "expected a URL"),
        ({"REDIS_ADDR": "a b"}, "host:port"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(streams: World, more: dict[str, str], word: str) -> None:
    """Exit 1 with the reason."""
    with dispatching(streams.folder, streams.variables() | more) as dispatcher:
        assert dispatcher.process.wait(15) == 1
        assert word in dispatcher.text()


def test_a_taken_health_address_is_said(streams: World) -> None:
    """Exit 1, naming it."""
    with dispatching(streams.folder, streams.variables(DISPATCHER_HEALTH_ADDR=streams.redis.addr)) as dispatcher:
        assert dispatcher.process.wait(15) == 1
        assert "DISPATCHER_HEALTH_ADDR" in dispatcher.text()


def test_a_password_is_used_and_never_shown(service: Service, tmp_path: Path) -> None:
    """requirepass: with REDIS_PASSWORD it works, and the logs do not know it."""
    redis = RedisServer(tmp_path, password="pa55word-of-redis")
    redis.start()
    try:
        found = variables(redis, "lunary", service.url, REDIS_PASSWORD="pa55word-of-redis")
        client = redis.client()
        client.xadd(KEYS["redis-streams"], {"data": make_event(1).to_wire()})
        with dispatching(tmp_path, found) as dispatcher:
            until(lambda: len(service.accepted) == 1, why=dispatcher.text)
            assert "pa55word" not in dispatcher.text()
    finally:
        redis.kill()
