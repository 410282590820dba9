"""From the queue to this very process: subscribers of the in-memory bus, and the file of events."""

from llm_proxy.events.event_lines import SLICE_BYTES, EventLines
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.queue import Counters, Queue, Waiting
from llm_proxy.events.usage import wire_of
from llm_proxy.runtime.short_turns import pause


class LocalDelivery:
    """Empties a queue; nothing here can be unavailable, so nothing is tried again or spooled.

    Attributes:
        unseen: Exchanges that were not captured, and are not counted yet.
    """

    def __init__(self, bus: MemoryBus, counters: Counters, lines: EventLines) -> None:
        self._bus, self._counters, self._lines = bus, counters, lines
        self.unseen = 0

    @property
    def has_observers(self) -> bool:
        """Whether anything in this process reads events: a subscriber, or the file."""
        return self._bus.has_subscribers or self._lines.are_wanted

    def drain(self, queue: Queue, *, gives_way: bool) -> None:
        """Everything that is queued. `gives_way`: let others run now and then."""
        if self.unseen:
            unseen, self.unseen = self.unseen, 0
            self._count_unmade(unseen)
        held = 0
        while queue.items:
            if not self.has_observers:
                queued = len(queue.items)
                queue.clear()
                self._count_unmade(queued)
                return
            waiting = queue.take_made() if gives_way else queue.take()
            if waiting is None:
                continue
            held += self._deliver(waiting, gives_way)
            if held > SLICE_BYTES and gives_way:
                held = 0
                pause()

    def _deliver(self, waiting: Waiting, gives_way: bool) -> int:
        event = waiting.event()
        event.log_id = self._bus.reserve(1)
        if self._bus.has_subscribers:
            self._bus.publish([wire_of(event)])
        else:
            self._bus.count(1)
        self._lines.write(waiting, gives_way=gives_way)
        self._counters.published(1)
        return waiting.size

    def _count_unmade(self, count: int) -> None:
        """Count events that are never made, because nothing reads them."""
        self._bus.reserve(count)
        self._bus.count(count)
        self._counters.published(count)
