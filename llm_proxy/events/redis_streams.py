"""The `redis-streams` bus: the producer's end (docs/events.md, "Redis streams"; docs/adr/0080)."""

from collections.abc import Sequence
from typing import Any

from redis.client import Redis
from redis.exceptions import ResponseError

from llm_proxy.events.bus import FIELD
from llm_proxy.events.redis_bus import RedisBus, reaching
from llm_proxy.redisclient import command, id_order, text

_COUNT_AFTER = """
local count, most, from = 0, tonumber(ARGV[2]), ARGV[1]
while count < most do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 50)
  count = count + #page
  if #page < 50 then break end
  from = '(' .. page[#page][1]
end
return math.min(count, most)
"""
_ENDS = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return first[1] and {first[1][1], last[1][1]} or {}
"""


class StreamBus(RedisBus):
    """Adds events to a stream, and trims what every consumer group is done with.

    `max_len` is how many delivered entries are kept, about; 0 = all. Undelivered ones are never trimmed once a consumer
    group exists.
    """

    name = "redis-streams"

    def _backlog(self) -> int | None:
        """Return the largest backlog of a group."""
        groups = group_states(self._client, self._key)
        if not groups:
            return None
        length = int(command(self._client, "XLEN", self._key))
        backlog = max(self._backlog_of(group, length) for group in groups)
        if length > self._max_len:
            trim_acknowledged(self._client, self._key, groups, limit=length - self._max_len)
        return backlog

    def _backlog_of(self, group: "GroupState", length: int) -> int:
        return group.pending + undelivered(self._client, self._key, group, length, self._max_len)[0]

    def publish(self, wires: Sequence[bytes]) -> None:
        """One transaction, so that a refusal half-way (out of memory) does not reorder what is tried again."""
        bound: tuple[Any, ...] = ("MAXLEN", "~", self._max_len) if self._max_len and not self._is_read else ()
        with reaching(), self._client.pipeline(transaction=True) as pipe:
            for wire in wires:
                command(pipe, "XADD", self._key, *bound, "*", FIELD, wire)
            pipe.execute()


class GroupState:
    """One consumer group as XINFO shows it. `lag` None: Redis does not know."""

    __slots__ = ("entries_read", "lag", "last_delivered_id", "name", "pending")

    def __init__(self, found: dict[str, Any]) -> None:
        self.name = text(found["name"])
        self.pending = int(found["pending"])
        self.last_delivered_id = text(found["last-delivered-id"])
        self.lag = int(found["lag"]) if found.get("lag") is not None else None
        read = found.get("entries-read")
        self.entries_read = int(read) if read is not None else None


def group_states(client: Redis, key: str) -> list[GroupState]:
    """Return the stream's groups; none when there is no stream."""
    try:
        found: Any = client.xinfo_groups(key)
    except ResponseError as exc:
        if "no such key" in str(exc).lower():
            return []
        raise
    return [GroupState(group) for group in found]


def undelivered(client: Redis, key: str, group: GroupState, length: int, most: int) -> tuple[int, bool]:
    """Entries that the group was not given yet, and whether the count is exact.

    Redis counts reads, not positions: where unread entries were trimmed, its lag stays too large by their number. The
    ends of the stream set that right as soon as the group is before or behind all of it. Redis before 7, or after an
    XDEL, has no lag: then entries are counted, up to `most`.
    """
    if group.lag == 0:
        return 0, True
    ends: Any = client.eval(_ENDS, 1, key)
    if not ends or id_order(group.last_delivered_id) >= id_order(text(ends[1])):
        return 0, True
    if id_order(group.last_delivered_id) < id_order(text(ends[0])):
        return length, True
    if group.lag is None:
        return int(client.eval(_COUNT_AFTER, 1, key, f"({group.last_delivered_id}", str(max(1, most)))), True
    return min(group.lag, length), False


def oldest_needed(client: Redis, key: str, groups: Sequence[GroupState]) -> str:
    """Return the smallest entry id that some group has not acknowledged yet or not been given."""
    needed = []
    for group in groups:
        if group.pending:
            found: Any = command(client, "XPENDING", key, group.name)
            least = found.get("min") if isinstance(found, dict) else found[1]
            if least is not None:
                needed.append(text(least))
                continue
        milliseconds, _, sequence = group.last_delivered_id.partition("-")
        needed.append(f"{milliseconds}-{int(sequence or 0) + 1}")
    return min(needed, key=id_order)


def trim_acknowledged(client: Redis, key: str, groups: Sequence[GroupState], *, limit: int | None = None) -> int:
    """Remove the oldest entries that every group is done with; at most `limit`, then in whole nodes of the stream."""
    least = oldest_needed(client, key, groups)
    bound: tuple[Any, ...] = ("MINID", least) if limit is None else ("MINID", "~", least, "LIMIT", limit)
    return int(command(client, "XTRIM", key, *bound))
