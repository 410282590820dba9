"""Redis, where something uses it."""

import re
import time
from collections.abc import Iterator
from typing import Any

from redis.client import Redis

from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.cli.doctor.skew import compare
from llm_proxy.redisclient import command, connect, target, unreachable
from llm_proxy.settings import Settings

_TIMEOUT_S = 3.0
_LEAST_VERSION = (6, 2)  # XTRIM MINID, XAUTOCLAIM
_CAUSES = (
    (r"noauth|authentication required", "authentication", "it wants a password", "set REDIS_PASSWORD"),
    (r"wrongpass|invalid (username|password)|without any password", "authentication", "the password is not accepted",
     "correct REDIS_PASSWORD (and REDIS_USERNAME)"),
    (r"name or service|name resolution|getaddrinfo|-[2-5] connecting", "unknown-host", "the host's name is not known",
     "correct REDIS_ADDR"),
    (r"ssl|certificate|tls", "tls", "no TLS connection came about", "check REDIS_TLS and REDIS_TLS_CA"),
    (r"loading", "loading", "it is still loading its data", "wait"),
    (r"db index|invalid db", "no-such-database", "it has no such database number", "correct REDIS_DB"),
    (r"timeout|timed out", "timeout", "no answer in time", "check host, port, firewall and REDIS_TLS"),
    (r"refused", "refused", "the connection was refused", "start Redis, or correct REDIS_ADDR"),
    (r"protocol|invalid response|unexpected", "not-redis", "what answers is no Redis", "correct REDIS_ADDR"),
)  # fmt: skip


def redis(context: CheckContext) -> Iterator[Finding]:
    """Check the Redis of bus, cache and limits."""
    settings = context.settings
    uses = _uses(settings)
    if not uses:
        yield good("redis", "nothing uses Redis")
        return
    try:
        client = connect(target(settings.redis), timeout_s=_TIMEOUT_S)
    except ValueError as exc:
        yield fault("redis.address", f"REDIS_ADDR: expected {exc}", "correct REDIS_ADDR")
        return
    try:
        yield from _connected(client, uses)
    except unreachable() as exc:
        yield cause(exc)
    finally:
        client.close()


def _uses(settings: Settings) -> list[str]:
    uses = [("bus", settings.events.bus != "in-memory"), ("cache", settings.cache.backend == "redis")]
    uses.append(("limits", settings.limits.distributed_enabled))
    return [use for use, is_on in uses if is_on]


def cause(error: BaseException) -> Finding:
    """Return a library's error in the project's words; the library's may hold the password."""
    words = f"{type(error).__name__} {error}".lower()
    for pattern, code, what, remedy in _CAUSES:
        if re.search(pattern, words):
            return fault(f"redis.{code}", f"Redis: {what}", remedy)
    return fault("redis.error", f"Redis: {type(error).__name__}", "look into its log")


def _connected(client: Redis, uses: list[str]) -> Iterator[Finding]:
    asked_at_s = time.time()
    seconds, microseconds = command(client, "TIME")
    yield from compare("redis", int(seconds) + int(microseconds) / 1e6, asked_at_s)
    about: dict[str, Any] = client.info()
    version = tuple(int(part) for part in str(about.get("redis_version", "0")).split(".")[:2])
    if version < _LEAST_VERSION:
        what = f"Redis {about.get('redis_version')} is too old"
        yield fault("redis.version", what, "install Redis 6.2 or newer")
    if about.get("role") in ("slave", "replica"):
        yield fault("redis.replica", "it is a replica, which takes no writes", "point REDIS_ADDR at the primary")
    policy = str(about.get("maxmemory_policy", "noeviction"))
    if about.get("maxmemory") and policy.startswith("allkeys") and ("bus" in uses or "limits" in uses):
        what = f"maxmemory-policy {policy} may throw away events and counters"
        yield warning("redis.evicts", what, "set it to noeviction or a volatile-… policy, or use a Redis of its own")
    if "bus" in uses and not about.get("aof_enabled") and not about.get("rdb_last_save_time"):
        yield warning("redis.not-persistent", "it keeps nothing over a restart", "enable appendonly")
    yield good("redis", f"Redis {about.get('redis_version')} answers ({', '.join(uses)})")
