"""The `redis` bus, a list: the producer's end (docs/events.md, "Redis list"; docs/adr/0082)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from redis.client import Redis

from llm_proxy.events.bus import BusUnavailable, unreachable
from llm_proxy.events.redis_streams import describe
from llm_proxy.redisclient import command, text


class ListKeys:
    """The names that belong to one list."""

    def __init__(self, key: str) -> None:
        self.list = key
        self.consumers = f"{key}:consumers"  # every name that ever joined

    def processing(self, consumer: str) -> str:
        """Return what a consumer has taken and not acknowledged."""
        return f"{self.list}:processing:{consumer}"

    def alive(self, consumer: str) -> str:
        """Exists while the consumer does."""
        return f"{self.list}:consumer:{consumer}"


class ListBus:
    """Pushes events onto the left end of a list; consumers take them from the right.

    Args:
        client: Each of its commands must be bounded by the socket's time limit.
        max_len: The list's bound while no consumer has ever joined, and the backlog's afterwards; 0 = none.
        count_lost: Gets the number of events that the bound pushed out.
    """

    name = "redis"

    def __init__(self, client: Redis, key: str, max_len: int, count_lost: Callable[[int], None]) -> None:
        self._client, self._keys, self._max_len, self._count_lost = client, ListKeys(key), max_len, count_lost
        self._has_consumers = True  # nothing is trimmed before it is known that no consumer needs it

    def reserve(self, count: int) -> int:
        """Numbers from the counter beside the list."""
        try:
            return int(command(self._client, "INCRBY", f"{self._keys.list}:seq", count)) - count + 1
        except unreachable() as exc:
            raise BusUnavailable(describe(exc)) from exc

    def room(self) -> float:
        """MAX_LEN less what waits in the list and in the consumers' hands."""
        if not self._max_len:
            return math.inf
        try:
            names = [text(name) for name in self._members()]
            self._has_consumers = bool(names)
            if not names:
                return math.inf
            with self._client.pipeline(transaction=False) as pipe:
                for key in (self._keys.list, *map(self._keys.processing, names)):
                    command(pipe, "LLEN", key)
                return self._max_len - sum(int(length) for length in pipe.execute())
        except unreachable() as exc:
            raise BusUnavailable(describe(exc)) from exc

    def _members(self) -> list[bytes]:
        found: Any = command(self._client, "SMEMBERS", self._keys.consumers)
        return list(found)

    def publish(self, wires: Sequence[bytes]) -> None:
        """One transaction: all or none."""
        is_bounded = bool(self._max_len) and not self._has_consumers
        try:
            with self._client.pipeline(transaction=True) as pipe:
                command(pipe, "LPUSH", self._keys.list, *wires)
                if is_bounded:
                    command(pipe, "LTRIM", self._keys.list, 0, self._max_len - 1)
                length = int(pipe.execute()[0])
        except unreachable() as exc:
            raise BusUnavailable(describe(exc)) from exc
        if is_bounded and length > self._max_len:
            self._count_lost(length - self._max_len)

    def close(self) -> None:
        """Close the pool."""
        self._client.close()
