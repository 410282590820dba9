"""The store of all replicas: Redis. Slow or away, it is a store without the entry.

Keys below the prefix: an entry has its own key; `vary:<primary>` lists the selecting fields that occur under a primary
key; `path:<project>:<method> <path>` lists the keys below an address; `purged` is the number of the last purge. A
look-up is two round trips, in all at most 50 ms; after a missed deadline Redis is left alone for a second.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
from gevent import monkey
from redis.client import Redis

from llm_proxy.cache.entry import Entry, from_json, to_json
from llm_proxy.cache.key import project_part, variant_key
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.store import MOST_KEPT_S, MOST_VARIES, Fields
from llm_proxy.redisclient import command, unreachable

LOOK_UP_LIMIT_S: Final = 0.05
LEFT_ALONE_S: Final = 1.0
_FORGET_EACH_S: Final = 0.02
_MOST_FORGOTTEN: Final = 1000
_PUT: Final = """\
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('SADD', KEYS[3], ARGV[4])
for i = 2, 3 do
 if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return 1"""
_ANNOUNCE: Final = """\
local known = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) > known then redis.call('SET', KEYS[1], ARGV[1]) end
return 1"""
_log = logging.getLogger(__name__)


class Away(Exception):
    """Redis did not do it in time, or at all."""


class RedisStore:
    """One worker's way to Redis.

    Args:
        quick: A client for look-ups.
        patient: A client with REDIS_CACHE_TIMEOUT, for stores and purges.
        prefix: REDIS_CACHE_KEY_PREFIX.
        scan_count: REDIS_SCAN_COUNT.
        failed: Called for each failure, for a counter.
        took: Gets the seconds of each look-up.
        clock: Seconds since the epoch.
    """

    is_local = False

    def __init__(
        self,
        quick: Redis,
        patient: Redis,
        *,
        prefix: str = "llmproxy:cache:",
        scan_count: int = 2048,
        failed: Callable[[], None] = lambda: None,
        took: Callable[[float], object] = lambda seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._quick, self._patient, self._prefix, self._scan_count = quick, patient, prefix, scan_count
        self._failed, self._took, self._clock = failed, took, clock
        self._left_alone_until = 0.0
        self._announced = 0
        self._forgotten: set[tuple[str, str]] = set()
        self._forgets: Any = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def find(self, primary: str, fields: Fields) -> list[Entry]:
        """See Store."""
        if self.is_left_alone:
            return []
        began = time.monotonic()
        try:
            with self._limit(LOOK_UP_LIMIT_S):
                return self._find(primary, fields, began + LOOK_UP_LIMIT_S)
        except unreachable(Away, ValueError) as error:
            self._leave_alone(error)
            return []
        finally:
            self._took(time.monotonic() - began)

    def _find(self, primary: str, fields: Fields, until: float) -> list[Entry]:
        pipeline = self._quick.pipeline(transaction=False)
        command(pipeline, "GET", f"{self._prefix}purged")
        command(pipeline, "SMEMBERS", f"{self._prefix}vary:{primary}")
        purged, varies = pipeline.execute()
        self._announced = max(self._announced, int(purged or 0))  # look-ups overtake each other
        if not varies:
            return []
        keys = [
            variant_key(primary, vary.split(",") if vary else (), fields)
            for vary in sorted(vary.decode() for vary in varies)[:MOST_VARIES]
        ]
        if time.monotonic() > until:
            raise Away("the time for a look-up is over")
        found = []
        for key, text in zip(keys, command(self._quick, "MGET", *[self._prefix + key for key in keys]), strict=True):
            entry = self._read(key, text)
            if entry is not None:
                found.append(entry)
        found.sort(key=lambda entry: entry.received_at, reverse=True)
        return found

    def _read(self, key: str, text: bytes | None) -> Entry | None:
        """Return the entry; None for one that cannot be read, or stands under another's key."""
        if text is None:
            return None
        try:
            entry = from_json(text)
        except ValueError:
            self._failed()
            return None
        return entry if entry.key == key else None

    def announced(self) -> int:
        """See Store: as it was at the last look-up."""
        return self._announced

    def stored_bytes(self) -> float:
        """See Store."""
        return 0.0

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, keep_s: float) -> bool:
        """See Store."""
        kept_ms = int(1000 * min(keep_s, MOST_KEPT_S))
        if self.is_left_alone or kept_ms <= 0:
            return False
        prefix, path = self._prefix, f"{entry.project}:{entry.target.partition('?')[0]}"
        keys = [prefix + entry.key, f"{prefix}vary:{entry.primary}", f"{prefix}path:{path}"]
        member = f"{entry.key} {entry.target.partition('?')[2]}"
        text = to_json(entry, self._clock() + keep_s)
        try:
            command(self._patient, "EVAL", _PUT, 3, *keys, text, kept_ms, ",".join(entry.vary), member)
        except unreachable() as error:
            self._leave_alone(error)
            return False
        return True

    def remove(self, scope: Scope, number: int) -> int:
        """See Store. What was stored since is not spared: it is fetched once more."""
        try:
            return self._remove(scope)
        except unreachable() as error:
            self._leave_alone(error)
            return 0

    def _remove(self, scope: Scope) -> int:
        client, prefix = self._patient, self._prefix
        if scope.key is not None:
            return int(command(client, "DEL", prefix + scope.key))
        project = "*" if scope.project is None else _literal(project_part(scope.project))
        if scope.target is not None:
            return self._remove_addresses(f"{project}:{_literal(scope.target.partition('?')[0])}", scope)
        if scope.prefix is not None and scope.prefix.startswith("/"):
            return self._remove_addresses(f"{project}:* {_literal(scope.prefix.partition('?')[0])}*", scope)
        pattern = f"v1:{project}:*" if scope.prefix is None else f"{_literal(scope.prefix)}*"
        removed = 0
        for keys in self._scan(pattern):
            wanted = [key for key in keys if key.startswith(f"{prefix}v1:".encode())]
            if scope.prefix is not None and scope.project is not None:
                own = f"{prefix}v1:{project_part(scope.project)}:".encode()
                wanted = [key for key in wanted if key.startswith(own)]
            removed += int(command(client, "DEL", *wanted)) if wanted else 0
        return removed

    def _remove_addresses(self, pattern: str, scope: Scope) -> int:
        removed = 0
        for lists in self._scan(f"path:{pattern}"):
            for name in lists:
                removed += self._remove_members(name, scope)
        return removed

    def _remove_members(self, name: bytes, scope: Scope) -> int:
        client = self._patient
        address = name.decode().removeprefix(f"{self._prefix}path:").partition(":")[2]
        gone = []
        for member in command(client, "SMEMBERS", name):
            key, _, query = member.decode().partition(" ")
            target = f"{address}?{query}" if query else address
            is_wanted = target == scope.target if scope.target is not None else _has_prefix(target, scope.prefix or "")
            if is_wanted:
                gone.append((self._prefix + key, member))
        if not gone:
            return 0
        pipeline = client.pipeline(transaction=False)
        command(pipeline, "DEL", *[key for key, _ in gone])
        command(pipeline, "SREM", name, *[member for _, member in gone])
        return int(pipeline.execute()[0])

    def _scan(self, pattern: str) -> Iterator[list[bytes]]:
        cursor: Any = 0
        while True:
            match = _literal(self._prefix) + pattern
            cursor, keys = command(self._patient, "SCAN", cursor, "MATCH", match, "COUNT", self._scan_count)
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    def announce(self, number: int) -> None:
        """See Store."""
        try:
            command(self._patient, "EVAL", _ANNOUNCE, 1, f"{self._prefix}purged", number)
        except unreachable() as error:
            self._leave_alone(error)

    # -- writes to paths, told behind the request ---------------------------------------------------------------------

    def forget_path(self, project: str, path: str) -> None:
        """See Store. Paths are gathered for some milliseconds, so that a busy endpoint costs Redis a few calls."""
        if len(self._forgotten) < _MOST_FORGOTTEN:
            self._forgotten.add((project, path))
        if self._forgets is None and self._forgotten:
            self._forgets = gevent.spawn(self._forget)

    def _forget(self) -> None:
        try:
            while self._forgotten and not self.is_left_alone:
                paths, self._forgotten = self._forgotten, set()
                try:
                    for name in {name for project, path in paths for name in self._lists(project, path)}:
                        self._forget_list(name)
                except unreachable() as error:
                    self._leave_alone(error)
                gevent.sleep(_FORGET_EACH_S)
        finally:
            self._forgets = None

    def _lists(self, project: str, path: str) -> Iterator[str]:
        while path and path != "/":
            yield f"{self._prefix}path:{project}:GET {path}"
            path = path.rstrip("/").rpartition("/")[0]

    def _forget_list(self, name: str) -> None:
        members = command(self._patient, "SMEMBERS", name)
        if members:
            keys = [self._prefix + member.decode().partition(" ")[0] for member in members]
            command(self._patient, "DEL", name, *keys)

    def flush(self) -> None:
        """See Store: nothing is written behind."""

    def close(self) -> None:
        """See Store."""
        self._quick.close()
        self._patient.close()

    # -- when it does not answer --------------------------------------------------------------------------------------

    @property
    def is_left_alone(self) -> bool:
        """See Store."""
        return time.monotonic() < self._left_alone_until

    def _leave_alone(self, error: BaseException) -> None:
        is_news = not self.is_left_alone  # others may have waited at the same time
        self._left_alone_until = time.monotonic() + LEFT_ALONE_S
        self._failed()
        if is_news:
            _log.warning("the cache's Redis failed, it is left alone for %s s: %s", LEFT_ALONE_S, type(error).__name__)

    @contextmanager
    def _limit(self, limit_s: float) -> Iterator[None]:
        """Bound connection, pool and all reads; where sockets are not gevent's, each has its own."""
        if not monkey.is_module_patched("socket"):
            yield
            return
        with gevent.Timeout(limit_s, Away("the time for a look-up is over")):
            yield


def _has_prefix(target: str, prefix: str) -> bool:
    return target.partition(" ")[2].startswith(prefix)


def _literal(text: str) -> str:
    """Return the text with the characters of Redis' patterns escaped."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
