"""Events as they come, for people who watch: what is known of each exchange, without bodies and fields.

With a Redis bus the events of every server are shown; with the in-memory bus those of all workers of this server. What
a project's `event_privacy` keeps out of events is not in them here either.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import gevent
import gevent.queue

from llm_proxy import redisclient
from llm_proxy.events.event import Event
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.tail import follow_list, follow_stream, parse
from llm_proxy.redisclient import unreachable
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.runtime.peers import Peers, Subscription
from llm_proxy.settings import Settings

TAIL: Final = "events"
TICK_S: Final = 1.0
MOST_TAILS: Final = 50  # of a worker
_MOST_WAITING: Final = 1000  # events; a reader that is slower loses the rest


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are shown. `within` are the projects that the caller may see, None for all."""

    project_id: str | None = None
    token_id: str | None = None
    outcome: str | None = None
    within: frozenset[str] | None = None

    def wants(self, shown: Mapping[str, Any]) -> bool:
        """Whether it passes."""
        if self.within is not None and shown["project_id"] not in self.within:
            return False
        pairs = ((self.project_id, "project_id"), (self.token_id, "token_id"), (self.outcome, "outcome"))
        return all(value is None or shown[name] == value for value, name in pairs)


class Tails:
    """Makes tails.

    Args:
        bus: The in-memory bus of this worker; None where events go to Redis.
    """

    def __init__(self, settings: Settings, bus: MemoryBus | None) -> None:
        self._settings, self._bus = settings, bus
        self._peers: Peers | None = None
        self.open = 0

    def connect(self, peers: Peers) -> None:
        """Watch these workers as well."""
        self._peers = peers

    def handlers(self) -> Mapping[str, Any]:
        """Return what other workers may ask."""
        return {TAIL: self.own}

    def own(self, argument: Any) -> Iterator[dict[str, Any] | None]:
        """Yield this worker's events, and None each second without one: so a reader that has left is noticed."""
        if self._bus is None:
            return
        subscription = self._bus.subscribe(_MOST_WAITING)
        try:
            while not subscription.has_ended:
                wire = subscription.get(TICK_S)
                yield None if wire is None else shown_of(parse(wire))
        finally:
            subscription.close()

    def follow(self, wanted: EventFilter, is_over: Callable[[], bool]) -> Iterator[dict[str, Any] | None]:
        """Yield events that pass, and None each second without one, until `is_over`."""
        waiting: gevent.queue.Queue[dict[str, Any]] = gevent.queue.Queue(_MOST_WAITING)

        def put(shown: dict[str, Any] | None) -> None:
            if shown is not None and wanted.wants(shown):
                with contextlib.suppress(gevent.queue.Full):
                    waiting.put_nowait(shown)

        greenlet = gevent.spawn(self._read, put)
        others = self._subscribed(put)
        self.open += 1
        try:
            yield None
            while not is_over():
                try:
                    yield waiting.get(timeout=TICK_S)
                except gevent.queue.Empty:
                    yield None
        finally:
            self.open -= 1
            greenlet.kill(block=False)
            if others is not None:
                others.close()

    def _subscribed(self, put: Callable[[Any], None]) -> Subscription | None:
        return None if self._bus is None or self._peers is None else self._peers.subscribe(TAIL, None, put)

    def _read(self, put: Callable[[dict[str, Any] | None], None]) -> None:
        """Read the bus; Redis is asked again a second after it was unavailable."""
        if self._bus is not None:
            for shown in self.own(None):
                put(shown)
            return
        settings = self._settings
        client = redisclient.connect(redisclient.target(settings.redis), timeout_s=10.0)
        is_list = settings.events.bus == "redis"
        follow, key = (
            (follow_list, settings.events.list_key) if is_list else (follow_stream, settings.events.stream_key)
        )
        try:
            while True:
                try:
                    for event in follow(client, key, 0):
                        put(shown_of(event))
                except unreachable():
                    gevent.sleep(TICK_S)
        finally:
            client.close()


def shown_of(event: Event | None) -> dict[str, Any] | None:
    """Return what is shown of an event; None for none."""
    if event is None:
        return None
    return {
        "id": event.event_id,
        "at": rfc3339(event.started_at) if event.started_at is not None else None,
        "project_id": event.project_id,
        "token_id": event.token_id,
        "provider": event.provider,
        "outcome": event.outcome,
        "method": event.method,
        "path": event.path,
        "status": event.status,
        "duration_ms": round(event.duration_ns / 1e6, 3),
        "first_byte_ms": round(event.time_to_first_byte_ns / 1e6, 3) if event.time_to_first_byte_ns else None,
        "usage": event.usage,
        "request_id": event.request_id,
    }
