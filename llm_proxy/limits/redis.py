"""Windows shared by all replicas: one script in Redis looks, adds and sets the lifetime.

The script asks Redis for the time, so that replicas whose clocks differ still count into the same buckets.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from redis.client import Redis
from redis.exceptions import RedisError

from llm_proxy import metrics
from llm_proxy.limits.window import ADMITTED, Count, Verdict, Window
from llm_proxy.redisclient import RedisTarget, connect, target
from llm_proxy.settings import Settings

CALL_S = 0.1  # a call waits no longer
_CONNECTIONS = 32

# KEYS: one a window, without the bucket. ARGV: per window length, limit, amount; then whether a full one refuses.
# Answers: place of the full window (0: none), then current, previous, microseconds into the bucket for that window.
SCRIPT = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local refuses = ARGV[#ARGV] == '1'
local names = {}
for i, key in ipairs(KEYS) do
  local size, limit, amount = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local start = math.floor(now / size) * size
  names[i] = key .. ':' .. string.format('%d', start)
  if refuses then
    local counts = redis.call('MGET', names[i], key .. ':' .. string.format('%d', start - size))
    local current, previous = tonumber(counts[1] or 0), tonumber(counts[2] or 0)
    local elapsed = now - start
    if current + previous * (1 - elapsed / size) + math.max(1, amount) > limit then
      return {i, current, previous, math.floor(elapsed * 1000000)}
    end
  end
end
for i, name in ipairs(names) do
  local size, amount = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i])
  if amount > 0 then
    redis.call('INCRBY', name, amount)
    redis.call('EXPIRE', name, 2 * size + 1)
  end
end
return {0, 0, 0, 0}
"""

# KEYS: a sorted set of instants. ARGV: limit, seconds. Answers how many microseconds are to be waited, 0: noted.
FAILURES = """
local t = redis.call('TIME')
local now, window = t[1] * 1000000 + t[2], ARGV[2] * 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - window))
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return window - (now - tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]))
end
local instant = string.format('%d', now)
redis.call('ZADD', KEYS[1], instant, instant .. '-' .. redis.call('ZCARD', KEYS[1]))
redis.call('EXPIRE', KEYS[1], ARGV[2] + 1)
return 0
"""


class RedisTooSlow(RedisError):
    """No answer within CALL_S."""


class RedisStore:
    """See `window.Store`. Every call ends within CALL_S, by `redisclient.unreachable()` when Redis is unavailable.

    Args:
        prefix: DISTRIBUTED_RATE_LIMIT_PREFIX.
        observe: Gets the seconds of each response.
    """

    def __init__(
        self, where: RedisTarget, prefix: str, *, observe: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._client: Redis = connect(where, timeout_s=CALL_S, max_connections=2 * _CONNECTIONS)
        self._script = self._client.register_script(SCRIPT)
        self._failures = self._client.register_script(FAILURES)
        self._prefix, self._observe = prefix, observe
        self._free = threading.BoundedSemaphore(_CONNECTIONS)

    @classmethod
    def build(cls, settings: Settings) -> "RedisStore":
        """Return the windows of all replicas, with the seconds of each response measured."""
        where, observe = target(settings.redis), metrics.redis_duration["limit"].observe
        return cls(where, settings.limits.distributed_prefix, observe=observe)

    def take(self, windows: Sequence[Window]) -> Verdict:
        """See `Store`. Raises redisclient.unreachable()."""
        place, current, previous, elapsed_us = self._call(windows, refuses=True)
        if not place:
            return ADMITTED
        return Verdict(place - 1, Count(current, previous, elapsed_us / 1e6))

    def add(self, windows: Sequence[Window]) -> None:
        """See `Store`. Raises redisclient.unreachable()."""
        self._call(windows, refuses=False)

    def fail(self, key: str, limit: int, window_s: int) -> float:
        """See `login_throttle.Shared`. Raises redisclient.unreachable()."""
        return float(self._within(lambda: self._failures(keys=[self._prefix + key], args=[limit, window_s]))) / 1e6

    def ping(self) -> None:
        """Raise redisclient.unreachable()."""
        self._within(self._client.ping)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(self, windows: Sequence[Window], *, refuses: bool) -> list[int]:
        keys = [self._prefix + window.key for window in windows]
        values: list[Any] = []
        for window in windows:
            values += (window.window_s, window.limit, window.amount)
        values.append("1" if refuses else "0")
        return self._within(lambda: self._script(keys=keys, args=values))  # type: ignore[no-any-return]

    def _within(self, call: Callable[[], Any]) -> Any:
        """Bound the whole of it, wait for a connection included, within CALL_S.

        Threads have the sockets' limits alone.
        """
        started = time.perf_counter()
        with gevent.Timeout(CALL_S, RedisTooSlow("no answer in time")):
            if not self._free.acquire(timeout=CALL_S):
                raise RedisTooSlow("no connection was free in time")
            try:
                found = call()
            finally:
                self._free.release()
        self._observe(time.perf_counter() - started)
        return found
