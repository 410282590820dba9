"""events.publisher on a real Redis: order, outages, backlog, bounds and ends."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import orjson
import pytest
from support.redis import RedisServer, redis_server

from llm_proxy import redisclient
from llm_proxy.events.bus import Bus
from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import FileSink
from llm_proxy.events.list_source import ListSource
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queue import Counters
from llm_proxy.events.redis_list import ListBus
from llm_proxy.events.redis_streams import StreamBus
from llm_proxy.events.spool import Spool
from llm_proxy.events.stream_source import StreamSource

__all__ = ["redis_server"]

MB = 1024 * 1024
_numbers = itertools.count()


class Counted:
    """What the publisher counted."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.counters = Counters(
            published=lambda n: self.found.update(published=n),
            spooled=lambda n: self.found.update(spooled=n),
            dropped=lambda reason, n: self.found.update({reason: n}),
        )


def event(n: int, size: int = 10) -> Event:
    """A numbered event."""
    return Event(request_id=f"{n:06d}", method="POST", path="/", status=200, response_body=b"x" * size)


def ids(wires: list[bytes]) -> list[int]:
    """The numbers of events."""
    return [int(orjson.loads(wire)["RequestID"]) for wire in wires]


def until(check: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Let greenlets run until a condition holds."""
    with gevent.Timeout(limit_s, AssertionError("the condition did not come true")):
        while not check():
            gevent.sleep(0.01)


class World:
    """A publisher with everything around it."""

    def __init__(self, kind: str, server: RedisServer, folder: Path) -> None:
        self.kind, self.server, self.folder, self.key = kind, server, folder, f"pub-{next(_numbers)}"
        self.counted = Counted()

    def bus(self, max_len: int = 0) -> Bus:
        """A producer's end with the server's time limits."""
        client = redisclient.connect(redisclient.parse_address(self.server.addr))
        if self.kind == "redis":
            return ListBus(client, self.key, max_len, lambda n: self.counted.found.update(list_full=n))
        return StreamBus(client, self.key, max_len)

    def publisher(self, max_len: int = 0, spool_bytes: int | None = 64 * MB, **more: Any) -> Publisher:
        """Started."""
        spool = Spool(self.folder, spool_bytes) if spool_bytes else None
        made = Publisher(self.bus(max_len), spool=spool, counters=self.counted.counters, **more)
        made.start()
        return made

    def stored(self) -> list[bytes]:
        """All events on the bus, the oldest first."""
        client: Any = self.server.client()
        if self.kind == "redis":
            return list(reversed(client.lrange(self.key, 0, -1)))
        return [fields[b"data"] for _, fields in client.xrange(self.key)]

    def source(self) -> StreamSource | ListSource:
        """A consumer."""
        where = redisclient.parse_address(self.server.addr)
        connect = lambda timeout_s: redisclient.connect(where, timeout_s=timeout_s)  # noqa: E731
        if self.kind == "redis":
            return ListSource(connect, key=self.key, consumer="c", claim_time_s=30)
        return StreamSource(connect, key=self.key, group="g", consumer="c", claim_time_s=30)


@pytest.fixture(params=["redis-streams", "redis"])
def world(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> World:
    """Both buses in turn."""
    return World(request.param, redis_server, tmp_path / "spool")


def offer(publisher: Publisher, numbers: range, pause_s: float = 0.0) -> None:
    """Offer events, letting others run between them."""
    for n in numbers:
        publisher.offer(event(n))
        gevent.sleep(pause_s)


def test_events_arrive_in_order_with_numbers(world: World) -> None:
    """A thousand, in pipelines; LogIDs ascend from 1; nothing is left anywhere."""
    publisher = world.publisher()
    offer(publisher, range(1000))
    publisher.close()
    wires = world.stored()
    assert ids(wires) == list(range(1000))
    assert [orjson.loads(wire)["LogID"] for wire in wires] == list(range(1, 1001))
    assert world.counted.found == {"published": 1000}


def test_an_outage_goes_to_the_spool_and_comes_back_in_order(world: World) -> None:
    """Stopped, killed and hanging in turn; each event arrives, in order, at least once."""
    publisher = world.publisher()
    offer(publisher, range(300))
    until(lambda: len(world.stored()) == 300)
    before = world.stored()
    world.server.stop()
    offer(publisher, range(300, 900), 0.001)
    world.server.start()  # without persistence: what was there is gone with it
    offer(publisher, range(900, 1000), 0.001)
    until(lambda: world.stored()[-1:] != [] and ids(world.stored())[-1] == 999)
    assert ids(before + world.stored()) == list(range(1000))
    assert world.counted.found["spooled"] >= 500
    assert "spool_full" not in world.counted.found
    publisher.close()


def test_a_hanging_redis_loses_nothing_and_keeps_the_order(world: World) -> None:
    """SIGSTOP: commands time out with their fate unknown; duplicates are possible, gaps and disorder are not."""
    publisher = world.publisher()
    offer(publisher, range(100))
    world.server.pause()
    offer(publisher, range(100, 400), 0.002)
    world.server.resume()
    until(lambda: ids(world.stored())[-1:] == [399])
    found = ids(world.stored())
    assert list(dict.fromkeys(found)) == list(range(400))
    publisher.close()


def test_a_burst_larger_than_the_queue_keeps_order_and_memory(world: World) -> None:
    """Without a chance to send: the queue's bounds hold, the rest goes to the disk."""
    publisher = world.publisher(most_events=50)
    for n in range(2000):
        publisher.offer(event(n))
        assert publisher.queued <= 50
    until(lambda: len(world.stored()) == 2000)
    assert ids(world.stored()) == list(range(2000))
    publisher.close()


def test_bytes_bound_the_queue_too(world: World) -> None:
    """Events of 100 KB against 1 MB."""
    publisher = world.publisher(most_bytes=MB)
    for n in range(100):
        publisher.offer(event(n, 100_000))
        assert publisher._queue.held_bytes <= MB
    until(lambda: len(world.stored()) == 100)
    assert ids(world.stored()) == list(range(100))
    publisher.close()


def test_a_spool_too_small_counts_exactly_what_is_lost(world: World) -> None:
    """Redis away, 1 MB of room: published + dropped = offered, and what arrives is in order."""
    publisher = world.publisher(spool_bytes=MB, most_events=20)
    world.server.stop()
    for n in range(400):
        publisher.offer(event(n, 8000))
        gevent.sleep(0.0005)
    assert publisher.is_full
    world.server.start()
    until(lambda: publisher.queued == 0 and publisher.spool_bytes == 0)
    found = ids(world.stored())
    assert found == sorted(found)
    assert len(found) + world.counted.found["spool_full"] == 400
    assert world.counted.found["published"] == len(found)
    assert not publisher.is_full
    publisher.close()


def test_without_a_spool_events_wait_in_memory(world: World) -> None:
    """EVENT_SPOOL_DIR empty: the queue holds what it can; the rest is counted as buffer_full."""
    publisher = world.publisher(spool_bytes=None, most_events=100)
    world.server.stop()
    offer(publisher, range(150))
    assert publisher.is_full
    assert world.counted.found["buffer_full"] == 50
    world.server.start()
    until(lambda: publisher.queued == 0)
    assert ids(world.stored()) == list(range(100))
    publisher.close()


def test_consumers_that_are_too_far_behind_send_events_to_the_spool(world: World) -> None:
    """MAX_LEN undelivered: the bus grows no further, nothing is trimmed; it goes on as they catch up."""
    source = world.source()
    source.open()
    publisher = world.publisher(max_len=200)
    offer(publisher, range(1000))
    until(lambda: publisher.queued == 0)
    assert len(world.stored()) <= 300
    assert publisher.spool_bytes > 0
    found: list[bytes] = []

    def consume() -> bool:
        entries = source.read(50, 0)
        found.extend(entry.data for entry in entries if entry.data is not None)
        source.ack(entries)
        return len(found) >= 1000

    until(consume)
    assert ids(found) == list(range(1000))
    publisher.close()


def test_a_worker_that_died_is_inherited(world: World) -> None:
    """What it had spooled is published by another worker, before that one's own."""
    world.server.stop()
    dead = world.publisher()
    offer(dead, range(50), 0.001)
    until(lambda: dead.queued == 0)
    assert dead._greenlet is not None
    dead._greenlet.kill()
    assert dead._spool is not None
    dead._spool.close()  # as the kernel does with the locks of a killed process
    world.server.start()
    heir = world.publisher()
    until(lambda: len(world.stored()) == 50)
    assert ids(world.stored()) == list(range(50))
    heir.close()


@pytest.mark.parametrize("cut", [False, True])
def test_the_end_flushes_or_spools(world: World, cut: bool) -> None:
    """A clean end publishes what is queued; a cut, or an unavailable Redis, leaves it on the disk for the next."""
    publisher = world.publisher()
    for n in range(200):
        publisher.offer(event(n))
    publisher.close(cut=cut)
    assert ids(world.stored()) == ([] if cut else list(range(200)))
    heir = world.publisher()
    until(lambda: ids(world.stored()) == list(range(200)))
    heir.close()
    assert "shutdown" not in world.counted.found


def test_an_end_without_a_spool_counts_what_is_lost(world: World) -> None:
    """reason=shutdown, with the number."""
    publisher = world.publisher(spool_bytes=None)
    world.server.stop()
    offer(publisher, range(30))
    publisher.close()
    assert world.counted.found["shutdown"] == 30


def test_the_file_sees_every_event_during_an_outage(world: World, tmp_path: Path) -> None:
    """FILE_EVENT_LOG beside a bus: each event once, in order, whatever Redis does."""
    sink = FileSink(tmp_path / "events.jsonl", count_lost=lambda n: None)
    publisher = Publisher(world.bus(), spool=Spool(world.folder, 64 * MB), file_sink=sink)
    publisher.start()
    offer(publisher, range(100))
    world.server.stop()
    offer(publisher, range(100, 200), 0.001)
    world.server.start()
    offer(publisher, range(200, 300), 0.001)
    publisher.close()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [int(orjson.loads(line)["request_id"]) for line in lines] == list(range(300))


@pytest.mark.parametrize("spool_bytes", [None, 65536], ids=["no spool", "a full spool"])
def test_the_file_depends_on_neither_redis_nor_the_spool(world: World, tmp_path: Path, spool_bytes: int | None) -> None:
    """Each event has its line at once while Redis is unavailable, also those that found no room anywhere."""
    path, lost = tmp_path / "events.jsonl", Counter[str]()
    sink = FileSink(path, count_lost=lambda n: lost.update(file=n))
    spool = Spool(world.folder, spool_bytes) if spool_bytes else None
    world.server.stop()
    publisher = Publisher(world.bus(), spool=spool, most_events=50, counters=world.counted.counters, file_sink=sink)
    publisher.start()
    for n in range(300):
        publisher.offer(event(n, 1000))
        gevent.sleep(0.001)

    def written() -> list[int]:
        return sorted(int(orjson.loads(line)["request_id"]) for line in path.read_bytes().splitlines())

    until(lambda: path.exists() and len(written()) == 300)
    publisher.close()
    world.server.start()
    assert written() == list(range(300))
    assert not lost
    assert world.counted.found["spool_full" if spool_bytes else "buffer_full"] > 0


def test_the_in_memory_bus_needs_nothing(tmp_path: Path) -> None:
    """Subscribers and file get every event; without either, events are only counted."""
    bus, counted = MemoryBus(), Counted()
    subscriber = bus.subscribe()
    sink = FileSink(tmp_path / "events.jsonl", count_lost=lambda n: None)
    publisher = Publisher(bus, counters=counted.counters, file_sink=sink)
    publisher.start()
    offer(publisher, range(100))
    publisher.close()
    assert ids(list(subscriber)) == list(range(100))
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == 100
    assert counted.found == {"published": 100}


def test_without_gevents_loop_a_turn_is_taken_by_hand(world: World, tmp_path: Path) -> None:
    """A development server with threads: what is offered is published by `turn`."""
    sink = FileSink(tmp_path / "events.jsonl", count_lost=lambda n: None)
    publisher = Publisher(world.bus(), file_sink=sink)
    for n in range(150):
        publisher.offer(event(n))
    publisher.turn()
    assert ids(world.stored()) == list(range(150))
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == 150
    publisher.close()


@pytest.mark.times
def test_an_offer_costs_microseconds() -> None:
    """No JSON, no I/O: far below what a request would notice."""
    import time

    publisher = Publisher(MemoryBus(), most_events=100_000, most_bytes=1024 * MB)
    events = [event(n, 65536) for n in range(2000)]
    began = time.perf_counter()
    for one in events:
        publisher.offer(one)
    assert (time.perf_counter() - began) / len(events) < 100e-6
