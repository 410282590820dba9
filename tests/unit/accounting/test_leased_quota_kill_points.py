"""kill -9 at every point of a worker's life, and of the one's that settles it: exactly once, never below the log."""

from pathlib import Path

import pytest
from unit.accounting.quota_world import Killed, Worker, World, rest

from llm_proxy.accounting.lease_slot import IDLE_S
from llm_proxy.accounting.ledger import DeadLedger, Ledger

MOST_POINTS = 400


def life(world: World, worker: Worker) -> None:
    """Every kind of step: opening, refill, refund, sync, return, closing, opening again, drain."""
    for _ in range(6):
        worker.call()
    worker.call("free")
    unit = worker.take()
    worker.sync()
    worker.quota.release(unit)
    worker.call("free")
    worker.call()
    worker.sync()
    worker.sync()
    world.now += IDLE_S + 0.1
    worker.sync()
    worker.call()
    worker.call("free")
    worker.close()


def at_point(world: World, number: int) -> list[str]:
    """Kill at the n-th point from now on; the list gets the point's name."""
    passed: list[str] = []

    def hook(where: str) -> None:
        passed.append(where)
        if len(passed) == number:
            raise Killed

    world.hook = hook
    return passed


@pytest.fixture(autouse=True)
def _slot_writes_are_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each slot that is written and cleared."""
    for kind, name in ((Ledger, "occupy"), (Ledger, "clear"), (DeadLedger, "clear")):
        plain = getattr(kind, name)

        def watched(self: object, *arguments: object, plain: object = plain, name: str = name) -> object:
            HOOK[0].hook(f"will {name}")
            result = plain(self, *arguments)  # type: ignore[operator]
            HOOK[0].hook(f"has {name}")
            return result

        monkeypatch.setattr(kind, name, watched)


HOOK: list[World] = []


def a_world(root: Path) -> World:
    """Two tokens, 20 units and no limit."""
    world = World(root)
    HOOK[:] = [world]
    world.token(20)
    world.token(None, "free")
    return world


def test_a_worker_is_killed_at_every_point(tmp_path: Path) -> None:
    """Another worker settles it; what is left of the quota can be had; counts are the log's, or one unit above it."""
    names = set()
    for number in range(1, MOST_POINTS):
        world = a_world(tmp_path / str(number))
        worker, rescuer = Worker(world), Worker(world)
        rescuer.sync()
        passed = at_point(world, number)
        try:
            life(world, worker)
        except Killed:
            worker.kill()
        else:
            break
        names.add(passed[-1])
        world.hook = lambda where: None
        rescuer.sync()
        while rescuer.call():
            pass
        rest(world, [rescuer])
        assert world.ledgers() == [], passed
        for id_, row in world.rows.items():
            assert 0 <= row.request_count - world.provider[id_] <= 1, (id_, passed)
            assert row.leases is None, passed
        assert world.rows["token"].request_count == 20, passed
    else:
        pytest.fail("the life never ended")
    assert number > 60
    assert names >= {"will read", "has read", "will swap", "has swapped", "will occupy", "has occupy", "will clear",
                     "has clear", "will note", "has noted", "has dispatched"}  # fmt: skip


def test_a_rescuer_is_killed_at_every_point(tmp_path: Path) -> None:
    """The next worker finds two ledgers, and nothing is counted twice: the swap that removes the key is the arbiter."""
    for number in range(1, MOST_POINTS):
        world = a_world(tmp_path / str(number))
        worker, rescuer, next_rescuer = Worker(world), Worker(world), Worker(world)
        for _ in range(6):
            worker.call()
            worker.call("free")
        worker.kill()
        next_rescuer.quota._table.opened(next_rescuer.world)
        at_point(world, number)
        try:
            rescuer.sync()
        except Killed:
            rescuer.kill()
        else:
            break
        world.hook = lambda where: None
        for path in world.ledgers():  # the kernel frees its locks
            for mapped in list(_open_ledgers()):
                if mapped.path == path and id(mapped) != id(next_rescuer.quota._table.ledger):
                    mapped.release()
        next_rescuer.sync()
        assert world.rows["token"].request_count == world.rows["free"].request_count == 6
        rest(world, [next_rescuer])
        assert world.ledgers() == []
    else:
        pytest.fail("it never ended")
    assert number > 8


def _open_ledgers() -> list[DeadLedger]:
    from llm_proxy.accounting import ledger

    return list(ledger._OPEN)  # type: ignore[arg-type]


@pytest.mark.parametrize("fails", ["lost", "unanswered"])
def test_every_swap_fails_once(tmp_path: Path, fails: str) -> None:
    """Lost before or after it was applied, anywhere in a life: counts come out right all the same."""
    for number in range(1, 60):
        world = a_world(tmp_path / f"{fails}-{number}")
        worker, other = Worker(world), Worker(world)
        swaps = 0

        def hook(where: str, number: int = number, world: World = world) -> None:
            nonlocal swaps
            if where == "will swap":
                swaps += 1
                if swaps == number:
                    world.swap_fails = fails

        world.hook = hook
        life(world, worker)
        world.hook = lambda where: None
        while other.call():
            pass
        rest(world, [other])
        assert world.ledgers() == []
        for id_, row in world.rows.items():
            assert (row.request_count, row.leases) == (world.provider[id_], None), (id_, number)
        if swaps < number:
            break
    else:
        pytest.fail("it never ended")
    assert number > 8


def test_two_rescuers_at_once(tmp_path: Path) -> None:
    """While one settles a ledger, the other finds it locked; both together count it once."""
    world = a_world(tmp_path)
    worker, one, two = Worker(world), Worker(world), Worker(world)
    one.sync()
    two.sync()
    for _ in range(6):
        worker.call()
        worker.call("free")
    worker.kill()
    world.hook = lambda where: _beat_once(world, two) if where == "will swap" else None
    one.sync()
    assert world.rows["token"].request_count == world.rows["free"].request_count == 6
    rest(world, [one, two])
    assert world.ledgers() == []


def _beat_once(world: World, worker: Worker) -> None:
    world.hook = lambda where: None
    worker.sync()
