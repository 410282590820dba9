"""The event bus as it is seen from the server: length, lag of the consumers, and dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llm_proxy import redisclient
from llm_proxy.redisclient import command, text, unreachable
from llm_proxy.settings import Settings

if TYPE_CHECKING:  # redis-py is imported where the bus is in Redis
    from redis.client import Redis

    from llm_proxy.events.dead_letters import DeadLetter, DeadLetters

_MOST_COUNTED = 10_000
_TIMEOUT_S = 2.0


class NoBus(Exception):
    """The bus is in memory: there is nothing to be read, and no dispatcher."""


class BusUnavailable(Exception):
    """Redis does not answer."""


class BusState:
    """Reads the bus that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_list = settings.events.bus == "redis"
        self._key = settings.events.list_key if self._is_list else settings.events.stream_key

    def state(self) -> dict[str, Any]:
        """Return the figures. Raises BusUnavailable.

        `lag` are events that no consumer has acknowledged; None for the in-memory bus.
        """
        if self._settings.events.bus == "in-memory":
            return {"bus": "in-memory", "key": None, "length": None, "lag": None, "consumers": [], "dead_letters": None}
        with self._client() as client:
            figures = _of_list(client, self._key) if self._is_list else _of_stream(client, self._key)
            dead = int(command(client, "XLEN", f"{self._key}:dead"))
        return {"bus": self._settings.events.bus, "key": self._key, **figures, "dead_letters": dead}

    @contextmanager
    def letters(self) -> Iterator[DeadLetters]:
        """Give the dead letters. Raises NoBus, BusUnavailable."""
        if self._settings.events.bus == "in-memory":
            raise NoBus
        from llm_proxy.events.dead_letters import DeadLetters

        most = self._settings.dispatcher.dead_letter_max_len
        with self._client() as client:
            yield DeadLetters(client, f"{self._key}:dead", bus_key=self._key, is_list=self._is_list, max_len=most)

    @contextmanager
    def _client(self) -> Iterator[Redis]:
        client = redisclient.connect(redisclient.target(self._settings.redis), timeout_s=_TIMEOUT_S)
        try:
            yield client
        except unreachable() as error:
            raise BusUnavailable from error
        finally:
            client.close()


_SHOWN = ("id", "at", "reason", "error", "service", "attempts", "original_id")


def facts_of(letter: DeadLetter) -> dict[str, Any]:
    """Return what is shown of a dead letter; its event holds prompts and is left out."""
    return {**{name: getattr(letter, name) for name in _SHOWN}, "bytes": len(letter.data)}


def _of_stream(client: Redis, key: str) -> dict[str, Any]:
    from llm_proxy.events.redis_streams import group_states, undelivered

    length = int(command(client, "XLEN", key))
    consumers = [
        {
            "name": group.name,
            "pending": group.pending,
            "undelivered": undelivered(client, key, group, length, _MOST_COUNTED)[0],
        }
        for group in group_states(client, key)
    ]
    lags = [int(str(group["pending"])) + int(str(group["undelivered"])) for group in consumers]
    return {"length": length, "lag": max(lags, default=length), "consumers": consumers}


def _of_list(client: Redis, key: str) -> dict[str, Any]:
    from llm_proxy.events.list_source import EVER_JOINED
    from llm_proxy.events.redis_list import ListKeys

    keys = ListKeys(key)
    names = sorted(text(name) for name in command(client, "SMEMBERS", keys.consumers))
    length = int(command(client, "LLEN", key))
    consumers = [
        {"name": name, "pending": int(command(client, "LLEN", keys.processing(name))), "undelivered": length}
        for name in names
        if name != EVER_JOINED
    ]
    lag = length + sum(int(str(one["pending"])) for one in consumers)
    return {"length": length, "lag": lag, "consumers": consumers}
