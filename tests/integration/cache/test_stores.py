"""One contract for both stores: what is kept is found, by its project alone, until it is taken away or too old."""

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gevent
import orjson
import pytest
from support.redis import RedisServer

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.invalidation import WriteTimes
from llm_proxy.cache.key import DEFAULT_VARY, canonical_target, primary_key, variant_key
from llm_proxy.cache.l1 import MOST_ENTRY_BYTES, WorkerCache
from llm_proxy.cache.memory import MemoryStore
from llm_proxy.cache.redis import RedisStore
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.store import Store

pytestmark = pytest.mark.times

Clock = list[float]


@pytest.fixture
def clock() -> Clock:
    """The stores' time."""
    return [1_800_000_000.0]


@pytest.fixture(params=["in-memory", "redis"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, shared_redis_server: RedisServer
) -> Iterator[Store]:
    """An empty store of each kind."""
    made: Store
    if request.param == "in-memory":
        made = MemoryStore(tmp_path, most_bytes=1 << 20, clock=lambda: clock[0])
    else:
        shared_redis_server.client().flushall()
        made = RedisStore(shared_redis_server.client(), shared_redis_server.client(), clock=lambda: clock[0])
    yield made
    made.close()


def entry(path: str = "/v1/models", *, project: str = "p", query: str = "", content: bytes = b"body") -> Entry:
    """A stored response of a GET."""
    target = canonical_target("GET", path, query)
    return Entry(
        key=variant_key(primary_key(project, "openai", target, ()), DEFAULT_VARY, ()),
        target=target,
        vary=DEFAULT_VARY,
        status=200,
        reason="OK",
        fields=(("X-A", "1"), ("X-A", "2"), ("Content-Type", "a/b")),
        content=content,
        requested_at=1_800_000_000.0,
        received_at=1_800_000_000.0,
        initial_age_s=0.0,
        lifetime_s=60.0,
    )


def found(store: Store, wanted: Entry) -> list[Entry]:
    """What a look-up of the same request finds."""
    return store.find(wanted.primary, ())


def test_what_is_kept_is_found_as_it_was(store: Store) -> None:
    """Fields with their order and repetitions, and every byte of the body."""
    kept = entry(content=bytes(range(256)) * 20)
    assert store.put(kept, 60)
    assert found(store, kept) == [kept]


def test_another_projects_look_up_finds_nothing(store: Store) -> None:
    """The project is the first part of every key."""
    store.put(entry(project="p"), 60)
    assert found(store, entry(project="q")) == []


def test_the_later_response_takes_the_place_of_the_one_before(store: Store) -> None:
    """One response a key."""
    store.put(entry(content=b"old"), 60)
    store.put(entry(content=b"new"), 60)
    assert [each.content for each in found(store, entry())] == [b"new"]


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        (lambda kept: Scope(key=kept.key), {"/v1/models/x", "/v1/files"}),
        (lambda kept: Scope(target="GET /v1/models"), {"/v1/models/x", "/v1/files"}),
        (lambda kept: Scope(prefix="/v1/models"), {"/v1/files"}),
        (lambda kept: Scope(prefix="v1:p"), set()),
        (lambda kept: Scope(prefix="/v1/*"), {"/v1/models", "/v1/models/x", "/v1/files"}),
        (lambda kept: Scope(project="p"), set()),
        (lambda kept: Scope(project="other"), {"/v1/models", "/v1/models/x", "/v1/files"}),
        (lambda kept: Scope(is_all=True), set()),
    ],
    ids=["key", "address", "prefix", "key-prefix", "literal-star", "project", "other-project", "all"],
)
def test_a_purge_takes_what_it_covers_and_counts_it(
    store: Store, scope: Callable[[Entry], Scope], left: set[str]
) -> None:
    """All variants of an address, prefixes literally, projects, everything."""
    kept = {path: entry(path) for path in ("/v1/models", "/v1/models/x", "/v1/files")}
    for each in kept.values():
        store.put(each, 60)
    removed = store.remove(scope(kept["/v1/models"]), 1)
    assert {path for path, each in kept.items() if found(store, each)} == left
    assert removed == len(kept) - len(left)


def test_a_write_takes_the_path_and_its_parents(shared_redis_server: RedisServer) -> None:
    """A new file makes the list of files old, within the project. On one machine the write times do that."""
    shared_redis_server.client().flushall()
    store = RedisStore(shared_redis_server.client(), shared_redis_server.client())
    mine, parent, other = entry("/v1/files/a"), entry("/v1/files"), entry("/v1/files", project="q")
    for each in (mine, parent, other):
        store.put(each, 600)
    store.forget_path("p", "/v1/files/a")
    store.flush()
    deadline = time.monotonic() + 5
    while found(store, mine) and time.monotonic() < deadline:
        gevent.sleep(0.01)
    assert [bool(found(store, each)) for each in (mine, parent, other)] == [False, False, True]
    store.close()


@pytest.mark.parametrize("written", ["/v1/files/a", "/v1/files/a/content"])
def test_a_write_makes_a_path_and_its_parents_old(tmp_path: Path, written: str) -> None:
    """What was asked for before the write is not served any more, by any worker of the machine."""
    one, other = WriteTimes(tmp_path), WriteTimes(tmp_path)
    before = time.time() - 1
    one.record("p", written)
    assert other.last_write("p", "/v1/files/a") > before
    assert other.last_write("p", "/v1/files") > before
    assert other.last_write("q", "/v1/files") == 0.0
    one.close()
    other.close()


def test_purge_numbers_only_grow(store: Store) -> None:
    """What others have told of is not forgotten by an older word."""
    store.announce(7)
    store.announce(3)
    found(store, entry())  # Redis tells it with a look-up
    assert store.announced() == 7


def test_a_purge_that_was_heard_of_is_not_unheard(shared_redis_server: RedisServer) -> None:
    """Look-ups overtake each other: one that left before a purge may come back after one that left later."""
    client = shared_redis_server.client()
    client.flushall()
    store = RedisStore(client, shared_redis_server.client())
    for told in (7, 6):
        client.set("llmproxy:cache:purged", told)
        found(store, entry())
    assert store.announced() == 7
    store.close()


def test_the_oldest_used_go_when_there_is_no_room(tmp_path: Path, clock: Clock) -> None:
    """LRU by bytes; what goes is counted."""
    evicted: list[int] = []
    store = MemoryStore(tmp_path, most_bytes=64 * 1024, clock=lambda: clock[0], evicted=evicted.append)
    entries = [entry(f"/v1/models/{number}", content=b"x" * 8000) for number in range(20)]
    for each in entries:
        clock[0] += 1
        store.put(each, 600)
    present = [bool(found(store, each)) for each in entries]
    assert present[-1]
    assert not present[0]
    assert store.stored_bytes() <= 64 * 1024
    assert sum(evicted) == present.count(False)
    store.close()


def test_what_is_too_old_is_not_found(tmp_path: Path, clock: Clock) -> None:
    """Its time is over by the store's clock."""
    store = MemoryStore(tmp_path, most_bytes=1 << 20, clock=lambda: clock[0])
    store.put(entry(), 10)
    clock[0] += 11
    assert found(store, entry()) == []
    assert store.remove(Scope(is_all=True), 1) == 0  # no worker would have had it: no purge took it away
    store.put(entry(), 10)
    clock[0] += 11
    assert store.stored_bytes() == store.count() == 0  # and its room is free
    store.close()


def test_two_workers_share_one_store(tmp_path: Path, clock: Clock) -> None:
    """What one keeps the other finds, and what one removes is gone for the other."""
    one, other = (MemoryStore(tmp_path, most_bytes=1 << 20, clock=lambda: clock[0]) for _ in range(2))
    one.put(entry(), 60)
    assert found(other, entry()) == [entry()]
    other.remove(Scope(is_all=True), 1)
    assert found(one, entry()) == []
    one.close()
    other.close()


@pytest.mark.parametrize(
    "text",
    [
        b"\x00 no entry",
        b"[]",
        b"{}",
        b'{"v":"v0"}',
        b'{"v":"v1","status_code":200,"headers":{},"body":"","vary":"","stored_at":0,"about":{}}',
    ],
)
def test_a_garbled_entry_is_a_miss(shared_redis_server: RedisServer, text: bytes) -> None:
    """What cannot be read is not there."""
    client = shared_redis_server.client()
    client.flushall()
    store = RedisStore(client, shared_redis_server.client())
    kept = entry()
    store.put(kept, 60)
    client.set(f"llmproxy:cache:{kept.key}", text)
    assert found(store, kept) == []
    store.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("lifetime_s", "long"), ("key", "v1:other:a:b"), ("etag", 7), ("requested_at", None), ("unknown", 1)],
)
def test_an_entry_with_foreign_values_is_a_miss(shared_redis_server: RedisServer, name: str, value: object) -> None:
    """Another program that writes to this Redis can't make a look-up fail, nor answer in another key's place."""
    client = shared_redis_server.client()
    client.flushall()
    store = RedisStore(client, shared_redis_server.client())
    kept = entry()
    store.put(kept, 60)
    form = orjson.loads(client.get(f"llmproxy:cache:{kept.key}") or b"")
    form["about"][name] = value
    client.set(f"llmproxy:cache:{kept.key}", orjson.dumps(form))
    assert found(store, kept) == []
    store.close()


def test_the_form_in_redis_is_the_references(shared_redis_server: RedisServer) -> None:
    """Key behind the prefix, JSON of status_code, headers, body and vary, and the lifetime as Redis' TTL."""
    client = shared_redis_server.client()
    client.flushall()
    store = RedisStore(client, shared_redis_server.client(), prefix="mine:")
    kept = entry()
    store.put(kept, 60)
    form = orjson.loads(client.get(f"mine:{kept.key}") or b"")
    assert (form["status_code"], form["headers"]["X-A"], form["vary"]) == (200, ["1", "2"], ", ".join(DEFAULT_VARY))
    assert base64.b64decode(form["body"]) == b"body"
    assert 58 < client.ttl(f"mine:{kept.key}") <= 60
    store.close()


def test_a_garbled_index_is_a_miss(shared_redis_server: RedisServer) -> None:
    """Members that are no text, a number that is none, and keys of another type."""
    client = shared_redis_server.client()
    kept = entry()
    index = f"llmproxy:cache:vary:{kept.primary}"
    for spoil in (
        lambda: client.sadd(index, b"\xff\xfe"),
        lambda: client.set("llmproxy:cache:purged", b"many"),
        lambda: (client.delete(index), client.set(index, b"text")),
    ):
        client.flushall()
        store = RedisStore(client, shared_redis_server.client())
        store.put(kept, 60)
        spoil()
        assert found(store, kept) == []
        store.close()


def test_redis_that_does_not_respond_is_left_alone(redis_server: RedisServer) -> None:
    """A missed deadline is a miss, counted, and for a second Redis is not asked again."""
    failures: list[int] = []
    store = RedisStore(
        redis_server.client(timeout_s=0.05), redis_server.client(timeout_s=0.2), failed=lambda: failures.append(1)
    )
    assert store.put(replace(entry(), lifetime_s=600), 600)
    redis_server.pause()
    try:
        assert found(store, entry()) == []
        assert failures
        assert store.is_left_alone
        assert found(store, entry()) == []
        assert len(failures) == 1
    finally:
        redis_server.resume()
    store.close()


def read_by_one_worker(folder: Path, clock: Clock) -> tuple[MemoryStore, MemoryStore, Entry]:
    """The stores of two workers, and an entry that the first has put and read."""
    one, other = (MemoryStore(folder, most_bytes=1 << 20, clock=lambda: clock[0]) for _ in range(2))
    first = entry()
    one.put(first, 60)
    assert found(one, first) == [first]
    return one, other, first


def test_copies_of_one_worker_follow_what_another_stores_and_removes(tmp_path: Path, clock: Clock) -> None:
    """A worker that has read an entry sees it replaced, and gone, at once."""
    one, other, first = read_by_one_worker(tmp_path, clock)
    newer = entry(content=b"newer")
    other.put(newer, 60)
    assert found(one, first) == [newer]
    other.remove(Scope(is_all=True), 1)
    assert found(one, first) == []
    one.close()
    other.close()


def test_copies_know_each_list_of_selecting_fields(tmp_path: Path, clock: Clock) -> None:
    """A response that varies by something else joins those that were read before; the latest that fits comes first."""
    one, other, first = read_by_one_worker(tmp_path, clock)
    by_a = replace(
        first, vary=("X-A",), key=variant_key(first.primary, ("X-A",), ()), received_at=first.received_at + 1
    )
    other.put(by_a, 60)
    for _ in range(2):
        assert found(one, first) == [by_a, first]
        assert one.find(first.primary, [("X-A", "1")]) == [first]
    one.close()
    other.close()


def test_copies_stay_within_their_room(tmp_path: Path) -> None:
    """A worker keeps a part of the store's bound for itself, and nothing that is large."""
    copies = WorkerCache(tmp_path, 10_000)

    def keep(kept: Entry) -> None:
        copies.keep(kept.primary, copies.generations.of(kept.primary), [kept.vary], {kept.key: kept})

    for number in range(50):
        keep(entry(f"/v1/{number}"))
    assert copies._bytes <= 10_000
    assert copies.get(entry("/v1/49").primary) is not None
    assert copies.get(entry("/v1/0").primary) is None
    large = entry("/v1/large", content=b"x" * MOST_ENTRY_BYTES)
    keep(large)
    assert copies.get(large.primary) is None
    copies.close()


def test_a_purge_spares_what_was_fetched_after_it(tmp_path: Path, clock: Clock) -> None:
    """A worker that learns of it late does not take away what others have stored since."""
    kept = MemoryStore(tmp_path, most_bytes=1 << 20, clock=lambda: clock[0])
    old, new = replace(entry("/v1/old"), number=6), replace(entry("/v1/new"), number=7)
    kept.put(old, 60)
    kept.put(new, 60)
    assert kept.remove(Scope(is_all=True), 7) == 1
    assert (found(kept, old), found(kept, new)) == ([], [new])
    kept.close()
