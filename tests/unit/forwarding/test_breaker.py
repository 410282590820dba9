"""The circuit's states and the worker's slots."""

import pytest
from support.clock import Clock

from llm_proxy.errors import CircuitOpen, Overloaded
from llm_proxy.forwarding.breaker import (
    KNOWN_SCOPES,
    NO_PROBE,
    CircuitBreaker,
    ConcurrencyLimit,
    Scope,
    slot_limit,
)
from llm_proxy.settings import UpstreamSettings


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    """With the limits that are the default."""
    return CircuitBreaker(SETTINGS, clock)


CHAT, MODELS = ("/v1/chat/completions", "gpt-4o"), ("/v1/models", "")
SETTINGS = UpstreamSettings()


def run(breaker: CircuitBreaker, verdict: str, times: int = 1, scope: Scope = CHAT) -> None:
    """So many exchanges with the same end."""
    for _ in range(times):
        breaker.leave(verdict, lambda: scope, breaker.enter(lambda: scope))


def is_closed(breaker: CircuitBreaker, scope: Scope = CHAT) -> bool:
    """Whether an exchange is let through; it ends without a verdict."""
    try:
        probe = breaker.enter(lambda: scope)
    except CircuitOpen:
        return False
    breaker.leave("neutral", lambda: scope, probe)
    return True


def test_connections_that_break_at_once_are_one_failure(breaker: CircuitBreaker, clock: Clock) -> None:
    """A moment in which twenty break does not close the way; a provider that goes on breaking them does."""
    run(breaker, "broke", 20)
    assert is_closed(breaker)
    for _ in range(4):
        clock.now += 1
        run(breaker, "broke")
    assert not is_closed(breaker)


@pytest.mark.parametrize(("failures", "window_s"), [(5, 3.0), (100, 60.0)])
def test_a_window_has_room_for_the_connections_that_open_it(clock: Clock, failures: int, window_s: float) -> None:
    """A provider that breaks every connection is not asked any more, whatever the settings."""
    asked = UpstreamSettings(circuit_breaker_failures=failures, circuit_breaker_window_s=window_s)
    breaker = CircuitBreaker(asked, clock)
    until = clock.now + window_s
    while clock.now < until and not breaker.is_open:
        run(breaker, "broke")
        clock.now += 0.05
    assert breaker.is_open


@pytest.mark.parametrize("verdict", ["fail", "unreachable"])
def test_five_failures_in_a_row_open_it(breaker: CircuitBreaker, verdict: str) -> None:
    """Four do not; neutral endings between them change nothing."""
    run(breaker, verdict, 4)
    run(breaker, "neutral")
    assert not breaker.is_open
    run(breaker, verdict)
    with pytest.raises(CircuitOpen) as caught:
        breaker.enter(lambda: CHAT)
    assert caught.value.retry_after_s == 30


@pytest.mark.parametrize("verdict", ["fail", "unreachable"])
def test_a_success_begins_the_count_again(breaker: CircuitBreaker, verdict: str) -> None:
    """Failures must be consecutive."""
    run(breaker, verdict, 4)
    run(breaker, "reset")
    run(breaker, verdict, 4)
    assert not breaker.is_open


@pytest.mark.parametrize("other", [MODELS, ("/v1/chat/completions", "gpt-5"), ("/v1/embeddings", "gpt-4o")])
def test_a_failing_endpoint_or_model_closes_no_other_way(breaker: CircuitBreaker, other: Scope) -> None:
    """Its circuit is its own; a host that cannot be reached is every endpoint's."""
    run(breaker, "fail", 5)
    assert (is_closed(breaker), is_closed(breaker, other)) == (False, True)
    run(breaker, "unreachable", 5, other)
    assert not is_closed(breaker, other)


def test_a_host_that_responds_is_reachable(breaker: CircuitBreaker) -> None:
    """A 503 after four failed connects begins the host's count again."""
    run(breaker, "unreachable", 4)
    run(breaker, "fail", scope=MODELS)
    run(breaker, "unreachable", 4)
    assert not breaker.is_open


@pytest.mark.parametrize("verdict", ["fail", "unreachable"])
def test_after_the_pause_one_probe_passes(breaker: CircuitBreaker, clock: Clock, verdict: str) -> None:
    """The second is refused while the first is out; its success closes the circuit."""
    run(breaker, verdict, 5)
    clock.now += SETTINGS.circuit_breaker_open_s
    probe = breaker.enter(lambda: CHAT)
    assert not is_closed(breaker)
    breaker.leave("reset", lambda: CHAT, probe)
    assert breaker.enter(lambda: CHAT) is NO_PROBE


@pytest.mark.parametrize("verdict", ["fail", "unreachable"])
def test_a_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: Clock, verdict: str) -> None:
    """For another pause."""
    run(breaker, verdict, 5)
    clock.now += SETTINGS.circuit_breaker_open_s
    run(breaker, verdict)
    clock.now += SETTINGS.circuit_breaker_open_s - 1
    assert not is_closed(breaker)
    clock.now += 1
    assert is_closed(breaker)


@pytest.mark.parametrize("verdict", ["fail", "unreachable"])
def test_a_neutral_probe_makes_way_for_another(breaker: CircuitBreaker, clock: Clock, verdict: str) -> None:
    """Its client left: nothing is known."""
    run(breaker, verdict, 5)
    clock.now += SETTINGS.circuit_breaker_open_s
    assert is_closed(breaker)
    assert is_closed(breaker)
    assert breaker.is_open


def test_a_probe_that_the_scope_refuses_leaves_the_hosts_place(breaker: CircuitBreaker, clock: Clock) -> None:
    """Both circuits are open; the host's pause is over, the endpoint's is not."""
    run(breaker, "unreachable", 4)
    early = breaker.enter(lambda: CHAT)
    run(breaker, "unreachable")
    clock.now += SETTINGS.circuit_breaker_open_s
    for _ in range(5):
        breaker._leave_scope("fail", CHAT, early)
    assert not is_closed(breaker)
    assert is_closed(breaker, MODELS)


def test_latecomers_do_not_close_an_open_circuit(breaker: CircuitBreaker) -> None:
    """What had been let through before says nothing about now."""
    late = breaker.enter(lambda: CHAT)
    run(breaker, "fail", 5)
    breaker.leave("reset", lambda: CHAT, late)
    assert not is_closed(breaker)


def test_old_failures_do_not_count(clock: Clock) -> None:
    """CIRCUIT_BREAKER_WINDOW; without one they do."""
    for window_s, is_open in ((60.0, False), (0.0, True)):
        breaker = CircuitBreaker(UpstreamSettings(circuit_breaker_window_s=window_s), clock)
        run(breaker, "fail", 4)
        clock.now += 61
        run(breaker, "fail")
        assert breaker.is_open is is_open


def test_zero_failures_switch_it_off(clock: Clock) -> None:
    """CIRCUIT_BREAKER_FAILURES=0."""
    breaker = CircuitBreaker(UpstreamSettings(circuit_breaker_failures=0), clock)
    run(breaker, "fail", 100)
    run(breaker, "unreachable", 100)
    assert not breaker.is_open


def test_what_clients_name_is_bounded(breaker: CircuitBreaker) -> None:
    """Made-up models do not fill the memory; a model that works leaves nothing behind."""
    for number in range(3 * KNOWN_SCOPES):
        run(breaker, "fail", scope=("/v1/chat/completions", f"m{number}"))
    assert len(breaker._by_scope) == KNOWN_SCOPES
    run(breaker, "reset", scope=("/v1/chat/completions", f"m{3 * KNOWN_SCOPES - 1}"))
    assert len(breaker._by_scope) == KNOWN_SCOPES - 1


def test_slots_are_taken_and_given_back() -> None:
    """The third of two is refused."""
    slots = ConcurrencyLimit(2)
    slots.take()
    slots.take()
    with pytest.raises(Overloaded):
        slots.take()
    slots.release()
    slots.take()


@pytest.mark.parametrize(
    ("asked", "workers", "connections", "limit"),
    [(0, 4, None, None), (10, 4, None, 2), (2, 4, None, 1), (100, 1, 50, 45), (0, 1, 1000, 900), (8, 4, 1000, 2)],
)
def test_a_worker_has_its_share(asked: int, workers: int, connections: int | None, limit: int | None) -> None:
    """Split over the workers, never above 90 % of the connections."""
    assert slot_limit(asked, workers, connections) == limit
