"""Events that cannot be delivered, kept with the reason until an operator looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_proxy.redisclient import command, id_order, text
from llm_proxy.runtime.clock import rfc3339, utc_now

if TYPE_CHECKING:  # pages and views name the class where no Redis is used
    from redis.client import Redis

REASONS = ("unparsable", "transform_error", "rejected", "exhausted")
_MOST_ERROR = 1024
_PAGE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them, as it is stored. `id` is its own, `original_id` that of the entry it was."""

    id: str
    data: bytes
    reason: str
    error: str
    service: str
    attempts: int
    original_id: str
    at: str

    @property
    def at_s(self) -> float:
        """When it was put there, in seconds since 1970."""
        return id_order(self.id)[0] / 1000


class DeadLetters:
    """The stream of dead letters of a bus.

    Args:
        key: Of that stream.
        bus_key: Of the stream or list that a replay goes to.
        is_list: Whether the bus is a list.
    """

    def __init__(self, client: Redis, key: str, *, bus_key: str, is_list: bool, max_len: int) -> None:
        self._client, self._key, self._bus_key = client, key, bus_key
        self._is_list, self._max_len = is_list, max_len

    def add(
        self, data: bytes | None, *, reason: str, error: str, service: str, attempts: int, original_id: str
    ) -> None:
        """Keep one. Raises what redis-py raises: then the event is not acknowledged."""
        fields: dict[str, Any] = {
            "data": data or b"",
            "reason": reason,
            "error": error[:_MOST_ERROR],
            "service": service,
            "attempts": attempts,
            "original_id": original_id,
            "at": rfc3339(utc_now()),
        }
        flat = [part for pair in fields.items() for part in pair]
        command(self._client, "XADD", self._key, "MAXLEN", "~", self._max_len, "*", *flat)

    def find(
        self, *, reason: str | None = None, since_s: float | None = None, limit: int | None = None
    ) -> Iterator[DeadLetter]:
        """Yield the oldest first.

        Args:
            reason: Only these.
            since_s: Only those put there at or after this time, in seconds since 1970.
        """
        start = f"{int(since_s * 1000)}-0" if since_s is not None else "-"
        found = 0
        while limit is None or found < limit:
            page: Any = self._client.xrange(self._key, min=start, count=_PAGE)
            for entry_id, fields in page:
                letter = _read(text(entry_id), fields)
                if reason is None or letter.reason == reason:
                    yield letter
                    found += 1
                    if limit is not None and found >= limit:
                        return
            if len(page) < _PAGE:
                return
            start = f"({text(page[-1][0])}"

    def get(self, letter_id: str) -> DeadLetter | None:
        """Return the one of that id."""
        page: Any = self._client.xrange(self._key, min=letter_id, max=letter_id, count=1)
        return _read(text(page[0][0]), page[0][1]) if page else None

    def replay(self, letter: DeadLetter) -> None:
        """Back to the bus and out of here, in one transaction."""
        with self._client.pipeline(transaction=True) as pipe:
            if self._is_list:
                command(pipe, "LPUSH", self._bus_key, letter.data)
            else:
                command(pipe, "XADD", self._bus_key, "*", "data", letter.data)
            command(pipe, "XDEL", self._key, letter.id)
            pipe.execute()

    def drop(self, letter: DeadLetter) -> None:
        """Delete it for good."""
        command(self._client, "XDEL", self._key, letter.id)


def _read(letter_id: str, fields: dict[bytes, bytes]) -> DeadLetter:
    named = {text(name): value for name, value in fields.items()}
    attempts = text(named.get("attempts", b"0"))
    return DeadLetter(
        id=letter_id,
        data=named.get("data", b""),
        reason=text(named.get("reason", b"")),
        error=text(named.get("error", b"")),
        service=text(named.get("service", b"")),
        attempts=int(attempts) if attempts.isdigit() else 0,
        original_id=text(named.get("original_id", b"")),
        at=text(named.get("at", b"")),
    )
