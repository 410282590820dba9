"""events.publisher: order in the moments that a real Redis rarely gives."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from llm_proxy.events.bus import BusUnavailable
from llm_proxy.events.event import Event
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.spool import Spool


class Bus:
    """Takes events, unless `trouble` has something against it."""

    name = "fake"

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.number = 0
        self.during: Callable[[], None] = lambda: None
        self.left = float("inf")

    def reserve(self, count: int) -> int:
        """Ascending."""
        self.during()
        self.number += count
        return self.number - count + 1

    def room(self) -> float:
        """What is left."""
        return self.left

    def publish(self, wires: Sequence[bytes]) -> None:
        """Take them."""
        self.during()
        self.taken += [int(orjson.loads(wire)["RequestID"]) for wire in wires]

    def close(self) -> None:
        """Nothing to close."""


def event(n: int) -> Event:
    """A numbered event."""
    return Event(request_id=str(n), method="POST", path="/", status=200)


def offer(publisher: Publisher, numbers: range) -> None:
    """Offer events with these numbers."""
    for n in numbers:
        publisher.offer(event(n))


def at_publication(step: Callable[[], None]) -> Callable[[], None]:
    """Return what a bus does while it is called: nothing at the first call, where numbers are had, then the step."""
    calls = itertools.count(1)

    def during() -> None:
        if next(calls) == 2:
            step()

    return during


def test_a_batch_that_fails_while_the_queue_overflows_stays_the_oldest(tmp_path: Path) -> None:
    """In flight: 0 to 9. Meanwhile 10 to 39 overflow a queue of 12 into the spool. Then the flight fails."""
    bus = Bus()
    publisher = Publisher(bus, spool=Spool(tmp_path, 1 << 24), most_events=12)
    offer(publisher, range(10))

    def trouble() -> None:
        offer(publisher, range(10, 40))
        raise BusUnavailable("a time limit passed")

    bus.during = at_publication(trouble)
    publisher.turn()
    bus.during = lambda: None
    publisher._link.retry_at = 0.0
    publisher.turn()
    assert bus.taken == list(range(40))


def test_an_overflow_while_numbers_are_had_does_not_reorder(tmp_path: Path) -> None:
    """The head of the queue goes to the spool in the middle of taking a batch: what is left is no longer next."""
    bus = Bus()
    publisher = Publisher(bus, spool=Spool(tmp_path, 1 << 24), most_events=12)
    offer(publisher, range(10))

    def overflow() -> None:
        bus.during = lambda: None
        for n in range(10, 30):
            publisher.offer(event(n))

    bus.during = overflow
    publisher.turn()
    publisher.turn()
    assert bus.taken == list(range(30))


def test_without_a_spool_a_failed_batch_is_tried_again_first() -> None:
    """It waits in memory, ahead of the queue."""
    bus = Bus()
    publisher = Publisher(bus)
    offer(publisher, range(5))

    def trouble() -> None:
        publisher.offer(event(5))
        raise BusUnavailable("gone")

    bus.during = at_publication(trouble)
    publisher.turn()
    assert publisher.queued == 6
    publisher._link.retry_at = 0.0
    publisher.turn()
    assert bus.taken == list(range(6))


def test_no_more_than_the_room_goes_out(tmp_path: Path) -> None:
    """Consumers that are behind get what they have room for; the rest waits on the disk."""
    bus = Bus()
    bus.left = 7
    publisher = Publisher(bus, spool=Spool(tmp_path, 1 << 24))
    offer(publisher, range(20))

    def used_up() -> float:
        return 7.0 - len(bus.taken)

    bus.room = used_up  # type: ignore[method-assign]
    publisher.turn()
    assert bus.taken == list(range(7))
    assert publisher.spool_bytes > 0
