"""The `redis` bus, a list: the producer's end (docs/events.md, "Redis list"; docs/adr/0082)."""

from collections.abc import Callable, Sequence
from typing import Any

from redis.client import Redis

from llm_proxy.events.redis_bus import RedisBus, reaching
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


class ListBus(RedisBus):
    """Pushes events onto the left end of a list; consumers take them from the right.

    Args:
        max_len: The list's bound while no consumer has ever joined, and the backlog's afterwards; 0 = none.
        count_lost: Gets the number of events that the bound pushed out.
    """

    name = "redis"

    def __init__(self, client: Redis, key: str, max_len: int, count_lost: Callable[[int], None]) -> None:
        super().__init__(client, key, max_len)
        self._keys, self._count_lost = ListKeys(key), count_lost

    def _backlog(self) -> int | None:
        """Count what waits in the list and in the consumers' hands."""
        members: Any = command(self._client, "SMEMBERS", self._keys.consumers)
        names = [text(name) for name in members]
        if not names:
            return None
        with self._client.pipeline(transaction=False) as pipe:
            for key in (self._key, *map(self._keys.processing, names)):
                command(pipe, "LLEN", key)
            return sum(int(length) for length in pipe.execute())

    def publish(self, wires: Sequence[bytes]) -> None:
        """One transaction: all or none."""
        is_bounded = bool(self._max_len) and not self._is_read
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            command(pipe, "LPUSH", self._key, *wires)
            if is_bounded:
                command(pipe, "LTRIM", self._key, 0, self._max_len - 1)
            length = int(pipe.execute()[0])
        if is_bounded and length > self._max_len:
            self._count_lost(length - self._max_len)
