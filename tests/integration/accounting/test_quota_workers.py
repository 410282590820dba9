"""Eight real workers on each engine: exactly N, whatever is killed, stopped or changed meanwhile."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import DRIVERS, Database, empty_database
from support.gateway import eventually
from support.quota_workers import QuotaWorkers, Token, Worker, quota_workers

WORKERS = 8
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="module")  # no engine decides it


@pytest.fixture(scope="module", params=DRIVERS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A migrated database for the module's tests, on each engine in turn."""
    server = None if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_server")
    with empty_database(request.param, server, tmp_path_factory.mktemp("quota_workers")) as found:
        found.migrated()
        yield found


@pytest.fixture(scope="module")
def eight(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuotaWorkers]:
    """Eight workers that the tests share; a killed one is replaced."""
    with quota_workers(database, tmp_path_factory.mktemp("eight"), WORKERS) as made:
        yield made


@pytest.fixture
def workers(eight: QuotaWorkers) -> QuotaWorkers:
    """All eight, after whatever the test before did."""
    eight.replace_dead()
    return eight


def shuffled(tokens: list[Token], more: int = 0, calls: int = 0) -> list[Token]:
    """As many calls as each token allows and `more`, in no order."""
    offered = [token for token in tokens for _ in range(calls or (token.max_requests or 0) + more)]
    random.shuffle(offered)
    return offered


@pytest.mark.times
@pytest.mark.parametrize("more", [0, 40], ids=["N", "N+40"])
def test_exactly_n(workers: QuotaWorkers, more: int) -> None:
    """Of N calls all are admitted, of N + 40 exactly 40 are refused, whichever workers they reach; no call fails."""
    tokens = [workers.token(n) for n in (1, 2, 3, 10, 50, 400, 1000)]
    tally = workers.offer(shuffled(tokens, more), parallel=8, failing=0.01, pause_s=0.001)
    assert (tally["admitted"], tally["refused"], tally["away"]) == (1466, more * len(tokens), 0)
    assert tally["slowest_s"] < 3
    for token in tokens:
        assert workers.seen()[token.id] == token.max_requests
    assert {line.charged - (line.max_requests or 0) for line in workers.lines(tokens)} == {0}


def test_revocation_and_limits_reach_every_worker_within_a_second(workers: QuotaWorkers) -> None:
    """The slowest of eight workers' last admission after a revocation or a lowered limit; a raised one is exact."""
    revoked, lowered, raised, bounded = workers.token(), workers.token(10**6), workers.token(500), workers.token()
    bearers = [token.bearer for token in (revoked, lowered, raised, bounded)]
    workers.everybody("load", bearers=bearers, parallel=4, pause_s=0.004)
    eventually(lambda: workers.seen()[raised.id] == 500, 30)
    time.sleep(0.5)
    at = {
        revoked: workers.change(revoked, "is_active = false"),
        lowered: workers.change(lowered, "max_requests = 1"),
        raised: workers.change(raised, "max_requests = 700"),
    }
    workers.change(bounded, "max_requests = request_count + 333")
    eventually(lambda: workers.seen()[raised.id] == 700, 30)
    time.sleep(1.0)
    workers.everybody("rest")
    assert workers.last_seen(revoked) - at[revoked] < 1
    assert workers.last_seen(lowered) - at[lowered] < 1
    assert workers.seen()[raised.id] == 700
    line = next(line for line in workers.lines([bounded]))
    # What was under way when the limit came stays counted, and no more than it is admitted after.
    assert line.charged == line.witnessed
    assert line.max_requests is not None


def test_killed_workers_give_back_what_they_held(workers: QuotaWorkers) -> None:
    """Two of eight are killed at work: the rest of the quota is admitted, the count never falls below the log."""
    tokens = [workers.token(n) for n in (200, 2000)] + [workers.token()]
    workers.everybody("load", bearers=[token.bearer for token in tokens], parallel=4, pause_s=0.004)
    eventually(lambda: workers.seen()[tokens[1].id] > 300, 30)
    for worker in workers.running[:2]:
        worker.kill()
    eventually(lambda: {line.leased for line in workers.lines(tokens[:2])} == {0}, 60)
    workers.everybody("rest")
    for line in workers.lines(tokens):
        assert not line.is_over
        assert 0 <= line.difference <= 2 * 4, line  # noted, and not yet sent: at most one a caller
        assert line.unknown == 0
        if line.max_requests is not None:
            assert line.charged == line.max_requests


def test_stopped_workers_are_charged_and_healed(workers: QuotaWorkers) -> None:
    """Units of stopped workers count as spent after 2 s, are never handed out again, and come back when they wake."""
    token = workers.token(3000)
    stopped, at_work = workers.running[:4], workers.running[4:]
    bearers = [token.bearer] * 100
    for worker in workers.running:
        worker.tell("offer", bearers=bearers, parallel=2, pause_s=0.0)
    for worker in workers.running:
        worker.reply()
    for worker in stopped:
        worker.tell("load", bearers=[token.bearer], parallel=2, pause_s=0.002)
        worker.reply()
    time.sleep(0.6)
    for worker in stopped:
        worker.stop()
    until = time.monotonic() + 20
    refused = 0
    while not refused and time.monotonic() < until:
        for worker in at_work:
            worker.tell("offer", bearers=[token.bearer] * 200, parallel=4, pause_s=0.0)
        refused = sum(worker.reply()["refused"] for worker in at_work)
    assert refused
    assert workers.seen()[token.id] <= 3000
    for worker in stopped:
        worker.go_on()
    eventually(lambda: workers.seen()[token.id] == 3000, 20)
    for worker in stopped:
        worker.ask("rest")
    eventually(lambda: workers.lines([token])[0].leased == 0, 10)
    assert (workers.seen()[token.id], workers.lines([token])[0].charged) == (3000, 3000)


def test_a_hot_token_costs_few_round_trips(workers: QuotaWorkers) -> None:
    """At full speed less than a tenth of a statement a request; a storm on an exhausted token costs less still."""
    token, spent = workers.token(10**7), workers.token(1)
    workers.everybody("trips")
    tally = workers.offer(shuffled([token], calls=4000), parallel=2)
    assert tally["admitted"] == 4000
    assert tally["trips"] / 4000 < 0.1
    workers.offer(shuffled([spent], calls=8), parallel=1)
    workers.everybody("trips")
    storm = workers.offer(shuffled([spent], calls=4000), parallel=2)
    assert storm["refused"] == 4000
    assert storm["trips"] / 4000 < 0.05


@on_sqlite
def test_all_killed_and_started_again(workers: QuotaWorkers) -> None:
    """The machine's workers all die at once: those that come settle their ledgers before they serve."""
    token, limited = workers.token(), workers.token(1000)
    workers.offer(shuffled([token, limited], calls=400), parallel=2)
    for worker in workers.running:
        worker.stop()  # or they would settle each other's
    for worker in workers.running:
        worker.kill()
    assert len(workers.ledgers()) == WORKERS
    before = workers.lines([token, limited])
    workers.replace_dead()
    assert len(workers.ledgers()) == WORKERS
    for line, old in zip(workers.lines([token, limited]), before, strict=True):
        assert (line.counted, line.leased, line.witnessed) == (400, 0, 400), (line, old)


@on_sqlite
def test_everybody_at_rest_leaves_nothing(workers: QuotaWorkers) -> None:
    """After a drain counts are the log's, no lease and no ledger is left."""
    tokens = [workers.token(100), workers.token()]
    workers.offer(shuffled(tokens, calls=90), parallel=2)
    for line in workers.settled(tokens):
        assert (line.counted, line.leased, line.unsettled) == (line.witnessed, 0, 0)
    assert workers.ledgers() == []


@on_sqlite
def test_a_lost_machine_costs_at_most_its_slices(database: Database, tmp_path: Path) -> None:
    """Workers killed with their ledgers: never over the limit, and under it by what they held at most."""
    with quota_workers(database, tmp_path, 4, replicas=2) as made:
        token, free = made.token(2000), made.token()
        made.everybody("load", bearers=[token.bearer, free.bearer], parallel=2, pause_s=0.004)
        eventually(lambda: made.seen()[token.id] > 300, 30)
        lost: list[Worker] = [worker for n, worker in enumerate(made.workers) if n % 2]
        for worker in lost:
            worker.kill()
        shutil.rmtree(made.root(1))
        held = made.lines([token])[0].leased
        eventually(lambda: made.lines([token])[0].leased == 0, 60)
        made.everybody("rest")
        line, unlimited = sorted(made.settled([token, free]), key=lambda line: line.max_requests is None)
        assert line.witnessed is not None
        assert 2000 - held - 8 <= line.witnessed <= line.counted == 2000
        assert unlimited.difference <= 0  # what they admitted since their last sync is in no count
