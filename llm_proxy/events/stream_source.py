"""The `redis-streams` bus: the consumer's end, one member of a consumer group (docs/events.md, "Redis streams")."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.client import Redis
from redis.exceptions import ResponseError

from llm_proxy.events.bus import FIELD, Entry, SourceStats, is_dead_here
from llm_proxy.events.redis_streams import (
    GroupState,
    group_states,
    trim_acknowledged,
    undelivered,
)
from llm_proxy.redisclient import command, id_order, text

log = logging.getLogger(__name__)

GONE_AFTER_S = 24 * 3600.0
_RAW = ("XREADGROUP", "XAUTOCLAIM", "XCLAIM", "XPENDING", "XINFO STREAM")
_MOST_COUNTED = 1_000_000
_PAGE = 100


def _as_it_came(response: Any, **_options: Any) -> Any:
    return response


class StreamSource:
    """Reads a stream as one consumer of a group.

    Args:
        connect: Makes a client whose reads may last for the seconds given.
        claim_time_s: How long an entry must be idle before it is taken from its consumer.
        trims: Whether all entries that every group is done with are removed (REDIS_STREAM_TRIM_ACKED).
    """

    def __init__(
        self,
        connect: Callable[[float], Redis],
        *,
        key: str,
        group: str,
        consumer: str,
        claim_time_s: float,
        block_s: float = 1.0,
        trims: bool = False,
    ) -> None:
        self._reader, self._side = connect(block_s + 5.0), connect(5.0)
        for client in (self._reader, self._side):
            for name in _RAW:
                client.set_response_callback(name, _as_it_came)
        self._key, self._group, self.consumer = key, group, consumer
        self._claim_ms = max(1, int(claim_time_s * 1000))
        self._trims = trims
        self._held: set[str] = set()
        self._own_cursor, self._claim_cursor = "0", "0-0"
        self._trimmed = self._lost_seen = 0
        self._has_autoclaim = True

    # -- joining -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the group, from the first entry that is still there, and count what went before it was read.

        What a dispatcher of this machine left when it died is taken at once, so that a restart keeps the order.
        """
        self._make_group(self._reader)
        self.stats()
        for name, pending, _ in self._consumers():
            if pending and name != self.consumer and _was_of_this_host(name, self.consumer):
                self._inherit(name)

    def _inherit(self, name: str) -> None:
        """Claim all entries that are pending for a consumer; `own` reads them."""
        start = "-"
        while True:
            page = command(self._reader, "XPENDING", self._key, self._group, start, "+", _PAGE, name)
            ids = [text(item[0]) for item in page]
            if ids:
                command(self._reader, "XCLAIM", self._key, self._group, self.consumer, 0, *ids, "JUSTID")
            if len(ids) < _PAGE:
                return
            start = f"({ids[-1]}"

    def _make_group(self, client: Redis) -> None:
        try:
            command(client, "XGROUP", "CREATE", self._key, self._group, "0", "MKSTREAM")
        except ResponseError as exc:
            if not str(exc).startswith("BUSYGROUP"):
                raise

    def leave(self) -> None:
        """Delete this consumer, unless something is pending for it."""
        for consumer in self._consumers():
            if consumer[0] == self.consumer and not consumer[1]:
                command(self._side, "XGROUP", "DELCONSUMER", self._key, self._group, self.consumer)
        self._side.close()
        self._reader.close()

    def tidy(self) -> None:
        """Delete consumers that have nothing pending and were idle for a day: each restart leaves one behind."""
        for name, pending, idle_s in self._consumers():
            if name != self.consumer and not pending and idle_s > GONE_AFTER_S:
                command(self._side, "XGROUP", "DELCONSUMER", self._key, self._group, name)

    def _consumers(self) -> list[tuple[str, int, float]]:
        try:
            found: Any = self._side.xinfo_consumers(self._key, self._group)
        except ResponseError:
            return []  # no such stream or group
        return [(text(item["name"]), int(item["pending"]), int(item["idle"]) / 1000) for item in found]

    # -- reading -----------------------------------------------------------------------------------------------------

    def own(self, most: int) -> list[Entry]:
        """Yield pending entries of this consumer's name, page by page from the oldest."""
        while True:
            page = self._read_group(most, self._own_cursor, 0)
            if not page:
                self._own_cursor = "0"
                return []
            self._own_cursor = text(page[-1][0])
            if found := self._entries(page):
                return found

    def read(self, most: int, block_s: float) -> list[Entry]:
        """Return new entries. A group that is gone (FLUSHALL, a deleted key) is made again."""
        return self._entries(self._read_group(most, ">", block_s))

    def _read_group(self, most: int, after: str, block_s: float) -> list[Any]:
        block: tuple[Any, ...] = ("BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()
        parts = ("GROUP", self._group, self.consumer, "COUNT", most, *block, "STREAMS", self._key, after)
        try:
            response = command(self._reader, "XREADGROUP", *parts)
        except ResponseError as exc:
            if not _is_group_gone(exc):
                raise
            self._make_again()
            return []
        if not response:
            return []
        streams = response if isinstance(response, list) else list(response.items())
        return list(streams[0][1])

    def _make_again(self) -> None:
        log.warning("the consumer group is gone; it is made again")
        self._held.clear()
        self._own_cursor, self._claim_cursor = "0", "0-0"
        self._make_group(self._reader)

    def claim(self, most: int) -> list[Entry]:
        """One page of entries that were idle for the claim time; the next call goes on behind it."""
        try:
            if self._has_autoclaim:
                return self._autoclaim(most)
        except ResponseError as exc:
            if _is_group_gone(exc):
                self._make_again()
                return []
            if "unknown command" not in str(exc).lower():
                raise
            self._has_autoclaim = False
        return self._claim_by_hand(most)

    def _autoclaim(self, most: int) -> list[Entry]:
        where = (self._key, self._group, self.consumer, self._claim_ms, self._claim_cursor, "COUNT", most)
        response = command(self._reader, "XAUTOCLAIM", *where)
        self._claim_cursor = text(response[0])
        if len(response) > 2:  # Redis 7: ids whose entries were trimmed while they were pending, dropped by Redis
            self._trimmed += len(response[2])
        return self._entries(response[1])

    def _claim_by_hand(self, most: int) -> list[Entry]:
        """Redis before 6.2."""
        pending = command(self._reader, "XPENDING", self._key, self._group, "-", "+", most)
        idle = [text(item[0]) for item in pending if int(item[2]) >= self._claim_ms]
        idle = [entry_id for entry_id in idle if entry_id not in self._held]
        if not idle:
            return []
        where = (self._key, self._group, self.consumer, self._claim_ms, *idle)
        return self._entries(command(self._reader, "XCLAIM", *where))

    def _entries(self, page: Iterable[Any]) -> list[Entry]:
        """Return entries that are not held here; those that were trimmed while pending are counted and dropped."""
        found, gone = [], []
        for item in page:
            if item is None:
                self._trimmed += 1
                continue
            entry_id, fields = text(item[0]), item[1]
            if entry_id in self._held:
                continue
            if fields is None:
                gone.append(entry_id)
            else:
                found.append(Entry(entry_id, _data_of(fields), id_order(entry_id)[0]))
        if gone:
            command(self._reader, "XACK", self._key, self._group, *gone)
            self._trimmed += len(gone)
        self._held.update(entry.id for entry in found)  # only now: an error above must not make them pass for in hand
        return found

    # -- working -----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Entries that were handed out and not acknowledged."""
        return len(self._held)

    def keep(self) -> None:
        """Reset the idle time of those that are still held here, so that no other consumer claims them."""
        if not self._held:
            return
        ids = sorted(self._held, key=id_order)
        where = (self._key, self._group, ids[0], ids[-1], len(ids) * 2, self.consumer)
        with contextlib.suppress(ResponseError):  # the group is gone: reading finds that out
            held = {text(item[0]) for item in command(self._side, "XPENDING", *where)} & set(ids)
            if held:
                command(self._side, "XCLAIM", self._key, self._group, self.consumer, 0, *sorted(held), "JUSTID")

    def ack(self, entries: Sequence[Entry]) -> None:
        """One XACK for all of them."""
        if entries:
            command(self._side, "XACK", self._key, self._group, *(entry.id for entry in entries))
            self._held.difference_update(entry.id for entry in entries)

    # -- figures -----------------------------------------------------------------------------------------------------

    def stats(self) -> SourceStats:
        """From XINFO and XPENDING; also trims, where that is asked for."""
        groups = group_states(self._side, self._key)
        own_group = next((group for group in groups if group.name == self._group), None)
        found = SourceStats(length=int(command(self._side, "XLEN", self._key)))
        if own_group is not None:
            found.pending = own_group.pending
            found.undelivered, is_exact = undelivered(self._side, self._key, own_group, found.length, _MOST_COUNTED)
            found.oldest_pending_s = self._oldest_pending_s(own_group)
            if is_exact:
                self._count_trimmed(own_group, found.undelivered)
            if self._trims:
                trim_acknowledged(self._side, self._key, groups)
        found.trimmed = self._trimmed
        return found

    def _oldest_pending_s(self, group: GroupState) -> float:
        if not group.pending:
            return 0.0
        least = command(self._side, "XPENDING", self._key, self._group)[1]
        return max(0.0, time.time() - id_order(text(least))[0] / 1000) if least is not None else 0.0

    def _count_trimmed(self, group: GroupState, undelivered_now: int) -> None:
        """Return how many entries went before the group read them: ever added, less read, less still to be read."""
        response = command(self._side, "XINFO", "STREAM", self._key)
        facts = dict(zip(response[::2], response[1::2], strict=False)) if isinstance(response, list) else response
        added = facts.get(b"entries-added", facts.get("entries-added"))
        if added is None or group.entries_read is None:
            return  # Redis before 7
        lost = max(0, int(added) - undelivered_now - group.entries_read)
        self._trimmed += max(0, lost - self._lost_seen)
        self._lost_seen = lost


def _was_of_this_host(name: str, own: str) -> bool:
    """Whether the name was made up, as this one's was, by a dispatcher of this machine that is no more."""
    (rest, _, pid), mine = name.rpartition("-"), own.rpartition("-")[0]
    host = socket.gethostname()
    return rest == mine and rest.startswith("dispatcher-") and rest.endswith(host) and is_dead_here(host, pid)


def _is_group_gone(exc: ResponseError) -> bool:
    words = str(exc)
    return words.startswith(("NOGROUP", "UNBLOCKED")) or "no such key" in words.lower()


def _data_of(fields: Any) -> bytes | None:
    """Return the field `data` of an entry's flat list of names and values."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=False)) if isinstance(fields, list) else fields
    value = pairs.get(FIELD)
    return value if isinstance(value, bytes) else None
