"""One contract for both stores of windows."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.redis import RedisServer

from llm_proxy.limits import shared_memory
from llm_proxy.limits.redis import RedisStore
from llm_proxy.limits.shared_memory import SharedMemoryStore
from llm_proxy.limits.window import Window
from llm_proxy.redisclient import parse_address

Store = SharedMemoryStore | RedisStore


@pytest.fixture(params=["machine", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, shared_redis_server: RedisServer) -> Iterator[Store]:
    """An empty one of each kind."""
    made: Store
    if request.param == "machine":
        made = SharedMemoryStore(tmp_path)
    else:
        shared_redis_server.client().flushall()
        made = RedisStore(parse_address(shared_redis_server.addr), "ratelimit:")
    yield made
    made.close()


def test_exactly_the_limit_is_admitted_however_many_ask_at_once(store: Store) -> None:
    """No take slips in between look and count."""
    window = Window("a", 50, 3600, "token")
    with ThreadPoolExecutor(8) as pool:
        admitted = sum(verdict.refused is None for verdict in pool.map(lambda _: store.take([window]), range(200)))
    assert admitted == 50


def test_a_refused_request_fills_no_window(store: Store) -> None:
    """Of two windows the full one refuses, and the other does not count it."""
    full, free = Window("full", 1, 3600, "token"), Window("free", 3, 3600, "project")
    assert store.take([full, free]).refused is None
    for _ in range(5):
        assert store.take([full, free]).refused == 0
    assert [store.take([free]).refused for _ in range(3)] == [None, None, 0]


def test_windows_with_other_keys_do_not_touch(store: Store) -> None:
    """Each id has its own."""
    assert [store.take([Window(key, 1, 3600, "token")]).refused for key in ("a", "b", "a")] == [None, None, 0]


def test_a_window_slides_free(store: Store) -> None:
    """After two windows nothing of what was counted is left."""
    window = Window("short", 2, 1, "token")
    assert [store.take([window]).refused for _ in range(2)] == [None, None]
    deadline = time.monotonic() + 5
    while store.take([window]).refused is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_redis_keys_have_the_documented_form_and_a_lifetime(shared_redis_server: RedisServer) -> None:
    """`{prefix}{id}:{windowStart}`, TTL 2·window + 1 s."""
    client = shared_redis_server.client()
    client.flushall()
    store = RedisStore(parse_address(shared_redis_server.addr), "ratelimit:")
    store.take([Window("an-id", 5, 60, "token")])
    (key,) = client.keys("*")
    assert isinstance(key, bytes)
    name, _, start = key.decode().rpartition(":")
    assert name == "ratelimit:an-id"
    assert int(start) % 60 == 0
    assert 110 <= client.ttl(key) <= 121
    store.close()


def test_two_processes_share_the_machines_windows(tmp_path: Path) -> None:
    """Workers open the same file."""
    one, other = SharedMemoryStore(tmp_path), SharedMemoryStore(tmp_path)
    window = Window("a", 3, 3600, "client")
    assert [each.take([window]).refused for each in (one, other, one, other)] == [None, None, None, 0]
    one.close()
    other.close()


HOLD = """
import fcntl, os, sys, time
from pathlib import Path
from llm_proxy.limits.shared_memory import SharedMemoryStore
from llm_proxy.limits.window import Window
store = SharedMemoryStore(Path(sys.argv[1]))
store.take([Window("a", 3, 3600, "client")])
fcntl.flock(store._file._descriptor, fcntl.LOCK_EX)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.times
def test_a_worker_that_is_killed_with_the_lock_stops_no_other(tmp_path: Path) -> None:
    """kill -9 of its holder frees the lock, and its counts stay; a stopped holder delays by half a second."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip().isdigit()
        store, window = SharedMemoryStore(tmp_path), Window("a", 3, 3600, "client")
        began = time.monotonic()
        assert store.take([window]).refused is None
        assert time.monotonic() - began < 2
        os.kill(holder.pid, signal.SIGKILL)
    assert [store.take([window]).refused for _ in range(2)] == [None, 0]
    store.close()


def test_new_windows_of_one_step_do_not_share_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that begin in one group at once both keep their count."""
    monkeypatch.setattr(shared_memory, "_GROUPS", 1)
    store = SharedMemoryStore(tmp_path)
    pair = [Window(key, 1, 3600, "token") for key in ("a", "b")]
    assert store.take(pair).refused is None
    assert [store.take([window]).refused for window in pair] == [0, 0]
    store.close()


def test_a_full_group_gives_up_the_window_that_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many addresses' minutes do not push out a token's hour."""
    monkeypatch.setattr(shared_memory, "_GROUPS", 1)
    store, hour = SharedMemoryStore(tmp_path), Window("a-token", 1, 3600, "token")
    assert store.take([hour]).refused is None
    for number in range(100):
        assert store.take([Window(f"ip:{number}", 5, 60, "client")]).refused is None
    assert store.take([hour]).refused == 0
    store.close()


RACE = """
import sys
from pathlib import Path
from llm_proxy.limits.shared_memory import SharedMemoryStore
from llm_proxy.limits.window import Window
store, window = SharedMemoryStore(Path(sys.argv[1])), Window("a", 9000, 3600, "token")
sys.stdin.readline()
print(sum(store.take([window]).refused is None for _ in range(5000)))
"""


def test_processes_that_race_admit_exactly_the_limit(tmp_path: Path) -> None:
    """Three processes, 5,000 takes each, 9,000 admitted: none slips in between look and count."""
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    admitted = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(admitted) == 9000
