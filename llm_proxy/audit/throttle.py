"""How many records of refusals are written: bounded for each address, and for the server as a whole."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from llm_proxy.audit.record import AuditEvent
from llm_proxy.model.addresses import counted_as

PER_MINUTE: Final = 60
SERVER_PER_MINUTE: Final = 300  # of all addresses, shared by the workers: 0.5 GB a day at most
WINDOW_S: Final = 60.0
_MAX_SOURCES: Final = 10_000  # addresses and actions watched at once

_Key = tuple[str | None, str]


class _Source:
    """What one source did in its running minute; `last` stands for the events that were left out."""

    __slots__ = ("began", "count", "last", "suppressed")

    def __init__(self, began: float) -> None:
        self.began, self.count, self.suppressed = began, 0, 0
        self.last: AuditEvent | None = None

    def admits(self, most: int) -> bool:
        """Count an event; return whether it is within the budget."""
        self.count += 1
        return self.count <= most

    def leave_out(self, event: AuditEvent, number: int = 1) -> None:
        """Note an event that stands for so many."""
        self.suppressed, self.last = self.suppressed + number, event

    def summary(self) -> AuditEvent | None:
        """Return one event with the number of those that were left out, if there are any."""
        if self.last is None:
            return None
        details = {"reason": "suppressed", "suppressed": self.suppressed}
        event = AuditEvent(self.last.action, self.last.actor, self.last.outcome, client_ip=self.last.client_ip)
        return replace(event, details=details)


class Throttle:
    """At most `PER_MINUTE` events of an address and action a minute, and `most` of all together; the rest are counted.

    Each rest becomes one event with its number. The summaries of addresses are within the budget of all, which no
    number of addresses can push out: it is kept apart, and its own summary is one event a minute.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock, self._most = clock, most
        self._sources: dict[_Key, _Source] = {}
        self._all = _Source(clock())

    def passed(self, event: AuditEvent) -> list[AuditEvent]:
        """Return the event, unless it is one too many; and summaries of minutes that have ended."""
        address = None if event.client_ip is None else counted_as(event.client_ip)
        key = (address, event.action)
        out = self._end([key]) if self._is_over(self._sources.get(key)) else []
        if key not in self._sources and len(self._sources) >= _MAX_SOURCES:
            out += self._end([next(iter(self._sources))])
        source = self._sources.setdefault(key, _Source(self._clock()))
        if not source.admits(PER_MINUTE):
            source.leave_out(event)
            return out
        return [*out, *self._admitted(event)]

    def ended(self) -> list[AuditEvent]:
        """Return summaries of the minutes that have ended."""
        return self._end([key for key, source in self._sources.items() if self._is_over(source)]) + self._end_all()

    def rest(self) -> list[AuditEvent]:
        """Return summaries of everything."""
        return self._end(list(self._sources)) + self._end_all(is_due=True)

    def _is_over(self, source: _Source | None) -> bool:
        return source is not None and self._clock() - source.began >= WINDOW_S

    def _end(self, keys: Iterable[_Key]) -> list[AuditEvent]:
        out: list[AuditEvent] = []
        for key in keys:
            source = self._sources.pop(key)
            summary = source.summary()
            if summary is not None:
                out += self._admitted(summary, source.suppressed)
        return out

    def _admitted(self, event: AuditEvent, number: int = 1) -> list[AuditEvent]:
        """Return the event if the budget of all has room for it, after the summary of a minute that has ended."""
        out = self._end_all()
        if self._all.admits(self._most):
            return [*out, event]
        self._all.leave_out(replace(event, client_ip=None), number)
        return out

    def _end_all(self, *, is_due: bool = False) -> list[AuditEvent]:
        if not is_due and not self._is_over(self._all):
            return []
        summary, self._all = self._all.summary(), _Source(self._clock())
        return [] if summary is None else [summary]
