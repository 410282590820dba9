"""The file of events as a publisher feeds it: each event once, in order, whatever becomes of the bus."""

from collections.abc import Callable
from contextlib import nullcontext

from llm_proxy.events.queue import LineSink, Offered, Queue, Waiting
from llm_proxy.runtime.short_turns import long_work, pause

SLICE_BYTES = 128 * 1024  # of JSON made or written before other greenlets get a turn


class EventLines:
    """Writes lines for events that leave the queue, and for those that have to stay in it or find no room there.

    Args:
        sink: None: no file was asked for; everything does nothing.
        queue: The publisher's.
        most_events, most_bytes: Bounds of what waits for its line alone, having found no room in the queue.
        lost: Gets the number of events that found no room here either.
    """

    def __init__(
        self,
        sink: LineSink | None,
        queue: Queue,
        *,
        most_events: int,
        most_bytes: int,
        lost: Callable[[int], None],
    ) -> None:
        self._sink, self._queue, self._lost = sink, queue, lost
        self._most_events, self._most_bytes = most_events, most_bytes
        self._missed = Queue()

    @property
    def are_wanted(self) -> bool:
        """Whether there is a file."""
        return self._sink is not None

    def start(self) -> None:
        """Have a thread write; after the fork."""
        if self._sink is not None:
            self._sink.start()

    def reopen(self) -> None:
        """Open the file that has the name now (SIGUSR1)."""
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        """Write what is left, within a bound of time."""
        if self._sink is not None:
            self.catch_up(gives_way=False)
            self._sink.close()

    def write(self, waiting: Waiting, *, gives_way: bool) -> None:
        """Write the line of an event that leaves the queue, unless it has been written. `gives_way`: in short turns."""
        if self._sink is not None and not waiting.is_written:
            waiting.is_written = True
            try:
                with long_work() if gives_way else nullcontext():
                    self._sink.write(waiting.event())
            except BaseException:  # this greenlet is ended
                waiting.is_written = False
                self._missed.give_back(waiting)
                raise

    def missed(self, offered: Offered, size: int) -> None:
        """Take an event that the queue has no room for: the file gets it nevertheless. Never waits."""
        if self._sink is None:
            return
        if len(self._missed.items) >= self._most_events or self._missed.held_bytes + size > self._most_bytes:
            self._lost(1)
        else:
            self._missed.add(offered, size)

    def catch_up(self, *, gives_way: bool = True) -> None:
        """Write the lines of all events that wait in the queue, then of those that found no room there."""
        if self._sink is None:
            return
        unwritten: list[Waiting] = []
        for waiting in reversed(self._queue.items):
            if waiting.is_written:
                break  # and so are all before it
            unwritten.append(waiting)
        held = 0
        for waiting in reversed(unwritten):
            self.write(waiting, gives_way=gives_way)
            held = self._gave_way(held + waiting.size, gives_way)
        while self._missed.items:
            waiting = self._missed.take()
            self.write(waiting, gives_way=gives_way)
            held = self._gave_way(held + waiting.size, gives_way)

    @staticmethod
    def _gave_way(held: int, gives_way: bool) -> int:
        if held > SLICE_BYTES and gives_way:
            pause()
            return 0
        return held
