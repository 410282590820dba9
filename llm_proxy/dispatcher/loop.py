"""The dispatcher's one loop: gather a batch, deliver it, again (docs/adr/0083)."""

import logging
import time

import gevent
import gevent.event

from llm_proxy.dispatcher.delivery import Delivery
from llm_proxy.dispatcher.health import Heartbeat
from llm_proxy.dispatcher.options import Options
from llm_proxy.dispatcher.state import REFRESH_S, State
from llm_proxy.events.bus import Entry, Source, unreachable

log = logging.getLogger(__name__)

_SLICE_S = 1.0  # the longest that a wait goes without a sign of life, or a blocking read without looking around
_POLL_S = 0.05
_REDIS_PAUSE_S = (0.1, 5.0)
_GUESSED_EVENT_BYTES = 64 * 1024
_TIDY_S = 3600.0


class StopClock:
    """Waiting that a stop shortens, with a sign of life every second."""

    def __init__(self, state: State, shutdown_timeout_s: float) -> None:
        self._state, self._timeout_s = state, shutdown_timeout_s
        self._asked = gevent.event.Event()
        self._heartbeat = Heartbeat()
        self._deadline = float("inf")

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self._asked.is_set())

    def stop(self) -> None:
        """Ask for one; a second time changes nothing."""
        if not self._asked.is_set():
            self._deadline = time.monotonic() + self._timeout_s
            self._state.is_stopping = True
            self._asked.set()

    def beat(self) -> None:
        """Note that the loop turns."""
        self._state.turned()
        self._heartbeat.beat()

    def pause(self, seconds: float) -> bool:
        """Wait; while stopping no longer than is left, and False when nothing is."""
        end = time.monotonic() + seconds
        while True:
            self.beat()
            now = time.monotonic()
            if self.is_stopping:
                end = min(end, self._deadline)
                if now >= self._deadline:
                    return False
            if now >= end:
                return not self.is_stopping or now < self._deadline
            wait_s = min(_SLICE_S, end - now)
            if self.is_stopping:
                gevent.sleep(wait_s)
            else:
                self._asked.wait(wait_s)


class Loop:
    """Reads from the source and hands batches to the delivery, until it is stopped."""

    def __init__(self, options: Options, source: Source, state: State, clock: StopClock) -> None:
        self._settings, self._events, self._once = options.dispatcher, options.events, options.once
        self._claim_s = self._events.stream_claim_time_s
        self._source, self._state, self._clock = source, state, clock
        self._has_own = True
        self._claimed_at = -float("inf")
        self._event_bytes = float(_GUESSED_EVENT_BYTES)

    def open(self) -> bool:
        """Join the bus, for as long as it takes; False when a stop came first. Raises NameTaken."""
        if not self._insist(self._source.open):
            return False
        self._state.is_open = True
        self._insist(self._source.tidy)
        return True

    def run(self, delivery: Delivery) -> None:
        """Until a stop; with `once` until nothing is left."""
        while not self._clock.is_stopping and not delivery.has_given_up:
            self._clock.beat()
            batch = self._gather(delivery)
            if batch or delivery.is_due:
                delivery.deliver(batch)
            elif self._once and self._is_done(delivery):
                return
        if delivery.deferred and not delivery.has_given_up:
            delivery.deliver([])

    # -- gathering ---------------------------------------------------------------------------------------------------

    def _gather(self, delivery: Delivery) -> list[Entry]:
        """Up to a batch, not older than the flush interval; empty when nothing came within a second or so."""
        batch: list[Entry] = []
        size = 0
        deadline = float("inf")
        while len(batch) < self._settings.batch_size and size < self._settings.buffer_bytes:
            now = time.monotonic()
            if self._clock.is_stopping or now >= deadline:
                break
            most = self._count(len(batch), size, len(delivery.deferred))
            if most <= 0:
                break
            found = self._read(most, min(_SLICE_S, deadline - now))
            if found is None or (not found and (self._once or not batch)):
                break
            if found and not batch:
                deadline = time.monotonic() + self._settings.flush_interval_s
            batch += found
            size += sum(len(entry.data or b"") for entry in found)
            self._clock.beat()
        return batch

    def _count(self, gathered: int, size: int, deferred: int) -> int:
        """How many to ask for: a page, the rest of the batch, and what memory is left for at the usual size."""
        room = int((self._settings.buffer_bytes - size) / max(1.0, 2 * self._event_bytes))
        return min(
            self._events.stream_batch_size,
            self._settings.batch_size - gathered,
            self._settings.buffer - gathered - deferred,
            max(1, room),
        )

    def _read(self, most: int, wait_s: float) -> list[Entry] | None:
        """Return own entries from before, then others' that were left, then new ones. None: Redis does not answer."""
        try:
            found = self._read_next(most, wait_s)
        except unreachable() as exc:
            self._lost(exc)
            return None
        self._state.redis_is_up()
        if found:
            self._state.series.received.inc(len(found))
            average = sum(len(entry.data or b"") for entry in found) / len(found)
            self._event_bytes += (average - self._event_bytes) / 4
        return found

    def _read_next(self, most: int, wait_s: float) -> list[Entry]:
        if self._has_own:
            found = self._source.own(most)
            if found:
                return found
            self._has_own = False
        now = time.monotonic()
        if now - self._claimed_at >= max(1.0, self._claim_s / 3):
            self._claimed_at = now
            if found := self._source.claim(most):
                self._claimed_at = -float("inf")  # there may be more
                return found
        if self._once or not self._events.stream_block_time_s:
            found = self._source.read(most, 0)
            if not found and not self._once:
                gevent.sleep(_POLL_S)
            return found
        return self._source.read(most, max(0.001, min(wait_s, self._events.stream_block_time_s)))

    def one_more(self) -> list[Entry]:
        """One new entry that is there at once, if any."""
        found = self._source.read(1, 0)
        self._state.series.received.inc(len(found))
        return found

    def _lost(self, exc: Exception) -> None:
        """Redis is unavailable: say so once, look for own entries again when it is back."""
        if self._state.unreadiness != "redis":
            log.warning("Redis does not answer (%s); trying again", type(exc).__name__)
        self._state.redis_is_down(type(exc).__name__)
        self._has_own = True
        self._clock.pause(_REDIS_PAUSE_S[0] * 5)

    def _insist(self, call: object) -> bool:
        """Run a command of the source until Redis answers; False when a stop came first."""
        assert callable(call)
        wait_s = _REDIS_PAUSE_S[0]
        while True:
            try:
                call()
            except unreachable() as exc:
                if wait_s == _REDIS_PAUSE_S[0]:
                    log.warning("Redis does not answer (%s); trying again", type(exc).__name__)
                self._state.redis_is_down(type(exc).__name__)
                if self._clock.is_stopping or not self._clock.pause(wait_s) or self._clock.is_stopping:
                    return False
                wait_s = min(wait_s * 2, _REDIS_PAUSE_S[1])
            else:
                self._state.redis_is_up()
                return True

    # -- once --------------------------------------------------------------------------------------------------------

    def _is_done(self, delivery: Delivery) -> bool:
        """Return whether nothing is left here; what others hold is waited for until it can be claimed or is gone."""
        if delivery.deferred:
            delivery.deliver([])
            if delivery.deferred:
                return True
        deadline = time.monotonic() + 2 * self._claim_s + 1
        while time.monotonic() < deadline:
            try:
                stats = self._source.stats()
            except unreachable() as exc:
                self._lost(exc)
                continue
            self._state.take(stats)
            if not stats.lag:
                return True
            if stats.undelivered or time.monotonic() - self._claimed_at >= max(1.0, self._claim_s / 3):
                return False
            self._clock.pause(0.1)
        return True

    # -- beside it ---------------------------------------------------------------------------------------------------

    def keep_house(self) -> None:
        """Keep claimed entries, read the figures and tidy up hourly, in a separate greenlet."""
        kept_at, read_at, tidied_at = time.monotonic(), -float("inf"), time.monotonic()
        while True:
            gevent.sleep(min(1.0, self._claim_s / 10))
            now = time.monotonic()
            if not self._state.is_open:
                continue
            try:
                if now - kept_at >= self._claim_s / 3:
                    self._source.keep()
                    kept_at = now
                if now - read_at >= REFRESH_S:
                    self._state.take(self._source.stats())
                    read_at = now
                if now - tidied_at >= _TIDY_S:
                    self._source.tidy()
                    tidied_at = now
            except unreachable() as exc:
                log.debug("figures of the bus could not be read: %s", type(exc).__name__)
                gevent.sleep(1.0)
