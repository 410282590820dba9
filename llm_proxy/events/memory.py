"""The `in-memory` bus: each subscriber of this process gets every event (docs/events.md, "In memory")."""

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gevent.event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Counts since the start. `dropped` sums over the subscribers; after `close`, `late` counts what came anyway."""

    published: int
    dropped: int
    late: int


class Subscription:
    """One subscriber's bounded queue. Iterate to take events in order; it ends when the bus has closed and it is empty.

    A slow subscriber loses the events that its queue has no room for, and no other notices.
    """

    def __init__(self, bus: "MemoryBus", most: int) -> None:
        self._bus, self._most = bus, most
        self._queue: deque[bytes] = deque()
        self._changed = gevent.event.Event()
        self._is_closed = False
        self.dropped = 0

    def put(self, wire: bytes) -> None:
        """Queue an event or count it as dropped; never waits."""
        if len(self._queue) >= self._most:
            self.dropped += 1
            return
        self._queue.append(wire)
        self._changed.set()

    def get(self, timeout_s: float | None = None) -> bytes | None:
        """Return the next event; None when none came in time, or none will come any more."""
        if not self._queue and not self._is_closed:
            self._changed.clear()
            self._changed.wait(timeout_s)
        return self._queue.popleft() if self._queue else None

    def __iter__(self) -> Iterator[bytes]:
        while (wire := self.get()) is not None:
            yield wire

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left and nothing will come."""
        return self._is_closed and not self._queue

    def end(self) -> None:
        """Nothing more will come; what is queued can still be taken."""
        self._is_closed = True
        self._changed.set()

    def close(self) -> None:
        """Stop getting events."""
        self._bus.unsubscribe(self)
        self.end()


class MemoryBus:
    """Fans events out within one process. A worker sees its own requests only."""

    name = "in-memory"

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._next_number = 1
        self._published = self._late = self._gone_dropped = 0
        self._is_closed = False

    @property
    def has_subscribers(self) -> bool:
        """Whether publishing reaches any subscriber; the publisher saves itself the JSON otherwise."""
        return bool(self._subscriptions)

    def subscribe(self, most: int = 1000) -> Subscription:
        """Its own queue for at most so many events."""
        subscription = Subscription(self, most)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscriber; its drops stay counted."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._gone_dropped += subscription.dropped

    def reserve(self, count: int) -> int:
        """Numbers of this process."""
        first, self._next_number = self._next_number, self._next_number + count
        return first

    def room(self) -> float:
        """No bound: a slow subscriber does not delay the bus."""
        return math.inf

    def publish(self, wires: Sequence[bytes]) -> None:
        """Hand each event to each subscriber; after `close` only count."""
        if self._is_closed:
            self._late += len(wires)
            return
        self._published += len(wires)
        for subscription in self._subscriptions:
            for wire in wires:
                subscription.put(wire)

    def count(self, events: int) -> None:
        """Events without a subscriber."""
        self._published += events

    def stats(self) -> MemoryStats:
        """Return the counts now."""
        dropped = self._gone_dropped + sum(subscription.dropped for subscription in self._subscriptions)
        return MemoryStats(self._published, dropped, self._late)

    def close(self) -> None:
        """Close all subscribers; what they have queued is still theirs to take."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.end()
