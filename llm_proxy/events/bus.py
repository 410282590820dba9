"""What a bus is to its two ends: the worker's publisher and its consumers (docs/events.md, "Buses")."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_proxy.redisclient import unreachable
from llm_proxy.runtime.processes import is_running

__all__ = ["FIELD", "Bus", "BusUnavailable", "Entry", "Source", "SourceStats", "unreachable"]

FIELD = b"data"  # the only field of a stream's entry


class BusUnavailable(Exception):
    """The bus cannot take events now; the reason is fit for a log line."""


class Bus(Protocol):
    """The producer's end. One greenlet of a worker uses it; every call is bounded and may raise BusUnavailable."""

    def reserve(self, count: int) -> int:
        """Return the first of `count` numbers for LogID that no other caller gets."""

    def room(self) -> float:
        """How many events may still go before it is asked again; 0 or less while consumers are too far behind."""

    def publish(self, wires: Sequence[bytes]) -> None:
        """Add the events in order, all or none. After BusUnavailable it is unknown which of the two."""

    def close(self) -> None:
        """Release connections."""


@dataclass(slots=True)
class Entry:
    """One event as a consumer got it. `data` is None when the entry has none.

    `id` names it on its bus (for a list: what its content hashes to); `added_at_ms` is when the bus took it, if known.
    """

    id: str
    data: bytes | None
    added_at_ms: int | None = None


@dataclass(slots=True)
class SourceStats:
    """How far behind a consumer group is."""

    length: int = 0
    pending: int = 0
    undelivered: int = 0  # and not pending
    oldest_pending_s: float = 0.0
    trimmed: int = 0  # since the start: events that went before they were read

    @property
    def lag(self) -> int:
        """Pending and undelivered together."""
        return self.pending + self.undelivered


class Source(Protocol):
    """The consumer's end: hands out entries, holds them until they are acknowledged.

    Calls may raise one of `unreachable()`.

    `keep`, `stats` and `tidy` may be called from another greenlet than the reader's.
    """

    def open(self) -> None:
        """Join: make the group, or take the name. Raises NameTaken when another living consumer has it."""

    def own(self, most: int) -> list[Entry]:
        """Return the next entries that are pending for this name from before; empty when there are no more."""

    def read(self, most: int, block_s: float) -> list[Entry]:
        """Return new entries, at most `most`; waits up to `block_s` for the first."""

    def claim(self, most: int) -> list[Entry]:
        """Entries whose consumer has not been heard of for the claim time."""

    @property
    def held(self) -> int:
        """Entries that were handed out and not acknowledged."""

    def keep(self) -> None:
        """Say that what was handed out is still being worked on."""

    def ack(self, entries: Sequence[Entry]) -> None:
        """Delivered: they need never be handed out again."""

    def stats(self) -> SourceStats:
        """Return the figures now."""

    def tidy(self) -> None:
        """Remove what consumers that are long gone have left behind; called at the start and hourly."""

    def leave(self) -> None:
        """Go, leaving nothing behind if nothing is pending for this consumer."""


class NameTaken(Exception):
    """Another living consumer has the name."""


def is_dead_here(host: str, pid: str) -> bool:
    """Whether that is a process of this machine which is no more."""
    return host == socket.gethostname() and pid.isdigit() and not is_running(int(pid))
