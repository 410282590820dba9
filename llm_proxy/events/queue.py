"""What the publisher is made of: its queue, its view of the bus, and where its counts go."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from llm_proxy.events.event import Event
from llm_proxy.runtime.short_turns import long_work

WATCH_S = 1.0
BACKOFF_S = (0.1, 5.0)
_log = logging.getLogger(__name__)


class LineSink(Protocol):
    """The worker's own file of events."""

    def start(self) -> None:
        """Have a thread write from now on."""

    def write(self, event: Event) -> None:
        """Put one line on its way. Never waits once started, and never raises."""

    def reopen(self) -> None:
        """Open the file that has the name now."""

    def close(self) -> None:
        """Write what is on its way, within a bound of time, and close the file."""


def _ignore(count: int) -> None:
    """Count nothing."""


def _ignore_reason(reason: str, count: int) -> None:
    """Count nothing."""


@dataclass(slots=True)
class Counters:
    """Where the publisher's counts go; metrics.py's counters in the server."""

    published: Callable[[int], None] = _ignore
    spooled: Callable[[int], None] = _ignore
    dropped: Callable[[str, int], None] = _ignore_reason
    bus_seconds: Callable[[float], None] = lambda _seconds: None


@dataclass(slots=True)
class Link:
    """Whether the bus takes events, and when it is tried again."""

    is_up: bool = True
    retry_at: float = 0.0
    backoff_s: float = BACKOFF_S[0]
    room: float = 0.0
    watched_at: float = -WATCH_S
    is_behind: bool = False

    @property
    def is_due(self) -> bool:
        """Whether the bus may be tried: it takes events, or its pause is over."""
        return self.is_up or time.monotonic() >= self.retry_at

    def went_down(self, reason: str, fate: str) -> None:
        """Note that it does not take events, and log it when that is new."""
        was_up, self.is_up = self.is_up, False
        self.retry_at = time.monotonic() + self.backoff_s
        self.backoff_s = min(self.backoff_s * 2, BACKOFF_S[1])
        self.watched_at = -WATCH_S
        if was_up:
            _log.warning("events: the bus does not take events, they %s: %s", fate, reason)

    def came_back(self) -> None:
        """Note that it takes events, and log it when that is new."""
        was_down, was_behind = not self.is_up, self.is_behind
        self.is_up, self.is_behind, self.backoff_s = True, False, BACKOFF_S[0]
        if was_down:
            _log.info("events: the bus takes events again")
        if was_behind:
            _log.info("events: the consumers have caught up")

    def fell_behind(self) -> None:
        """Note that its consumers are too far behind, and log it when that is new."""
        was_behind, self.is_behind, self.is_up = self.is_behind, True, True
        if not was_behind:
            _log.warning("events: the consumers are REDIS_STREAM_MAX_LEN events behind; new ones go to the spool")


class Offered(Protocol):
    """What a publisher is offered: an event, or the means to make one when its turn has come."""

    @property
    def held_bytes(self) -> int:
        """About what it weighs on the wire."""

    def event(self) -> Event:
        """Return the event; called once."""


@dataclass(slots=True)
class Waiting:
    """An event in the queue, its weight, and whether the file of events has its line."""

    offered: Offered
    size: int
    is_written: bool = False

    def event(self) -> Event:
        """Return the event, made at the first call."""
        event = self.offered.event()
        self.offered = event
        return event


@dataclass(slots=True)
class Queue:
    """What waits in memory, with its weight."""

    items: deque[Waiting] = field(default_factory=deque)
    held_bytes: int = 0

    def add(self, offered: Offered, size: int) -> None:
        """Put one at the end."""
        self.items.append(Waiting(offered, size))
        self.held_bytes += size

    def take(self) -> Waiting:
        """Return the oldest."""
        waiting = self.items.popleft()
        self.held_bytes -= waiting.size
        return waiting

    def make_oldest(self) -> Waiting:
        """Make the event of the oldest, in short turns. It stays in its place, so that nothing is lost meanwhile."""
        waiting = self.items[0]
        try:
            with long_work():
                waiting.event()
        except Exception:
            self._take(waiting)
            raise
        return waiting

    def take_made(self) -> Waiting | None:
        """Return the oldest with its event made, in short turns; None where it was taken meanwhile."""
        return self._take(self.make_oldest())

    def _take(self, waiting: Waiting) -> Waiting | None:
        return self.take() if self.items and self.items[0] is waiting else None

    def give_back(self, waiting: Waiting) -> None:
        """Put the oldest back."""
        self.items.appendleft(waiting)
        self.held_bytes += waiting.size

    def clear(self) -> None:
        """Forget all."""
        self.items.clear()
        self.held_bytes = 0
