"""The `redis` bus, a list: the consumer's end (docs/events.md, "Redis list"; docs/adr/0082).

A consumer moves elements from the list's right end to its own processing list, and removes them from there when they
are delivered. A key that expires says that it lives; a consumer that finds a processing list without one puts it back.
"""

import hashlib
import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from redis.client import Redis

from llm_proxy.events.bus import Entry, NameTaken, SourceStats, is_dead_here
from llm_proxy.events.redis_list import ListKeys
from llm_proxy.redisclient import command, text

EVER_JOINED = "-"  # a member of the consumers' set that stays: from then on nothing undelivered is trimmed
_MOVES = 100  # in one pipeline
_LIFE = uuid.uuid4().hex[:8]  # of this process: in a container a restart often has the pid of the one before


class ListSource:
    """Takes events from the list as one consumer of all that share it.

    Args:
        connect: Makes a client whose reads may last for the seconds given.
        claim_time_s: A consumer that was silent for three times as long counts as dead.
    """

    def __init__(
        self,
        connect: Callable[[float], Redis],
        *,
        key: str,
        consumer: str,
        claim_time_s: float,
        block_s: float = 1.0,
    ) -> None:
        self._reader, self._side = connect(block_s + 5.0), connect(5.0)
        self._keys, self.consumer = ListKeys(key), consumer
        self._processing, self._alive = self._keys.processing(consumer), self._keys.alive(consumer)
        self._lease_ms = max(3, int(claim_time_s * 3000))
        self._held: Counter[bytes] = Counter()
        self._has_scanned = False

    # -- joining -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the name. Raises NameTaken unless its holder was ourselves, or a process of this machine that died."""
        mine = _holder()
        if not command(self._reader, "SET", self._alive, mine, "NX", "PX", self._lease_ms):
            holder = command(self._reader, "GET", self._alive)
            if holder is not None and not _is_dead(text(holder)):
                raise NameTaken(f"another dispatcher uses the consumer name {self.consumer}")
            command(self._reader, "SET", self._alive, mine, "PX", self._lease_ms)
        command(self._reader, "SADD", self._keys.consumers, EVER_JOINED, self.consumer)

    def leave(self) -> None:
        """Give up the name; what is still in its processing list is put back by the others."""
        command(self._side, "DEL", self._alive)
        if not command(self._side, "LLEN", self._processing):
            command(self._side, "SREM", self._keys.consumers, self.consumer)
        self._side.close()
        self._reader.close()

    def tidy(self) -> None:
        """Register unregistered processing lists, once; `claim` looks after all that are."""
        if self._has_scanned:
            return
        self._has_scanned = True
        prefix = self._keys.processing("")
        for key in self._side.scan_iter(match=f"{_literal(prefix)}*", count=1000):
            command(self._side, "SADD", self._keys.consumers, text(key).removeprefix(prefix))

    # -- reading -----------------------------------------------------------------------------------------------------

    def own(self, most: int) -> list[Entry]:
        """Return what the processing list holds beside the entries in hand, the oldest first."""
        held = sum(self._held.values())
        found = command(self._reader, "LRANGE", self._processing, -(most + held), -1)
        in_hand = self._held.copy()
        entries = []
        for element in reversed(found):
            if in_hand[element] > 0:
                in_hand[element] -= 1
            else:
                entries.append(self._taken(element))
        return entries[:most]

    def read(self, most: int, block_s: float) -> list[Entry]:
        """Read the first by a blocking move, the rest by plain ones in one pipeline."""
        move = (self._keys.list, self._processing, "RIGHT", "LEFT")
        if block_s > 0:
            first = command(self._reader, "BLMOVE", *move, round(block_s, 3))
        else:
            first = command(self._reader, "LMOVE", *move)
        if first is None:
            return []
        with self._reader.pipeline(transaction=False) as pipe:
            for _ in range(min(most - 1, _MOVES)):
                command(pipe, "LMOVE", *move)
            rest = pipe.execute() if most > 1 else []
        # Only now: what an error keeps from being handed out must not pass for being in hand, so that `own` finds it.
        return [self._taken(element) for element in (first, *rest) if element is not None]

    def _taken(self, element: bytes) -> Entry:
        self._held[element] += 1
        return Entry(hashlib.sha256(element).hexdigest()[:32], element)

    def claim(self, most: int) -> list[Entry]:
        """Put back what dead consumers had in hand; it is read as usual, so this returns nothing."""
        for name in self._names():
            if name == self.consumer:
                continue
            holder = command(self._reader, "GET", self._keys.alive(name))
            if holder is None or _is_dead(text(holder)):
                self._put_back(name)
        return []

    def _put_back(self, name: str) -> None:
        """Put back the newest first, so that the oldest is the next to be read; one atomic move each."""
        processing = self._keys.processing(name)
        while command(self._reader, "LMOVE", processing, self._keys.list, "LEFT", "RIGHT") is not None:
            pass
        command(self._reader, "SREM", self._keys.consumers, name)

    def _names(self) -> list[str]:
        members = command(self._reader, "SMEMBERS", self._keys.consumers)
        return sorted(name for name in map(text, members) if name != EVER_JOINED)

    # -- working -----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Elements that were handed out and not acknowledged."""
        return sum(self._held.values())

    def keep(self) -> None:
        """Renew the sign of life; the processing list belongs to this consumer for as long."""
        mine = _holder()
        command(self._side, "SET", self._alive, mine, "PX", self._lease_ms)
        command(self._side, "SADD", self._keys.consumers, EVER_JOINED, self.consumer)

    def ack(self, entries: Sequence[Entry]) -> None:
        """Remove each from the processing list, the oldest of equal ones."""
        elements = [entry.data for entry in entries if entry.data is not None]
        with self._side.pipeline(transaction=False) as pipe:
            for element in elements:
                command(pipe, "LREM", self._processing, -1, element)
            pipe.execute()
        for element in elements:
            self._held[element] -= 1
            if self._held[element] <= 0:
                del self._held[element]

    # -- figures -----------------------------------------------------------------------------------------------------

    def stats(self) -> SourceStats:
        """Lengths of the list and of all processing lists."""
        members = command(self._side, "SMEMBERS", self._keys.consumers)
        with self._side.pipeline(transaction=False) as pipe:
            for key in (self._keys.list, *(self._keys.processing(text(name)) for name in members)):
                command(pipe, "LLEN", key)
            lengths: list[Any] = pipe.execute()
        return SourceStats(length=int(lengths[0]), undelivered=int(lengths[0]), pending=sum(map(int, lengths[1:])))


def _is_dead(holder: str) -> bool:
    """Whether the holder `host|pid|life` was of this machine and is no more: its pid may be this process's by now."""
    host, pid, life = [*holder.split("|"), "", ""][:3]
    if host == socket.gethostname() and pid == str(os.getpid()):
        return life != _LIFE
    return is_dead_here(host, pid)


def _holder() -> str:
    return f"{socket.gethostname()}|{os.getpid()}|{_LIFE}"


def _literal(name: str) -> str:
    """Return the name with what SCAN would take for a pattern escaped."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)
