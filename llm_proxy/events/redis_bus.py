"""What the two buses on Redis share: numbers from a counter, and failures of Redis in the bus's words."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from redis.client import Redis

from llm_proxy.events.bus import BusUnavailable, unreachable
from llm_proxy.redisclient import command


class RedisBus(ABC):
    """The producer's end of a bus on Redis.

    Args:
        client: Each of its commands must be bounded by the socket's time limit.
        key: The list or the stream; the counter is beside it.
        max_len: Bounds the backlog; 0 = none.
    """

    def __init__(self, client: Redis, key: str, max_len: int) -> None:
        self._client, self._key, self._max_len = client, key, max_len
        self._is_read = True  # nothing is trimmed before it is known that no consumer needs it

    def reserve(self, count: int) -> int:
        """Return the first of `count` numbers. Raises BusUnavailable."""
        with reaching():
            return int(command(self._client, "INCRBY", f"{self._key}:seq", count)) - count + 1

    def room(self) -> float:
        """Return MAX_LEN less the backlog; no bound before a consumer has ever joined. Raises BusUnavailable."""
        if not self._max_len:
            return math.inf
        with reaching():
            backlog = self._backlog()
        self._is_read = backlog is not None
        return math.inf if backlog is None else self._max_len - backlog

    @abstractmethod
    def _backlog(self) -> int | None:
        """Return how many events wait; None while nothing has ever read the bus."""

    def close(self) -> None:
        """Close the pool."""
        self._client.close()


@contextmanager
def reaching() -> Iterator[None]:
    """Raise BusUnavailable in place of what Redis raises when it is not reached."""
    try:
        yield
    except unreachable() as exc:
        raise BusUnavailable(f"{type(exc).__name__}: {exc}"[:300]) from exc
