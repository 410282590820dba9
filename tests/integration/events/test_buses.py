"""One contract for the two buses that cross processes, on a real Redis; and what each has beside it."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.client import Pipeline, Redis
from redis.exceptions import ConnectionError as RedisGone
from support.redis import RedisServer, redis_server, shared_redis_server

from llm_proxy import redisclient
from llm_proxy.events.bus import Bus, BusUnavailable, Entry, NameTaken, Source
from llm_proxy.events.list_source import ListSource
from llm_proxy.events.redis_list import ListBus
from llm_proxy.events.redis_streams import StreamBus
from llm_proxy.events.stream_source import StreamSource

__all__ = ["redis_server", "shared_redis_server"]

CLAIM_S = 0.3
_numbers = itertools.count()


class World:
    """One bus of a kind under its own key."""

    def __init__(self, kind: str, server: RedisServer, max_len: int = 1000) -> None:
        self.kind, self.server, self.key, self.max_len = kind, server, f"bus-{next(_numbers)}", max_len
        self.redis: Any = server.client()
        self.lost: list[int] = []

    def connect(self, timeout_s: float) -> Redis:
        """A client as the dispatcher makes it."""
        return redisclient.connect(redisclient.parse_address(self.server.addr), timeout_s=timeout_s)

    def bus(self) -> Bus:
        """The producer's end."""
        client = self.connect(1.0)
        if self.kind == "redis":
            return ListBus(client, self.key, self.max_len, self.lost.append)
        return StreamBus(client, self.key, self.max_len)

    def source(self, consumer: str = "c1", group: str = "g") -> Source:
        """The consumer's end."""
        if self.kind == "redis":
            return ListSource(self.connect, key=self.key, consumer=consumer, claim_time_s=CLAIM_S / 3)
        return StreamSource(self.connect, key=self.key, group=group, consumer=consumer, claim_time_s=CLAIM_S)


@pytest.fixture(params=["redis-streams", "redis"])
def world(request: pytest.FixtureRequest, shared_redis_server: RedisServer) -> Iterator[World]:
    """Both kinds in turn."""
    made = World(request.param, shared_redis_server)
    yield made
    made.redis.close()


def wires(*names: str) -> list[bytes]:
    """Events as far as a bus cares."""
    return [f'{{"LogID":0,"RequestID":"{name}"}}'.encode() for name in names]


def data(entries: list[Entry]) -> list[bytes | None]:
    """What the entries hold."""
    return [entry.data for entry in entries]


def until(check: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def test_events_arrive_in_order_and_go_when_acknowledged(world: World) -> None:
    """FIFO; nothing pending afterwards."""
    bus, source = world.bus(), world.source()
    source.open()
    bus.publish(wires("a", "b"))
    bus.publish(wires("c"))
    found = source.read(10, 1.0)
    assert data(found) == wires("a", "b", "c")
    assert source.stats().pending == 3
    source.ack(found)
    assert (source.stats().pending, source.stats().undelivered, source.read(10, 0)) == (0, 0, [])


def test_what_was_published_before_anybody_joined_is_read(world: World) -> None:
    """A new consumer starts with all that is still there."""
    world.bus().publish(wires("a"))
    source = world.source()
    source.open()
    assert data(source.read(10, 0)) == wires("a")


@pytest.mark.times
def test_a_read_is_bounded_and_waits_no_longer_than_told(world: World) -> None:
    """COUNT holds, and an empty bus costs the block time."""
    source = world.source()
    source.open()
    began = time.monotonic()
    assert source.read(10, 0.2) == []
    assert 0.15 <= time.monotonic() - began < 2
    world.bus().publish(wires(*map(str, range(20))))
    assert len(source.read(7, 0)) == 7


def test_a_restart_reads_its_own_pending_first_page_by_page(world: World) -> None:
    """The same name again: all unacknowledged, in order, before anything new."""
    world.bus().publish(wires(*map(str, range(25))))
    first = world.source()
    first.open()
    taken = first.read(25, 0)
    first.ack(taken[:1])
    world.redis.delete(f"{world.key}:consumer:c1")  # what its expiry does to a list consumer's name
    again = world.source()
    again.open()
    pages = list(iter(lambda: again.own(10), []))
    assert [len(page) for page in pages] == [10, 10, 4]
    assert [entry.data for page in pages for entry in page] == data(taken[1:])
    again.ack([entry for page in pages for entry in page])
    assert again.own(10) == []


def test_a_dead_consumers_entries_are_handed_to_another(world: World) -> None:
    """After the claim time, in order, and not before; acknowledged by the new owner."""
    world.bus().publish(wires("a", "b", "c"))
    dead = world.source("dead")
    dead.open()
    assert len(dead.read(2, 0)) == 2
    heir = world.source("heir")
    heir.open()
    assert heir.claim(10) == []
    found: list[Entry] = []

    def all_there() -> bool:
        found.extend(heir.claim(10) + heir.read(10, 0))
        return len(found) == 3

    until(all_there)
    assert sorted(filter(None, data(found))) == wires("a", "b", "c")
    heir.ack(found)
    assert heir.stats().lag == 0


def test_what_is_kept_is_not_taken_away(world: World) -> None:
    """A slow consumer that says so keeps its entries past the claim time."""
    world.bus().publish(wires("a"))
    slow, other = world.source("slow"), world.source("other")
    slow.open()
    other.open()
    assert len(slow.read(1, 0)) == 1
    for _ in range(12):
        slow.keep()
        time.sleep(CLAIM_S / 6)
        assert other.claim(10) == []
        assert other.read(10, 0) == []


def test_leaving_leaves_nothing_behind(world: World) -> None:
    """No consumer, no key, when nothing is pending."""
    world.bus().publish(wires("a"))
    source = world.source("gone")
    source.open()
    source.ack(source.read(1, 0))
    source.leave()
    if world.kind == "redis":
        assert not world.redis.exists(f"{world.key}:consumer:gone")
        assert b"gone" not in world.redis.smembers(f"{world.key}:consumers")
    else:
        assert world.redis.xinfo_consumers(world.key, "g") == []


def test_undelivered_events_are_never_trimmed(world: World) -> None:
    """With a consumer that has joined, room shrinks with the backlog, and publishing past it loses nothing."""
    world.max_len = 50
    bus, source = world.bus(), world.source()
    source.open()
    assert bus.room() == 50
    bus.publish(wires(*map(str, range(60))))
    assert bus.room() == -10
    bus.publish(wires(*map(str, range(60, 100))))
    found = source.read(1000, 0)
    assert data(found) == wires(*map(str, range(100)))
    assert bus.room() == -50
    source.ack(found)
    assert bus.room() == 50


def test_without_any_consumer_the_oldest_go(world: World) -> None:
    """Plain MAXLEN; the list bus counts what it pushed out."""
    world.max_len = 500
    bus = world.bus()
    assert bus.room() == float("inf")
    for start in range(0, 1000, 100):
        bus.publish(wires(*map(str, range(start, start + 100))))
    length = world.redis.llen(world.key) if world.kind == "redis" else world.redis.xlen(world.key)
    assert 500 <= length <= (500 if world.kind == "redis" else 699)
    assert sum(world.lost) == (500 if world.kind == "redis" else 0)


def test_numbers_are_given_in_blocks(world: World) -> None:
    """Two producers never get the same."""
    one, two = world.bus(), world.bus()
    first, second = one.reserve(10), two.reserve(5)
    assert (first, second, one.reserve(1)) == (1, 11, 16)


@pytest.mark.times
def test_an_unreachable_bus_says_so_in_time(redis_server: RedisServer) -> None:
    """Stopped: at once. Hanging: after the time limit. Back: it works again."""
    for kind in ("redis-streams", "redis"):
        world = World(kind, redis_server)
        bus = ListBus(world.connect(0.25), world.key, 0, world.lost.append) if kind == "redis" else None
        made: Bus = bus or StreamBus(world.connect(0.25), world.key, 0)
        made.publish(wires("a"))
        redis_server.pause()
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            made.publish(wires("b"))
        assert time.monotonic() - began < 2
        redis_server.resume()
        redis_server.stop()
        with pytest.raises(BusUnavailable):
            made.reserve(1)
        redis_server.start()
        made.publish(wires("c"))


def test_a_flushed_redis_is_survived(world: World) -> None:
    """FLUSHALL under a consumer: it goes on with what comes after."""
    source, bus = world.source(), world.bus()
    source.open()
    bus.publish(wires("a"))
    source.read(1, 0)
    world.redis.delete(*world.redis.keys(f"{world.key}*"))
    bus.publish(wires("b"))
    found: list[Entry] = []

    def arrived() -> bool:
        found.extend(source.read(10, 0.1))
        return bool(found)

    until(arrived, 2)
    assert data(found) == wires("b")


def test_a_read_whose_response_is_lost_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis gave entries out, but the connection broke: they are not held here, so they are read as pending ones."""
    world.bus().publish(wires("a", "b", "c"))
    source = world.source()
    source.open()
    with monkeypatch.context() as patch:

        def lost(self: object, *_: object, **__: object) -> None:
            raise RedisGone("the response is lost")

        real: Any = Redis.execute_command

        def run(self: Redis, *parts: Any, **options: Any) -> Any:
            response = real(self, *parts, **options)
            return lost(self) if parts[0] == "XREADGROUP" else response

        patch.setattr(Redis, "execute_command", run)
        patch.setattr(Pipeline, "execute", lost)
        with pytest.raises(RedisGone):
            source.read(10, 0)
    assert source.held == 0
    found = source.own(10) + source.read(10, 0)
    assert data(found) == wires("a", "b", "c")


# -- streams alone ---------------------------------------------------------------------------------------------------


@pytest.fixture
def streams(shared_redis_server: RedisServer) -> World:
    """The stream bus."""
    return World("redis-streams", shared_redis_server)


def test_an_entry_has_one_field(streams: World) -> None:
    """`data`, and nothing else."""
    streams.bus().publish(wires("a"))
    assert streams.redis.xrange(streams.key)[0][1] == {b"data": wires("a")[0]}


def test_each_group_sees_everything_and_trimming_waits_for_the_slowest(streams: World) -> None:
    """Two groups: both complete; acknowledged entries go only when both are done."""
    streams.max_len = 100
    bus, quick, slow = streams.bus(), streams.source("q", "quick"), streams.source("s", "slow")
    quick.open()
    slow.open()
    bus.publish(wires(*map(str, range(1000))))
    for _ in range(10):
        quick.ack(quick.read(100, 0))
    bus.room()
    assert streams.redis.xlen(streams.key) == 1000
    for _ in range(9):
        slow.ack(slow.read(100, 0))
    last = slow.read(100, 0)
    bus.room()
    assert 100 <= streams.redis.xlen(streams.key) <= 200
    assert {entry.id for entry in last} <= {entry_id.decode() for entry_id, _ in streams.redis.xrange(streams.key)}


def test_all_acknowledged_entries_can_be_trimmed(streams: World) -> None:
    """REDIS_STREAM_TRIM_ACKED: nothing delivered stays, what is pending does."""
    where: dict[str, Any] = {"key": streams.key, "group": "g", "consumer": "c"}
    source = StreamSource(streams.connect, claim_time_s=30, trims=True, **where)
    source.open()
    streams.bus().publish(wires(*map(str, range(10))))
    entries = source.read(10, 0)
    source.ack(entries[:6])
    source.stats()
    assert streams.redis.xlen(streams.key) == 4


def test_entries_trimmed_before_they_were_read_are_counted(streams: World) -> None:
    """The counter equals what is missing, whichever program trimmed."""
    bus, source = streams.bus(), streams.source()
    source.open()
    bus.publish(wires(*map(str, range(10))))
    source.ack(source.read(2, 0))
    streams.redis.xtrim(streams.key, maxlen=3, approximate=False)
    later = streams.source()
    later.open()
    later.stats()
    assert later.stats().trimmed == 5
    assert len(later.read(10, 0)) == 3
    assert later.stats().trimmed == 5


def test_pending_entries_that_were_trimmed_are_counted_and_forgotten(streams: World) -> None:
    """They cannot be delivered any more, and must not be claimed permanently."""
    source = streams.source()
    source.open()
    streams.bus().publish(wires("a", "b"))
    source.read(2, 0)
    streams.redis.xtrim(streams.key, maxlen=0, approximate=False)
    again = streams.source()
    again.open()
    assert again.own(10) == []
    assert again.stats().pending == 0
    assert again.stats().trimmed == 2


def test_a_hand_made_claim_works_where_redis_has_none(streams: World) -> None:
    """Redis before 6.2."""
    streams.bus().publish(wires("a"))
    dead, heir = streams.source("dead"), streams.source("heir")
    dead.open()
    dead.read(1, 0)
    heir.open()
    assert isinstance(heir, StreamSource)
    heir._has_autoclaim = False
    found: list[Entry] = []

    def claimed() -> bool:
        found.extend(heir.claim(10))
        return bool(found)

    until(claimed)
    assert data(found) == wires("a")


def test_consumers_of_long_ago_are_removed(streams: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle and nothing pending; one with something pending stays."""
    monkeypatch.setattr("llm_proxy.events.stream_source.GONE_AFTER_S", 0.0)
    streams.bus().publish(wires("a", "b", "c"))
    for name in ("busy", "idle", "me"):
        source = streams.source(name)
        source.open()
        taken = source.read(1, 0)
        if name != "busy":
            source.ack(taken)
        time.sleep(0.01)
    source.tidy()
    assert {found["name"] for found in streams.redis.xinfo_consumers(streams.key, "g")} == {b"busy", b"me"}


@pytest.mark.parametrize("fields", [{"other": "x"}, {"data": "{"}])
def test_odd_entries_are_handed_out_as_they_are(streams: World, fields: dict[str, str]) -> None:
    """The delivery decides what becomes of them."""
    streams.redis.xadd(streams.key, fields)
    source = streams.source()
    source.open()
    assert data(source.read(1, 0)) == [fields["data"].encode() if "data" in fields else None]


def test_a_restart_inherits_from_its_dead_predecessor_at_once(streams: World) -> None:
    """A made-up name of this machine whose process is gone: its entries come first, in order, without any wait."""
    import socket

    host = socket.gethostname()
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    streams.bus().publish(wires("a", "b", "c"))
    dead = streams.source(f"dispatcher-file-{host}-{process.pid}")
    living = streams.source(f"dispatcher-file-{host}-{os.getppid()}")
    living.open()
    for source in (dead, living):
        source.read(1, 0)
    heir = streams.source(f"dispatcher-file-{host}-{os.getpid()}")
    heir.open()
    assert data(heir.own(10)) == wires("a")
    assert data(heir.read(10, 0)) == wires("c")


# -- lists alone -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lists(shared_redis_server: RedisServer) -> World:
    """The list bus."""
    return World("redis", shared_redis_server)


def test_a_name_is_taken_once(lists: World) -> None:
    """A living process elsewhere has it: refused. It expired: taken."""
    lists.redis.set(f"{lists.key}:consumer:c1", "elsewhere|77|x", px=300)
    with pytest.raises(NameTaken):
        lists.source("c1").open()

    def opened() -> bool:
        try:
            lists.source("c1").open()
        except NameTaken:
            return False
        return True

    until(opened, 5)


def test_the_name_of_a_dead_process_of_this_machine_is_free(lists: World) -> None:
    """A restart after kill -9 need not wait for the key to expire."""
    import socket

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lists.redis.set(f"{lists.key}:consumer:c1", f"{socket.gethostname()}|{process.pid}|x")
    with pytest.raises(NameTaken):
        lists.source("c1").open()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lists.source("c1").open()


def test_a_forgotten_processing_list_is_found(lists: World) -> None:
    """Also one whose consumer was never registered."""
    lists.redis.lpush(f"{lists.key}:processing:old", *wires("a", "b"))
    source = lists.source()
    source.open()
    source.tidy()
    source.claim(10)
    assert data(source.read(10, 0)) == wires("a", "b")


def test_two_equal_events_are_two(lists: World) -> None:
    """Acknowledging one leaves the other."""
    source = lists.source()
    source.open()
    lists.bus().publish(wires("a", "a"))
    found = source.read(10, 0)
    assert len(found) == 2
    source.ack(found[:1])
    assert source.stats().pending == 1
