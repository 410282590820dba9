"""What must hold at every yield: limits lowered before asking and raised after, calls that wait, leases that close."""

import time
from pathlib import Path
from typing import Any

import pytest
from unit.accounting.quota_world import Waited, Worker, World, rest

from llm_proxy.accounting import lease_slot
from llm_proxy.accounting.lease_slot import FRESH_S, IDLE_S, WAIT_S
from llm_proxy.accounting.ledger import Ledger
from llm_proxy.db.errors import DatabaseAway
from llm_proxy.errors import (
    Overloaded,
    QuotaExhausted,
    ServiceUnavailable,
    TokenExpired,
    TokenInactive,
    TokenNotFound,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty one."""
    return World(tmp_path)


def use_up(world: World, *workers: Worker) -> None:
    """Call until all 100 units are spent; the provider saw what was counted."""
    while any(worker.call() for worker in workers):
        pass
    rest(world, workers)
    assert world.provider["token"] == world.rows["token"].request_count == 100


def lock_once(world: World, step: str) -> None:
    """Have the database wait for a lock at the next step of this name."""
    steps = [step]

    def hook(where: str) -> None:
        if where in steps:
            steps.remove(where)
            raise DatabaseAway("it waits for a lock")

    world.hook = hook


def use_up_in_turn(world: World, one: Worker, two: Worker) -> None:
    """Make calls in turn, with a sync after each, until none is admitted."""
    while one.call() or two.call():
        one.sync()
        two.sync()
    rest(world, [one, two])


def two_workers(world: World, *, limit: int, calls: int) -> tuple[Worker, Worker]:
    """Return two workers, with a limited token and a free one; the first has made calls with both."""
    world.token(limit)
    world.token(None, "free")
    first, second = Worker(world), Worker(world)
    first.calls(calls)
    first.calls(calls, "free")
    return first, second


def test_one_worker_gives_out_the_whole_quota(world: World) -> None:
    """N of N + 3, and the refusals are final at once."""
    world.token(10)
    worker = Worker(world)
    assert worker.calls(10) == 10
    for _ in range(3):
        with pytest.raises(QuotaExhausted):
            worker.take()
    rest(world, [worker])
    assert (world.rows["token"].request_count, world.held(), world.ledgers()) == (10, {}, [])


def test_the_limit_is_lowered_before_the_row_is_asked_to_give_back(world: World) -> None:
    """Greenlets that take during the swap that hands units back take none that are handed back."""
    world.token(1000)
    one, other = Worker(world), Worker(world)
    one.calls(100)
    one.sync()

    def take_500(where: str) -> None:
        if where == "has swapped":
            for _ in range(500):
                one.note_within()

    world.hook = take_500
    one.sync()
    world.hook = lambda where: None
    while other.call():
        pass
    one.sync()
    while one.call():
        pass
    rest(world, [one, other])
    assert world.provider["token"] == world.rows["token"].request_count == 1000


@pytest.mark.parametrize("fails", ["lost", "unanswered"])
def test_a_limit_is_raised_only_after_a_sure_response(world: World, fails: str) -> None:
    """A swap whose fate is unknown gives nothing, whether it was applied or not."""
    world.token(100)
    worker, other = Worker(world), Worker(world)
    worker.calls(3)
    slot = worker.slot()
    assert slot is not None
    limit = slot.limit
    world.swap_fails = fails
    while slot.limit == limit and worker.spent() < limit:
        worker.call()
    with pytest.raises(ServiceUnavailable):
        worker.take()
    assert slot.limit <= limit
    while other.call():
        pass
    worker.sync()
    use_up(world, other, worker)


def test_a_call_waits_for_what_others_hold(world: World) -> None:
    """While another worker holds an unspent unit nothing is refused; when it comes back, the waiting call has it."""
    world.token(8)
    holder, waiting = Worker(world), Worker(world, is_patient=True)
    holder.calls(1)  # and holds more
    assert sum(entry.granted - entry.settled for entry in world.held().values()) > 0
    world.hook = lambda where: holder.sync() if where == "pauses" and world.now > 100.4 else None
    assert waiting.calls(7) == 7
    with pytest.raises(QuotaExhausted):
        waiting.take()
    rest(world, [holder, waiting])
    assert world.rows["token"].request_count == 8


def test_a_wait_ends(world: World) -> None:
    """After 3 s: 503, not 429; a holder that stays in touch and keeps its units is not judged."""
    world.token(4)
    holder, waiting = Worker(world), Worker(world, is_patient=True)
    unit = holder.take()
    slot = holder.slot()
    assert slot is not None

    def keep(where: str) -> None:
        if where == "pauses":
            slot.waiters = 10  # its own calls
            holder.sync()

    while waiting.spent() < 1 and world.held() and waiting.call():
        pass
    world.hook = keep
    while waiting.call() and waiting.spent() < 4:
        pass
    started = world.now
    with pytest.raises((ServiceUnavailable, QuotaExhausted)) as caught:
        waiting.take()
    if caught.type is ServiceUnavailable:
        assert WAIT_S <= world.now - started < WAIT_S + 0.2
    slot.waiters = 0
    holder.quota.release(unit)
    rest(world, [holder, waiting])
    world.check()


def test_silence_is_charged_and_healed_by_the_owner(world: World) -> None:
    """A worker that is not heard of for 2 s is charged its slice; when it wakes, the truth is put back."""
    world.token(100)
    silent, other = Worker(world), Worker(world)
    silent.calls(1)
    held = sum(entry.granted - entry.settled for entry in world.held().values())
    assert held > 0
    assert other.call()
    world.now += 2.1
    other.sync()
    other.sync()
    assert world.rows["token"].request_count == held + 1  # its one spent unit is among those that it held
    while other.call():
        pass
    assert world.provider["token"] == 100 - held + 1
    with pytest.raises(QuotaExhausted):
        other.take()
    assert not silent.note_within()  # FRESH has ended: it syncs first
    silent.sync()
    assert world.rows["token"].request_count == world.provider["token"]
    use_up(world, other, silent)


def test_a_worker_that_sends_after_its_slice_was_charged_pays_from_it(world: World) -> None:
    """Stopped between check and note, it sends an hour later: that unit was paid for, and no limit is passed."""
    world.token(20)
    stopped, other = Worker(world), Worker(world)
    stopped.calls(1)
    slot = stopped.slot()
    assert slot is not None
    left = int(slot.limit) - stopped.spent()
    world.now += 3600
    while other.call():
        pass
    for _ in range(left):  # past the check already
        assert stopped.quota._table.spend(slot, is_synced=True)
        world.provider["token"] += 1
        slot.pending -= 1
    world.check()
    stopped.sync()
    rest(world, [stopped, other])
    assert world.provider["token"] == world.rows["token"].request_count == 20


def test_a_charge_is_final_after_a_day(world: World) -> None:
    """The key of a lease that was silent for a day goes; its owner, when it wakes, neither counts twice nor over."""
    silent, other = two_workers(world, limit=50, calls=3)
    silent.sync()
    silent.calls(2, "free")
    world.now += 90_000
    other.calls(1)
    other.calls(1, "free")
    assert len(world.held()) == len(world.held("free")) == 1
    silent.sync()
    while silent.call() or other.call():
        pass
    rest(world, [silent, other])
    assert world.rows["free"].request_count == world.provider["free"] == 6
    assert world.provider["token"] <= world.rows["token"].request_count == 50


def test_a_live_owner_is_never_settled(world: World) -> None:
    """However long it is silent: its lock is there, so its ledger is its own."""
    world.token(5000)
    owner, other = Worker(world), Worker(world)
    owner.calls(10)
    world.now += 3600
    for _ in range(3):
        other.sync()
    assert owner.spent() == 10
    assert len(world.ledgers()) == 2
    owner.sync()
    owner.calls(10)
    rest(world, [owner, other])
    assert world.rows["token"].request_count == 20


def test_a_killed_workers_units_come_back(world: World) -> None:
    """Another worker settles its ledger at the next sync: counted is what was noted, the rest can be had again."""
    killed, rescuer = two_workers(world, limit=100, calls=10)
    killed.take("free")  # noted, and not sent: counts as spent
    killed.kill()
    rescuer.sync()
    assert (world.rows["token"].request_count, world.rows["free"].request_count) == (10, 11)
    assert len(world.ledgers()) == 1
    while rescuer.call():
        pass
    rest(world, [rescuer])
    assert world.rows["token"].request_count == world.provider["token"] == 100


def test_silence_is_healed_by_another_worker(world: World) -> None:
    """A dead worker that was charged for silence first is put right from its ledger."""
    world.token(100)
    killed, other, rescuer = Worker(world), Worker(world), Worker(world)
    killed.calls(5)
    killed.quota._table.ledger, ledger = None, killed.quota._table.ledger  # no worker may settle it yet
    world.now += 3
    other.calls(1)
    assert world.rows["token"].request_count > 5
    assert ledger is not None
    ledger.release()
    rescuer.sync()
    other.sync()
    while other.call():
        pass
    rest(world, [other, rescuer])
    assert world.rows["token"].request_count == world.provider["token"] == 100


def test_an_idle_lease_is_closed(world: World) -> None:
    """An unused sync returns all units, five seconds close the lease; then there is no statement and no slot."""
    world.token(1000)
    worker = Worker(world)
    worker.calls(50)
    worker.sync()
    worker.sync()
    assert [entry.granted - entry.settled for entry in world.held().values()] == [0]
    world.now += IDLE_S + 0.1
    worker.sync()
    assert (world.held(), worker.slot()) == ({}, None)
    before = world.statements
    worker.sync()
    assert world.statements == before
    rest(world, [worker])


@pytest.mark.parametrize("fails", ["lost", "unanswered"])
@pytest.mark.parametrize("limit", [50, None])
def test_a_closing_that_is_not_answered_is_repeated(world: World, fails: str, limit: int | None) -> None:
    """The lease may be gone or not: nothing is counted twice, and units spent later count."""
    world.token(limit)
    worker = Worker(world)
    worker.calls(5)
    worker.sync()
    worker.sync()
    world.now += IDLE_S + 0.1
    world.swap_fails = fails
    worker.sync()
    assert worker.slot() is not None
    worker.sync()
    assert worker.slot() is None
    assert worker.calls(3) == 3
    rest(world, [worker])
    assert world.rows["token"].request_count == world.provider["token"] == 8


def test_a_call_in_the_midst_of_a_closing_gets_a_new_lease(world: World) -> None:
    """It writes nothing into the slot that is being freed, and is counted by its own lease."""
    world.token(None)
    worker = Worker(world)
    worker.calls(2)
    worker.sync()
    old = worker.slot()
    assert old is not None
    world.now += IDLE_S + 0.1
    noted: list[bool] = []
    world.hook = lambda where: noted.append(worker.note_within()) if where == "has swapped" else None
    worker.sync()
    world.hook = lambda where: None
    assert noted == [False]
    assert old.at == -1
    old.waiters = 1
    assert worker.quota._attempt(old, world.rows["token"]) is None  # a call that waited for it starts over
    assert worker.call()
    new = worker.slot()
    assert new is not None
    assert new.lease != old.lease
    rest(world, [worker])
    assert world.rows["token"].request_count == world.provider["token"] == 3


@pytest.mark.parametrize(
    ("values", "error"),
    [({"is_active": False}, TokenInactive), ({"max_requests": 3}, QuotaExhausted)],
    ids=["revoked", "lowered"],
)
def test_changes_are_learnt_by_the_beat(world: World, values: dict[str, Any], error: type[Exception]) -> None:
    """A revocation or a lowered limit stops the token at the next sync, and units go back."""
    world.token(1000)
    worker = Worker(world)
    worker.calls(5)
    world.patch(**values)
    worker.sync()
    with pytest.raises(error):
        worker.take()
    rest(world, [worker])
    assert (world.rows["token"].request_count, world.held()) == (5, {})


def test_unlimited_becomes_limited(world: World) -> None:
    """What was admitted before stays counted; after a sync the limit is exact."""
    world.token(None)
    one, two = Worker(world), Worker(world)
    one.calls(20)
    two.calls(10)
    world.patch(max_requests=43)
    world.most["token"] = 43
    one.sync()
    two.sync()
    use_up_in_turn(world, one, two)
    assert world.provider["token"] == world.rows["token"].request_count == 43


def test_expiry_is_by_the_databases_clock(world: World) -> None:
    """A replica whose own clock is an hour off agrees with the others."""
    world.skew_s = 3600.0
    world.token(None, expires_at=world.expires_in(1.0))
    worker = Worker(world)
    worker.health.learn(world.database_s, world.now)
    assert worker.call()
    world.now += 0.8
    assert worker.call()
    world.now += 0.3
    with pytest.raises(TokenExpired):
        worker.take()
    rest(world, [worker])


@pytest.mark.parametrize("skew_s", [5.0, -5.0, -7200.0])
def test_a_database_clock_that_jumps_admits_none_too_many(world: World, skew_s: float) -> None:
    """Set forward or back: units may be charged early, never handed out twice."""
    world.token(200)
    one, two = Worker(world), Worker(world)
    one.calls(5)
    two.calls(5)
    world.skew_s = skew_s
    for _ in range(4):
        one.calls(10)
        two.calls(10)
        one.sync()
        two.sync()
    use_up_in_turn(world, one, two)
    assert world.provider["token"] <= world.rows["token"].request_count == 200


def test_an_outage_refuses_once_facts_are_old(world: World) -> None:
    """Until FRESH ends requests go on; then 503, unlimited tokens too; the sync alone ends it."""
    world.token(1000)
    world.token(None, "free")
    worker = Worker(world)
    worker.calls(2)
    worker.calls(2, "free")
    world.is_down = True
    worker.sync()
    assert worker.call()
    assert worker.call("free")
    world.now += FRESH_S
    before = world.statements
    for id_ in ("token", "free"):
        with pytest.raises(ServiceUnavailable):
            worker.take(id_)
    assert world.statements == before  # the flag is known: no worker asks
    world.is_down = False
    with pytest.raises(ServiceUnavailable):
        worker.take()  # requests do not clear it
    worker.sync()
    assert worker.call()
    assert worker.call("free")
    rest(world, [worker])
    assert (world.rows["token"].request_count, world.rows["free"].request_count) == (4, 4)


def test_an_outage_grace_is_for_unlimited_tokens(world: World) -> None:
    """DATABASE_OUTAGE_GRACE: known unlimited tokens go on for so long, limited ones never; all is counted after."""
    world.token(1000)
    world.token(None, "free")
    worker = Worker(world, options={"grace_s": 60.0})
    worker.calls(2)
    worker.calls(2, "free")
    world.now += 30  # kept for as long as the grace
    worker.sync()
    assert worker.slot("free") is not None
    world.is_down = True
    world.now += 30
    worker.sync()
    assert worker.call("free")
    assert not worker.call()
    world.now += 31
    assert not worker.call("free")
    rest(world, [worker])
    assert world.rows["free"].request_count == world.provider["free"] == 3


def test_one_bad_row_stops_no_beat(world: World) -> None:
    """A row that cannot be understood is named in the log; the others are settled, and nothing counts as down."""
    world.token(None, leases='{"x": 1}')
    world.token(None, "good")
    worker = Worker(world)
    with pytest.raises(ServiceUnavailable):
        worker.take()
    worker.calls(3, "good")
    worker.sync()
    assert (world.rows["good"].request_count, worker.health.is_down) == (3, False)
    world.patch(leases=None)
    assert worker.call()
    rest(world, [worker])


def test_a_token_that_is_used_now_and_then_costs_two_swaps(world: World) -> None:
    """One for the unit, one that settles and closes; nothing is held between uses, so nothing can count as lost."""
    world.token(100)
    worker = Worker(world)
    for uses in range(1, 6):
        before = world.swaps
        assert worker.call()
        assert sum(entry.granted - entry.settled for entry in world.held().values()) == 1
        worker.sync()
        assert (world.rows["token"].request_count, world.rows["token"].leases) == (uses, None)
        world.now += 3.0
        worker.sync()
        assert world.swaps - before == 2


def test_a_token_that_comes_back_at_once_holds_units_again(world: World) -> None:
    """A token that returns within a moment, or was used twice in a sync, is not asked for each unit."""
    world.token(1000)
    worker = Worker(world)
    assert worker.call()
    worker.sync()
    world.now += 0.4
    before = world.swaps
    assert worker.calls(4) == 4
    assert world.swaps - before == 1
    worker.sync()
    assert worker.slot() is not None
    rest(world, [worker])
    assert world.rows["token"].request_count == 5


def test_a_locked_row_is_no_outage(world: World) -> None:
    """A swap that gets no response while other statements do: the others are settled, requests go on."""
    world.token(None, "locked")
    world.token(None, "good")
    worker = Worker(world)
    worker.calls(2, "locked")
    worker.calls(3, "good")
    lock_once(world, "will swap")
    worker.sync()
    assert (world.rows["good"].request_count, worker.health.is_down) == (3, False)
    assert worker.call("locked")
    rest(world, [worker])
    assert world.rows["locked"].request_count == 3


def test_times_of_use_behind_a_lock_are_no_outage(world: World) -> None:
    """They are written by a later round; requests go on, and none is refused."""
    token = world.token(None)
    worker = Worker(world)
    worker.quota.count_hit(token)
    lock_once(world, "will add")
    worker.sync()
    assert (world.rows["token"].hits, worker.health.is_down) == (0, False)
    assert worker.call()
    worker.sync()
    assert world.rows["token"].hits == 1
    rest(world, [worker])


def test_a_deleted_token_is_unknown(world: World) -> None:
    """Its slot is freed once nothing is under way."""
    world.token(None)
    worker = Worker(world)
    unit = worker.take()
    row = world.rows.pop("token")
    worker.sync()
    with pytest.raises(TokenNotFound):
        worker.quota.reserve(row)
    worker.quota.release(unit)
    worker.sync()
    assert worker.slot() is None
    rest(world, [worker])


def test_refunds_go_to_later_calls(world: World) -> None:
    """A unit whose connection could not be made is given out again, also after it was settled."""
    world.token(3)
    worker = Worker(world)
    units = [worker.take() for _ in range(3)]
    worker.sync()
    assert not worker.call()
    for unit in units:
        worker.quota.release(unit)
        worker.quota.release(unit)
    worker.sync()
    assert worker.calls(9) == 3
    rest(world, [worker])
    assert world.rows["token"].request_count == 3


def test_slots_that_are_full_close_the_idlest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no slot can be closed: 503 overloaded."""
    occupy = Ledger.occupy

    def bounded(self: Ledger, token_id: str, lease: int) -> int | None:
        return occupy(self, token_id, lease) if len(worker.quota._table.slots) < 3 else None

    monkeypatch.setattr(Ledger, "occupy", bounded)
    worker = Worker(world)
    for id_ in "abcd":
        world.token(None, id_)
        world.now += 0.1
        assert worker.call(id_)
    assert worker.slot("a") is None
    units = [worker.take(id_) for id_ in "bcd"]
    with pytest.raises(Overloaded):
        worker.take("a")
    for unit in units:
        worker.quota.commit(unit)
    assert worker.call("a")
    rest(world, [worker])
    assert [world.rows[id_].request_count for id_ in "abcd"] == [2, 2, 2, 2]


def test_streams_of_revoked_tokens_are_cut(world: World) -> None:
    """Tokens with live streams are looked at, slot or not; found revoked or gone, their streams are cut."""
    for id_ in ("good", "revoked", "gone"):
        world.token(None, id_)
    worker = Worker(world)
    cut: list[str] = []
    worker.quota.cut_streams(lambda: ["good", "revoked", "gone"], cut.append)
    worker.sync()
    assert cut == []
    world.patch("revoked", is_active=False)
    del world.rows["gone"]
    worker.sync()
    assert sorted(cut) == ["gone", "revoked"]
    rest(world, [worker])


def test_a_call_that_the_token_directory_has_just_read_asks_once(world: World) -> None:
    """Facts that are fresh save the read: a cold token costs one statement, its swap."""
    row = world.token(10)
    worker = Worker(world)
    worker.sync()
    before = world.statements
    known = world.read([row.id])[row.id]
    unit = worker.quota.reserve(known)
    assert world.statements - before == 2
    worker.quota.commit(unit)
    rest(world, [worker])


def test_the_first_use_is_written_at_once(world: World) -> None:
    """`last_used_at` moves with the lease's opening, so that no other worker takes the token for idle."""
    world.token(10)
    worker = Worker(world)
    unit = worker.take()
    assert world.rows["token"].last_used_s == pytest.approx(world.database_s)
    worker.quota.commit(unit)
    rest(world, [worker])


@pytest.mark.no_cover
def test_noting_a_unit_takes_microseconds(world: World) -> None:
    """take and sent, from the slot's own facts; the bound is generous for a busy machine."""
    world.token(None)
    worker = Worker(world)
    worker.calls(1)
    row, quota = world.rows["token"], worker.quota
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            quota.commit(quota.reserve(row))
        best = min(best, (time.perf_counter() - started) / 1000)
    assert best < 20e-6, f"{best * 1e6:.1f} µs"
    rest(world, [worker])


def test_waits_are_polled_by_one(world: World) -> None:
    """Within 50 ms of a sync that had nothing to give, another call waits without asking."""
    world.token(4)
    holder, waiting = Worker(world), Worker(world)
    holder.calls(1)
    while waiting.call():
        pass
    before = world.statements
    for _ in range(5):
        with pytest.raises(Waited):
            waiting.take()
    assert world.statements == before
    rest(world, [holder, waiting])


def test_constants_are_the_schemes() -> None:
    """Figures that the guarantees rest on."""
    assert (lease_slot.SYNC_S, lease_slot.FRESH_S, lease_slot.WAIT_S, lease_slot.IDLE_S) == (0.4, 0.9, 3.0, 5.0)
    assert lease_slot.SYNC_S * 1.1 + 2 * lease_slot.STATEMENT_S < 1.0
