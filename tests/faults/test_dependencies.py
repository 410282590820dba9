"""The database, Redis, the provider and the dispatcher's target fail under load, each in each way."""

import time

import pytest
from faults.conftest import OPEN_S, World, broken, streaming
from support.dispatcher import dispatching
from support.gateway import eventually

pytestmark = pytest.mark.times

QUICK = {("Database", "killed"), ("Redis", "frozen"), ("Provider", "killed"), ("Target of the dispatcher", "half-open")}
FAULTS = ("stopped", "killed", "frozen", "slow", "half-open")
FAULT_S = 1.5


def cells(part: str) -> list[object]:
    """The faults of a part; those of the long run are marked."""
    marks = {fault: () if (part, fault) in QUICK else (pytest.mark.stamina,) for fault in FAULTS}
    return [pytest.param(fault, marks=marks[fault]) for fault in FAULTS]


@pytest.mark.parametrize("fault", cells("Database"))
def test_database(world: World, fault: str) -> None:
    """Requests are refused or late, never wrongly; streams go on; all is served soon after."""
    with world.load() as load, streaming(world, load.tokens["free"]["token"]) as stream:
        with broken(world, "Database", fault) as began:
            if fault in ("stopped", "killed", "frozen"):
                load.until(began, 4, 503)
                assert world.gateway.get("/live")[0] == 200
                eventually(lambda: world.gateway.get("/ready")[0] == 503)  # it asks every two seconds
            else:
                time.sleep(FAULT_S)
        mended = time.monotonic()
        load.until(mended, 8, 200, within_s=8)
        found = load.since(began)
        assert {call.status for call in found} <= {200, 503}
        assert {call.retry_after for call in found if call.status == 503} <= {"1"}
        assert max(call.took_s for call in found) < 6
        stream.until(b"[DONE]")


@pytest.mark.parametrize("fault", cells("Redis"))
def test_redis(world: World, fault: str) -> None:
    """Requests are served as if nothing was; each has its event in the end."""
    before = world.delivered()
    with world.load() as load:
        with broken(world, "Redis", fault):
            time.sleep(FAULT_S)
        time.sleep(0.3)
    assert set(load.statuses(0.0)) == {200}
    assert max(call.took_s for call in load.calls) < 2
    world.expect_events(before, load)


@pytest.mark.parametrize("fault", cells("Provider"))
def test_provider(world: World, fault: str) -> None:
    """Silence is 504, absence 502, then the circuit refuses; it is asked again when the time of the circuit is over."""
    expected = {"stopped": {502, 503}, "killed": {502, 503}, "frozen": {504, 502, 503}, "half-open": {504, 502, 503}}
    with world.load() as load:
        with broken(world, "Provider", fault) as began:
            if fault in ("stopped", "killed", "frozen"):
                load.until(began, 4, 503)
            else:
                time.sleep(FAULT_S)
        load.until(time.monotonic(), 8, 200, within_s=OPEN_S + 5)
        assert set(load.statuses(began)) <= expected.get(fault, set()) | {200}
        assert max(call.took_s for call in load.since(began)) < 4


@pytest.mark.parametrize("fault", cells("Target of the dispatcher"))
def test_target(world: World, fault: str) -> None:
    """Requests do not notice; every event is delivered in the end."""
    before = world.delivered()
    with world.load() as load, broken(world, "Target of the dispatcher", fault):
        time.sleep(FAULT_S)
    assert set(load.statuses(0.0)) == {200}
    world.expect_events(before, load)


# -- disks that are full ----------------------------------------------------------------------------------------------


@pytest.mark.stamina
def test_a_provider_without_room(world: World) -> None:
    """507 passes on as it is."""
    world.provider.set_rules({"path": "/v1/chat/completions", "status": 507, "times": 6})
    with world.load() as load:
        pass
    world.provider.set_rules()
    assert load.statuses(0.0)[507] == 6


@pytest.mark.stamina
def test_a_target_without_room(world: World) -> None:
    """What it refuses with 507 is tried again until it takes it."""
    before = world.delivered()
    world.service.fault = lambda call, body: 507
    with world.load() as load:
        time.sleep(FAULT_S)
    world.service.fault = lambda call, body: None
    assert set(load.statuses(0.0)) == {200}
    world.expect_events(before, load)


@pytest.mark.stamina
def test_a_redis_without_room(world: World) -> None:
    """It refuses writes: events go to the spool, and are delivered when there is room."""
    before = world.delivered()
    with world.load() as load:
        world.redis.client().config_set("maxmemory", "1mb")
        time.sleep(FAULT_S)
        world.redis.client().config_set("maxmemory", "0")
    assert set(load.statuses(0.0)) == {200}
    world.expect_events(before, load)


@pytest.mark.stamina
def test_a_database_without_room(world: World) -> None:
    """Nothing can be written: tokens without limits are served, others may get 503; every count is right afterwards."""
    with world.load() as load:
        world.database.run("ALTER SYSTEM SET default_transaction_read_only = on")
        world.database.run("SELECT pg_reload_conf()")
        began = time.monotonic()
        time.sleep(FAULT_S)
        world.database.run("ALTER SYSTEM RESET default_transaction_read_only")
        world.database.run("SELECT pg_reload_conf()")
        load.until(time.monotonic(), 8, 200, within_s=8)
        assert set(load.statuses(began, "limited")) <= {200, 503}
        assert set(load.statuses(began, "free")) == {200}


@pytest.mark.stamina
def test_a_dispatcher_that_is_killed(world: World) -> None:
    """Its successor delivers what it had taken and not acknowledged."""
    before = world.delivered()
    with world.load() as load:
        world.dispatcher.kill()
        time.sleep(FAULT_S)
        folder = world.dispatcher.log.parent
        with dispatching(folder, world.told) as successor:
            world.dispatcher = successor
            load.stop()
            world.expect_events(before, load)
