"""Failed attempts, counted for all workers of a machine and for all replicas."""

from pathlib import Path

import pytest
from support.clock import Clock
from support.redis import RedisServer

from llm_proxy.limits import login_throttle
from llm_proxy.limits.login_throttle import LoginThrottle
from llm_proxy.limits.redis import RedisStore
from llm_proxy.redisclient import parse_address


def test_processes_share_one_exact_minute(tmp_path: Path) -> None:
    """The 21st waits until the first of twenty is a minute old, whichever worker counted; other addresses are free."""
    clock = Clock(1000.0)
    workers = [LoginThrottle(tmp_path, clock=clock) for _ in range(2)]
    for number in range(20):
        assert workers[number % 2].note("192.0.2.1") == 0
        clock.now += 1
    assert [worker.note("192.0.2.1") for worker in workers] == [40, 40]
    assert workers[0].note("192.0.2.2") == 0
    clock.now += 40
    assert [workers[0].note("192.0.2.1") for _ in range(2)] == [0, 1]
    for worker in workers:
        worker.close()


def test_a_full_group_forgets_the_address_that_was_quiet_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers from many addresses don't make room for one that goes on."""
    monkeypatch.setattr(login_throttle, "_GROUPS", 1)
    clock = Clock(1000.0)
    counted = LoginThrottle(tmp_path, clock=clock)
    for number in range(19):
        clock.now += 0.1
        counted.note(f"192.0.2.{number}")
        counted.note("198.51.100.1")
    assert [counted.note("198.51.100.1") > 0 for _ in range(2)] == [False, True]
    counted.close()


def test_replicas_share_what_redis_counts(tmp_path: Path, shared_redis_server: RedisServer) -> None:
    """Two machines are one where limits are kept in Redis; without it each counts for itself."""
    shared_redis_server.client().flushall()
    stores = [RedisStore(parse_address(shared_redis_server.addr), "ratelimit:") for _ in range(2)]
    replicas = [LoginThrottle(tmp_path / str(number), store) for number, store in enumerate(stores)]
    assert [replicas[number % 2].note("192.0.2.1") for number in range(20)] == [0] * 20
    assert all(55 <= replica.note("192.0.2.1") <= 60 for replica in replicas)
    assert replicas[0].note(None) == 0
    assert 50 <= shared_redis_server.client().ttl("ratelimit:failures:192.0.2.1") <= 61
    away = LoginThrottle(tmp_path / "away", RedisStore(parse_address("127.0.0.1:1"), "ratelimit:"))
    assert [away.note("192.0.2.1") > 0 for _ in range(21)] == [False] * 20 + [True]
    for part in (*replicas, away):
        part.close()
    for store in stores:
        store.close()
