"""The circuit's states and the worker's slots."""

import pytest

from llm_proxy.errors import CircuitOpen, Overloaded
from llm_proxy.forwarding.breaker import COOL_DOWN_S, CircuitBreaker, ConcurrencyLimit, slot_limit


class Clock:
    """Time that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> CircuitBreaker:
    """A closed circuit."""
    return CircuitBreaker(clock)


def fail(circuit: CircuitBreaker, times: int) -> None:
    """So many failures in a row."""
    for _ in range(times):
        circuit.leave("fail", is_probe=circuit.enter())


def test_five_failures_in_a_row_open_it(circuit: CircuitBreaker) -> None:
    """Four do not; neutral endings between them change nothing."""
    fail(circuit, 4)
    circuit.leave("neutral")
    assert not circuit.is_open
    fail(circuit, 1)
    with pytest.raises(CircuitOpen) as caught:
        circuit.enter()
    assert caught.value.retry_after_s == 30


def test_a_success_begins_the_count_anew(circuit: CircuitBreaker) -> None:
    """Failures must be consecutive."""
    fail(circuit, 4)
    circuit.leave("reset")
    fail(circuit, 4)
    assert not circuit.is_open


def test_after_the_cool_down_one_probe_passes(circuit: CircuitBreaker, clock: Clock) -> None:
    """The second is refused while the first is out; its success closes the circuit."""
    fail(circuit, 5)
    clock.now += COOL_DOWN_S
    assert circuit.enter() is True
    with pytest.raises(CircuitOpen):
        circuit.enter()
    circuit.leave("reset", is_probe=True)
    assert circuit.enter() is False


def test_a_failed_probe_opens_it_again(circuit: CircuitBreaker, clock: Clock) -> None:
    """For another cool-down."""
    fail(circuit, 5)
    clock.now += COOL_DOWN_S
    circuit.leave("fail", is_probe=circuit.enter())
    clock.now += COOL_DOWN_S - 1
    with pytest.raises(CircuitOpen):
        circuit.enter()
    clock.now += 1
    assert circuit.enter() is True


def test_a_neutral_probe_makes_way_for_another(circuit: CircuitBreaker, clock: Clock) -> None:
    """Its client left: nothing is known."""
    fail(circuit, 5)
    clock.now += COOL_DOWN_S
    circuit.leave("neutral", is_probe=circuit.enter())
    assert circuit.enter() is True


def test_latecomers_do_not_close_an_open_circuit(circuit: CircuitBreaker) -> None:
    """What had been let through before says nothing about now."""
    fail(circuit, 5)
    circuit.leave("reset")
    assert circuit.is_open


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
