"""dispatcher.state: when a dispatcher is live, ready, fit."""

from typing import Any

import pytest

from llm_proxy.dispatcher import state as module
from llm_proxy.dispatcher.options import options
from llm_proxy.dispatcher.series import Series
from llm_proxy.dispatcher.state import State
from llm_proxy.events.bus import SourceStats
from llm_proxy.settings import DispatcherSettings, EventSettings, Settings


class Clock:
    """Monotonic time, as told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Now."""
        return self.now

    def time(self) -> float:
        """Now, for gauges."""
        return 1_760_000_000.0 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the tests turn."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def fresh(clock: Clock, **more: Any) -> State:
    """A dispatcher that is running well."""
    found = State(
        options(Settings(events=EventSettings(bus="redis-streams"), dispatcher=DispatcherSettings(**more))),
        Series("file"),
    )
    found.is_open = True
    found.redis_is_up()
    return found


def status(state: State) -> str:
    """What /health calls it."""
    return str(state.report()[1]["status"])


def test_a_running_one_is_live_ready_and_healthy(clock: Clock) -> None:
    """All three, and the keys of the report."""
    state = fresh(clock)
    assert (state.is_live, state.unreadiness, status(state)) == (True, None, "healthy")
    assert "message" not in state.report()[1]


def test_a_loop_that_stands_still_is_not_live(clock: Clock) -> None:
    """A minute, and as much more as a call may take beyond the usual."""
    state = fresh(clock)
    clock.now += 61
    assert not state.is_live
    state.turned()
    assert state.is_live
    slow = fresh(clock, timeout_s=120.0)
    clock.now += 100
    assert slow.is_live


def test_high_lag_is_unhealthy(clock: Clock) -> None:
    """More than 10,000, pending and undelivered together."""
    state = fresh(clock)
    state.take(SourceStats(pending=1, undelivered=10_000))
    healthy, report = state.report()
    assert (healthy, report["message"], report["lag_count"]) == (False, "High lag: 10001", 10_001)


def test_standing_still_with_a_lag_is_unhealthy(clock: Clock) -> None:
    """Five minutes without anything processed; without a lag there is nothing to do."""
    state = fresh(clock)
    state.take(SourceStats(undelivered=5))
    clock.now += 301
    assert status(state) == "unhealthy"
    state.take(SourceStats())
    assert status(state) == "healthy"
    state.take(SourceStats(undelivered=5))
    assert status(state) == "healthy"


def test_redis_away_is_unready_at_once_and_unhealthy_after_a_minute(clock: Clock) -> None:
    """And fine again when it answers."""
    state = fresh(clock)
    state.redis_is_down("ConnectionError")
    assert (state.unreadiness, status(state)) == ("redis", "healthy")
    clock.now += 61
    assert status(state) == "unhealthy"
    state.redis_is_up()
    assert (state.unreadiness, status(state)) == (None, "healthy")


def test_held_is_unready_and_unhealthy_until_something_is_accepted(clock: Clock) -> None:
    """The reason is shown."""
    state = fresh(clock)
    state.set_held("HTTP 401")
    assert (state.unreadiness, state.report()[1]["message"]) == ("held", "Held: HTTP 401")
    state.count_sent(1)
    assert (state.unreadiness, status(state)) == (None, "healthy")


def test_a_service_that_refuses_single_events_holds_nothing_up(clock: Clock) -> None:
    """Held until the service judges an event: then its key and address are right; a broken entry says nothing."""
    state = fresh(clock)
    state.set_held("HTTP 401")
    state.count_dead("unparsable")
    assert state.held_by == "HTTP 401"
    state.count_dead("rejected")
    assert state.held_by is None


def test_losses_degrade_for_five_minutes(clock: Clock) -> None:
    """Trimmed events are counted as dropped; dead letters are not, but degrade as well."""
    state = fresh(clock)
    state.take(SourceStats(trimmed=3))
    assert (status(state), state.report()[0], state.dropped) == ("degraded", True, 3)
    clock.now += 301
    assert status(state) == "healthy"
    state.count_dead("rejected")
    assert status(state) == "degraded"


def test_the_rate_is_that_of_the_last_window(clock: Clock) -> None:
    """Events a second between two looks."""
    state = fresh(clock)
    state.count_processed(50)
    clock.now += 10
    state.take(SourceStats())
    assert state.report()[1]["processing_rate"] == 5.0
    clock.now += 10
    state.take(SourceStats())
    assert state.report()[1]["processing_rate"] == 0.0
