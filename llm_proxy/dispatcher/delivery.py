"""From entries to acknowledgements: transform, send, judge, try again, give up (docs/adr/0083)."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_proxy.dispatcher.backends.base import Backend, Result, Verdict
from llm_proxy.dispatcher.options import Options
from llm_proxy.dispatcher.payload import Payload
from llm_proxy.dispatcher.retry import HOLD_S, backoff_s, pause_s
from llm_proxy.dispatcher.state import State
from llm_proxy.dispatcher.transform import Transformer, Unparsable
from llm_proxy.events.bus import Entry, Source, unreachable
from llm_proxy.events.dead_letters import DeadLetters

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 1024 * 1024  # of events that are payloads at the same time
_REDIS_PAUSE_S = (0.1, 5.0)
_HOLDS_BEFORE_PROBING = 2  # an outage is the likelier reason, and probing may let one event overtake


class Clock(Protocol):
    """Waiting that a stop ends."""

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""

    def pause(self, seconds: float) -> bool:
        """Wait; False when there is no time left for trying again."""


@dataclass(slots=True)
class Item:
    """One event that this process holds. `failures` counts rounds in which it failed while others were delivered."""

    entry: Entry
    payload: Payload
    failures: int = 0
    tries: int = 0
    last: Result | None = None


class Delivery:
    """Delivers what the loop has gathered, and keeps what it could not.

    Args:
        more: One further entry from the bus, if there is one at once: while events fail, it tells whether the service
            is down or they are at fault.
    """

    def __init__(
        self,
        *,
        options: Options,
        source: Source,
        backend: Backend,
        dead_letters: DeadLetters,
        transformer: Transformer,
        state: State,
        clock: Clock,
        more: Callable[[], list[Entry]],
    ) -> None:
        self._settings, self._once = options.dispatcher, options.once
        self._source, self._backend = source, backend
        self._dead_letters, self._transformer, self._state = dead_letters, transformer, state
        self._clock, self._more = clock, more
        self.deferred: list[Item] = []
        self.deferred_until = 0.0
        self._deferrals = self._recovered = 0
        self._is_giving_up = False

    # -- a batch -----------------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Whether deferred events are to be tried now."""
        return bool(self.deferred) and time.monotonic() >= self.deferred_until

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver what was deferred and then these; on return each is acknowledged, deferred, or pending for a stop."""
        if entries:
            self._state.series.batch_events.observe(len(entries))
        if self.is_due or (self.deferred and (self._once or self._clock.is_stopping)):
            entries = self._try_deferred(entries)
        for chunk in _chunks(entries):
            if self._is_giving_up:
                return
            items = self._items(chunk)
            if items:
                self._send_all(items)

    def _try_deferred(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Once, without pauses, so that no other entry waits. Returns the entries that are still to be sent.

        Where none gets through, a fresh entry tells whether they are at fault themselves.
        """
        waiting, self.deferred = self.deferred, []
        left = self._attempt(waiting)
        if not left:
            self._deferrals = 0
            return entries
        has_progress = len(left) < len(waiting)
        if not has_progress and entries:
            has_progress = self._judge(entries[:1])
            entries = entries[1:]
        self._set_aside(left, has_progress=has_progress, tries=1)
        return entries

    def _items(self, entries: Sequence[Entry]) -> list[Item]:
        """Those that are to be sent; the others are acknowledged, dead letters first."""
        items, filtered = [], []
        for entry in entries:
            try:
                event = self._transformer.event(entry)
                if not self._transformer.wants(event):
                    filtered.append(entry)
                    continue
                items.append(Item(entry, self._transformer.payload(event, entry)))
            except Unparsable as exc:
                self._bury(entry, "unparsable", str(exc), 0)
            except Exception as exc:
                log.exception("an event could not be transformed; it becomes a dead letter")
                self._bury(entry, "transform_error", type(exc).__name__, 0)
        if filtered:
            self._ack(filtered)
            self._state.series.filtered.inc(len(filtered))
        self._state.count_processed(len(items))
        return items

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send_all(self, items: list[Item]) -> None:
        """Until each is settled. During an outage that means permanently; a stop ends it."""
        count, attempt, holds, recovered_before = len(items), 0, 0, self._recovered
        while True:
            items = self._attempt(items)
            if not items or self._is_giving_up:
                return
            self._count_retries(items)
            is_refused = self._is_configuration(items)
            if attempt < self._settings.retry_attempts and not is_refused:
                if not self._clock.pause(pause_s(_results(items), attempt, self._settings.retry_backoff_s)):
                    self._give_up()
                    return
                attempt += 1
                continue
            has_progress = len(items) < count
            if not has_progress and not is_refused and (holds >= _HOLDS_BEFORE_PROBING or _are_own_faults(items)):
                has_progress = self._has_progress_elsewhere(len(items))
                items = self._attempt(items) if has_progress else items  # the service may just have come back
            if has_progress and items:
                is_flaky = self._recovered > recovered_before
                self._set_aside(items, has_progress=True, tries=1 + attempt, is_flaky=is_flaky)
            if has_progress:
                return
            if not self._hold(items):
                return
            holds += 1

    def _judge(self, entries: Sequence[Entry]) -> bool:
        """Send fresh entries; True when the service took one. Those that failed are deferred, without being blamed."""
        items = self._items(entries)
        left = self._attempt(items)
        self.deferred += left
        return len(left) < len(items)

    def _has_progress_elsewhere(self, held: int) -> bool:
        """All failed, try after try: one more event tells an outage from bad events."""
        if self.deferred and not any(item.failures for item in self.deferred):
            waiting, self.deferred = self.deferred, []
            self.deferred = self._attempt(waiting[:1]) + waiting[1:]
            return len(self.deferred) < len(waiting)
        if self._clock.is_stopping or held + len(self.deferred) >= self._settings.buffer:
            return False
        try:
            entries = self._more()
        except unreachable():
            return False
        return self._judge(entries)

    def _attempt(self, items: list[Item]) -> list[Item]:
        """One call, or several where a refused batch is halved; settles what it can and returns the rest in order."""
        if not items:
            return []
        began = time.monotonic()
        results = self._backend.send([item.payload for item in items])
        self._state.series.send_seconds.observe(time.monotonic() - began)
        self._state.turned()
        for item, result in zip(items, results, strict=True):
            item.last = result
            item.tries += result.is_tried
        delivered = [item for item in items if _verdict(item) is Verdict.DELIVERED]
        self._recovered += sum(item.tries > 1 for item in delivered)
        if delivered:
            self._ack([item.entry for item in delivered])
            self._state.count_sent(len(delivered))
        refused = [item for item in items if _verdict(item) is Verdict.PERMANENT]
        if len(refused) > 1 and all(item.last is not None and item.last.is_whole for item in refused):
            half = len(refused) // 2
            left = self._attempt(refused[:half]) + self._attempt(refused[half:])
        else:
            left = []
            for item in refused:
                self._bury(item.entry, "rejected", item.last.error if item.last else "", item.tries)
        undelivered = {id(item) for item in left}
        return [
            item
            for item in items
            if id(item) in undelivered or _verdict(item) in (Verdict.TRANSIENT, Verdict.CONFIGURATION)
        ]

    @staticmethod
    def _is_configuration(items: Sequence[Item]) -> bool:
        return any(_verdict(item) is Verdict.CONFIGURATION for item in items)

    def _count_retries(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.last is not None and item.last.is_tried:
                self._state.series.retries[item.last.verdict.value].inc()
        last = items[0].last
        if last is not None:
            self._state.last_error = last.error

    def _set_aside(self, items: list[Item], *, has_progress: bool, tries: int, is_flaky: bool = False) -> None:
        """They wait while others go on. Failing too often while others are delivered, an event is given up.

        Args:
            has_progress: Whether others were delivered meanwhile; in an outage no event is blamed.
            is_flaky: Others failed, too, and were then delivered: failing says little about an event.
        """
        kept = []
        for item in items:
            last = item.last
            if has_progress and last is not None and last.is_tried:
                item.failures += tries
            is_own_fault = last is not None and last.is_own_fault and not is_flaky
            if item.failures and (item.failures >= self._settings.max_deliveries or is_own_fault):
                self._bury(item.entry, "exhausted", last.error if last is not None else "", item.tries)
            else:
                kept.append(item)
        self.deferred = kept + self.deferred
        self.deferred_until = time.monotonic() + backoff_s(self._deferrals, self._settings.retry_backoff_s)
        self._deferrals += 1

    def _hold(self, items: Sequence[Item]) -> bool:
        """Nothing gets through: wait for the next try, reading nothing. False when a stop does not leave the time."""
        last = items[0].last
        error = last.error if last is not None else ""
        if self._is_configuration(items):
            if self._state.held_by != error:
                log.error("held: the service refuses the key (%s); check key and endpoint", error)
            self._state.set_held(error)
        else:
            log.warning("the service does not take events (%s); they are kept, the next try is in 30 s", error)
        if self._once or self._clock.is_stopping or not self._clock.pause(HOLD_S):
            self._give_up()
            return False
        return True

    def _give_up(self) -> None:
        """Stop: what is left stays pending on the bus."""
        self._is_giving_up = True

    @property
    def has_given_up(self) -> bool:
        """Whether something was left pending."""
        return self._is_giving_up

    # -- settling ----------------------------------------------------------------------------------------------------

    def _ack(self, entries: Sequence[Entry]) -> None:
        self._insist(lambda: self._source.ack(entries))

    def _bury(self, entry: Entry, reason: str, error: str, attempts: int) -> None:
        """To the dead letters, then acknowledged; in that order, so that neither loses it."""

        def add() -> None:
            self._dead_letters.add(
                entry.data,
                reason=reason,
                error=error,
                service=self._settings.service,
                attempts=attempts,
                original_id=entry.id,
            )

        log.warning("an event is given up (%s): %s; entry %s", reason, error, entry.id)
        if self._insist(add):
            self._state.count_dead(reason)
            self._ack([entry])

    def _insist(self, call: Callable[[], object]) -> bool:
        """Run a command until Redis has taken it; False when a stop came first: then the entry stays pending."""
        wait_s = _REDIS_PAUSE_S[0]
        while True:
            try:
                call()
            except unreachable() as exc:
                self._state.redis_is_down(type(exc).__name__)
                if not self._clock.pause(wait_s):
                    self._give_up()
                    return False
                wait_s = min(wait_s * 2, _REDIS_PAUSE_S[1])
            else:
                self._state.redis_is_up()
                return True


def _verdict(item: Item) -> Verdict | None:
    return item.last.verdict if item.last is not None else None


def _are_own_faults(items: Sequence[Item]) -> bool:
    return all(item.last is not None and item.last.is_own_fault for item in items)


def _results(items: Sequence[Item]) -> list[Result]:
    return [item.last for item in items if item.last is not None]


def _chunks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield runs of entries of about 4 MiB, so that few are taken apart at the same time."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += len(entry.data or b"")
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
