"""From a worker's finished exchanges to the bus, never in a request's way (ADR 0081).

`offer` appends to a queue in memory. One greenlet takes from it, in order: to the bus while that takes events and
nothing waits on disk, else to the end of the spool. So whatever is on the bus is older than what is in the spool, and
that older than what is in the queue; order is kept without ever comparing anything.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
import gevent.event

from llm_proxy.events.bus import Bus, BusUnavailable
from llm_proxy.events.event import number
from llm_proxy.events.event_lines import SLICE_BYTES, EventLines
from llm_proxy.events.local import LocalDelivery
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.queue import WATCH_S, Counters, LineSink, Link, Offered, Queue
from llm_proxy.events.spool import Spool, SpoolFull
from llm_proxy.events.usage import wire_of
from llm_proxy.runtime.short_turns import breathe, long_work, pause

log = logging.getLogger(__name__)

_T = TypeVar("_T")

BATCH_EVENTS = 100
BATCH_BYTES = 1024 * 1024  # what a slow network carries within a command's 250 ms
REPLAY_EVENTS = 20  # about a millisecond of a worker's time
REPLAY_BYTES = 128 * 1024
LINGER_S = 0.02  # lets a pipeline fill; no request waits for it
ADOPT_S = 5.0
CALL_S = 5.0
FLUSH_S = 5.0
_SPILL_SHARE = 0.5  # of the queue's bounds: beyond it the spool is filled even while a batch is under way


class Publisher:
    """A worker's queue of events and the greenlet that empties it.

    Args:
        spool: None: events wait in memory alone.
        most_events, most_bytes: The bounds of the queue (OBSERVABILITY_BUFFER_SIZE, OBSERVABILITY_BUFFER_BYTES).
        file_sink: Sees every event, whatever the bus does.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        spool: Spool | None = None,
        most_events: int = 1000,
        most_bytes: int = 64 * 1024 * 1024,
        counters: Counters | None = None,
        file_sink: LineSink | None = None,
    ) -> None:
        self._bus, self._spool = bus, spool
        self._most_events, self._most_bytes = most_events, most_bytes
        self._counters = counters or Counters()
        self._queue = Queue()
        self._lines = EventLines(
            file_sink,
            self._queue,
            most_events=most_events,
            most_bytes=most_bytes,
            lost=lambda count: self._counters.dropped("file", count),
        )
        self._local = LocalDelivery(bus, self._counters, self._lines) if isinstance(bus, MemoryBus) else None
        self._unsettled: list[bytes] = []  # without a spool: a batch whose fate is unknown, tried again first
        self._link = Link()
        self._work = gevent.event.Event()
        self._greenlet: gevent.Greenlet | None = None
        self._is_stopping = False
        self._is_spool_full = False
        self._is_spool_broken = False
        self._adopted_at = -ADOPT_S

    def offer(self, offered: Offered) -> None:
        """Queue an event. Never waits and never raises; counts it as dropped when there is room nowhere."""
        queue, size = self._queue, offered.held_bytes
        if len(queue.items) >= self._most_events or queue.held_bytes + size > self._most_bytes:
            self._make_room(size)
            if len(queue.items) >= self._most_events or queue.held_bytes + size > self._most_bytes:
                self._counters.dropped("spool_full" if self._spool is not None else "buffer_full", 1)
                self._lines.missed(offered, size)
                return
        queue.add(offered, size)
        if not self._work.is_set():
            self._work.set()

    @property
    def has_observers(self) -> bool:
        """Whether anything would read an event. An exchange that begins while nothing would is not captured.

        A subscription to the in-memory bus switches it on; other buses, and a file of events, are always read.
        """
        return self._local is None or self._local.has_observers

    def unseen(self) -> None:
        """Count the event of an exchange that was not captured."""
        if self._local is not None:
            self._local.unseen += 1
        if not self._work.is_set():
            self._work.set()

    def _make_room(self, size: int) -> None:
        """Spill the oldest few at once: more came during one command than the queue holds."""
        self._work.set()
        if self._spool is None or self._is_spool_full:
            return
        spilled = 0
        while self._queue.items and (spilled < 4 or self._queue.held_bytes + size > self._most_bytes):
            if not self._spill_one():
                return
            spilled += 1

    @property
    def is_full(self) -> bool:
        """Whether the next event may be lost: the spool is full, or the queue is where there is none."""
        if self._spool is not None:
            return self._is_spool_full
        return len(self._queue.items) >= self._most_events or self._queue.held_bytes >= self._most_bytes

    @property
    def queued(self) -> int:
        """Events in memory."""
        return len(self._queue.items) + len(self._unsettled)

    @property
    def spool_bytes(self) -> int:
        """Bytes on disk that this worker will replay."""
        return self._spool.pending_bytes if self._spool is not None else 0

    @property
    def bus(self) -> Bus:
        """Where events go."""
        return self._bus

    def start(self) -> None:
        """Start the greenlet; after the fork. A second call does nothing."""
        if self._greenlet is None:
            self._lines.start()
            self._greenlet = gevent.spawn(self._run)

    def reopen(self) -> None:
        """SIGUSR1: the file sink releases its file."""
        self._lines.reopen()

    def close(self, *, cut: bool = False) -> None:
        """Flush for at most 5 s, then put the rest into the spool; with `cut` the spool gets all of it at once."""
        self._is_stopping = True
        self._work.set()
        if self._greenlet is not None:
            if not cut:
                self._greenlet.join(timeout=FLUSH_S)
            self._greenlet.kill()
            self._greenlet = None
        self._save_rest()
        self._lines.close()
        self._bus.close()
        if self._spool is not None:
            self._spool.close()

    def _save_rest(self) -> None:
        if self._spool is not None:
            self._spool_unsettled()
            while self._queue.items and self._spill_one():
                pass
        elif self._local is not None:
            self._local.drain(self._queue, gives_way=False)
        lost = self.queued
        if lost:
            self._counters.dropped("spool_full" if self._spool is not None else "shutdown", lost)
            log.error("events: %d events were lost at the end: no room was left for them", lost)

    def _run(self) -> None:
        while True:
            pause_s = self._pause_s()
            if pause_s is None or pause_s > 0:
                self._work.wait(pause_s)
            if not self._is_stopping and len(self._queue.items) < BATCH_EVENTS:
                gevent.sleep(LINGER_S)
            self._work.clear()
            try:
                self.turn()
            except Exception:
                log.exception("events: the publisher failed; it goes on in a second")
                gevent.sleep(1.0)
            if self._is_stopping and self._is_drained():
                return

    def _is_drained(self) -> bool:
        """Whether a stop has nothing more to wait for: all is out, or the bus is not there to take the rest."""
        return not self.queued or not self._link.is_up or self._link.is_behind

    def _pause_s(self) -> float | None:
        """How long nothing needs doing unless an event comes; None: permanently."""
        if self._local is not None:
            return None
        now = time.monotonic()
        if not self._link.is_up:
            return max(0.01, self._link.retry_at - now)
        waits = [self._adopted_at + ADOPT_S - now] if self._spool is not None else []
        if self._link.is_behind or (self._spool is not None and not self._spool.is_empty):
            waits.append(self._link.watched_at + WATCH_S - now)
        return max(0.01, min(waits)) if waits else None

    def turn(self) -> None:
        """Do everything that can be done now; by hand where no gevent loop runs the greenlet."""
        if self._local is not None:
            self._local.drain(self._queue, gives_way=not self._is_stopping)
            return
        now = time.monotonic()
        if self._spool is not None and now - self._adopted_at >= ADOPT_S:
            self._adopted_at = now
            self._adopt()
        if self._link.is_due:
            try:
                self._send_all()
            except BusUnavailable as exc:
                self._link.went_down(str(exc), "go to the spool" if self._spool is not None else "wait in memory")
        if not self._link.is_up:
            self._spill()
        self._lines.catch_up(gives_way=not self._is_stopping)

    def _send_all(self) -> None:
        """Send the unsettled batch, the spool, the queue, while consumers keep up. Raises BusUnavailable."""
        while True:
            self._watch()
            if self._link.room <= 0:
                self._fell_behind()
                return
            began = time.monotonic()
            batch, delivered = self._next_batch(int(min(BATCH_EVENTS, self._link.room)))
            if not batch:
                self._link.came_back()
                return
            self._publish(batch)
            delivered()
            self._link.room -= len(batch)
            self._counters.published(len(batch))
            self._link.came_back()
            self._give_way(time.monotonic() - began)

    def _give_way(self, took_s: float) -> None:
        """Put requests first: a replay of thousands of events takes at most half of the worker's time."""
        is_replaying = self._spool is not None and not self._spool.is_empty
        if is_replaying and not self._is_stopping:
            gevent.sleep(took_s)
        else:
            pause()

    def _watch(self) -> None:
        """Ask for the room once a second, and when what was told is used up."""
        now = time.monotonic()
        if now - self._link.watched_at >= WATCH_S or (self._link.room <= 0 and not self._link.is_behind):
            self._link.room = self._bounded(self._bus.room)
            self._link.watched_at = now

    def _next_batch(self, most: int) -> tuple[list[bytes], Callable[[], None]]:
        """Return what goes next, and what to do when it has gone."""
        if self._unsettled:
            return self._unsettled, self._forget_unsettled
        if self._spool is not None and not self._spool.is_empty:
            self._spill_if_crowded()
            self._lines.catch_up(gives_way=False)
            records = self._spool.peek(min(most, REPLAY_EVENTS), REPLAY_BYTES)
            if records:
                return self._numbered(records), self._replayed
        self._unsettled = self._take_batch(most) if self._queue.items else []
        return self._unsettled, self._forget_unsettled

    def _forget_unsettled(self) -> None:
        self._unsettled = []

    def _replayed(self) -> None:
        if self._spool is not None:
            self._spool.advance()
            self._is_spool_full = False

    def _numbered(self, records: list[bytes]) -> list[bytes]:
        """LogIDs for those that were spooled before they could get one."""
        first: int = self._bounded(lambda: self._bus.reserve(len(records)))
        return [number(record, first + place) for place, record in enumerate(records)]

    def _take_batch(self, most: int) -> list[bytes]:
        """Events from the queue as JSON, numbered; none are taken when no number is to be had.

        Whenever others had a turn, the head of the queue may have gone to the spool, and what is left is not next.
        """
        most = min(most, len(self._queue.items))
        first: int = self._bounded(lambda: self._bus.reserve(most))
        spool = self._spool
        wires = self._unsettled = list[bytes]()  # known, so that nothing is lost if this greenlet is ended meanwhile
        held = 0
        while len(wires) < most and held < BATCH_BYTES and self._queue.items and (spool is None or spool.is_empty):
            waiting = self._queue.take_made()
            if waiting is None:
                continue
            event = waiting.event()
            event.log_id = first + len(wires)
            wires.append(wire_of(event))
            self._lines.write(waiting, gives_way=not self._is_stopping)
            held += len(wires[-1])
            if held % SLICE_BYTES < len(wires[-1]):
                pause()
        return wires

    @staticmethod
    def _bounded(call: Callable[[], _T]) -> _T:
        """Bound the look-up of the bus's name, too; its commands are bounded one by one."""
        with gevent.Timeout(CALL_S, BusUnavailable("no answer in time")):
            return call()

    def _publish(self, batch: list[bytes]) -> None:
        """One pipeline. A batch that fails is put where it stays the oldest. Raises BusUnavailable."""
        began = time.monotonic()
        try:
            self._bounded(lambda: self._bus.publish(batch))
        except BusUnavailable:
            self._spool_unsettled()
            raise
        finally:
            self._counters.bus_seconds(time.monotonic() - began)

    def _spool_unsettled(self) -> None:
        """Move the batch in hand to the front of the spool; it waits in memory when the spool has no room."""
        if self._spool is None or not self._unsettled:
            return
        try:
            self._spool.put_back(self._unsettled)
        except (SpoolFull, OSError):
            return
        self._counters.spooled(len(self._unsettled))
        self._unsettled = []

    def _spill_if_crowded(self) -> None:
        """Spill the queue before it is full: while the spool is replayed, events wait in it."""
        queue, most_events, most_bytes = self._queue, self._most_events * _SPILL_SHARE, self._most_bytes * _SPILL_SHARE
        if len(queue.items) > most_events or queue.held_bytes > most_bytes:
            self._spill()

    def _spill(self) -> None:
        """Queue → end of the spool."""
        if self._spool is None:
            return
        with long_work():
            while self._queue.items:
                self._queue.make_oldest()
                if not self._queue.items or not self._spill_one():
                    return
                breathe()

    def _spill_one(self) -> bool:
        """Move the oldest event of the queue to the end of the spool; False when it found no room and stays."""
        assert self._spool is not None
        waiting = self._queue.items[0]
        wire = wire_of(waiting.event())  # in short turns: it stays in its place meanwhile
        if not self._queue.items or self._queue.items[0] is not waiting:
            return True
        self._queue.take()
        try:
            self._spool.append(wire)
        except (SpoolFull, OSError) as exc:
            self._queue.give_back(waiting)
            self._spool_failed(exc)
            return False
        self._counters.spooled(1)
        self._is_spool_full = self._is_spool_broken = False
        self._lines.write(waiting, gives_way=False)
        return True

    def _spool_failed(self, exc: Exception) -> None:
        if not self._is_spool_full:
            log.error("events: the spool is full; events are lost when the queue is, too")
        if isinstance(exc, OSError) and not self._is_spool_broken:
            self._is_spool_broken = True
            log.error("events: the spool cannot be written: %s", exc.strerror)
        self._is_spool_full = True

    def _adopt(self) -> None:
        assert self._spool is not None
        try:
            found = self._spool.adopt()
        except OSError as exc:
            log.warning("events: the spool's folder cannot be searched: %s", exc.strerror)
            return
        if found:
            log.info("events: took up what %d ended workers had left in the spool", found)

    def _fell_behind(self) -> None:
        self._link.fell_behind()
        self._spool_unsettled()
        self._spill()
