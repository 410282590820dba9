"""The one place that makes redis-py clients from Settings; bus, cache, limits and the dispatcher share it.

These clients never retry: redis-py's default waits and tries again for seconds, and each user here has
a policy of its own (spool, skip, fall back). Under gevent's patched sockets a client parks its greenlet, not the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_proxy.settings import RedisSettings
from llm_proxy.settings.redis_address import RedisTarget, parse_address

if TYPE_CHECKING:
    from redis.client import Redis

__all__ = ["RedisTarget", "command", "connect", "id_order", "parse_address", "target", "text", "unreachable"]

_TIMEOUT_S = 0.25


def unreachable(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what a call may raise when Redis is unavailable, full, loading or refuses the client, and `more`.

    For `except`, which asks only when something was raised: redis-py is not imported where Redis is not used.
    """
    from redis.exceptions import RedisError

    return (RedisError, OSError, *more)


def target(settings: RedisSettings) -> RedisTarget:
    """Return the Redis of REDIS_ADDR. Raises ValueError, worded as what is accepted and without the value.

    A URL supplies what no variable of its own sets: REDIS_DB, REDIS_USERNAME, REDIS_PASSWORD and REDIS_TLS win over
    it when they differ from their defaults.
    """
    found = parse_address(settings.addr)
    return RedisTarget(
        host=found.host,
        port=found.port,
        db=settings.db or found.db,
        username=settings.username or found.username,
        password=settings.password or found.password,
        is_tls=settings.tls or found.is_tls,
        ca=str(settings.tls_ca) if settings.tls_ca is not None else found.ca,
    )


def connect(
    where: RedisTarget,
    *,
    timeout_s: float = _TIMEOUT_S,
    connect_timeout_s: float | None = None,
    max_connections: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Redis:
    """Return a client; nothing is opened before the first command.

    Args:
        timeout_s: Longest wait of one read or write on the socket. A blocking command needs more than it blocks for.
        connect_timeout_s: Default: `timeout_s`. The look-up of the host's name is not bounded by it.
        max_connections: Of the pool; None = redis-py's own bound.
        options: Further arguments of `redis.Redis`, for a user that needs one.
    """
    from redis.backoff import NoBackoff
    from redis.client import Redis
    from redis.retry import Retry

    more: dict[str, Any] = dict(options or {})
    if where.is_tls:
        more |= {"ssl": True, "ssl_ca_certs": where.ca, "ssl_cert_reqs": "required"}
    return Redis(
        host=where.host,
        port=where.port,
        db=where.db,
        username=where.username,
        password=where.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s if connect_timeout_s is None else connect_timeout_s,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # one form of results over all versions of redis-py that are supported
        **more,
    )


def command(client: Redis, *parts: Any) -> Any:
    """Run one command, or queue it in a pipeline; redis-py's own method for that carries no types."""
    return client.execute_command(*parts)  # type: ignore[no-untyped-call]


def text(value: bytes | str) -> str:
    """Return what Redis sent as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def id_order(entry_id: str) -> tuple[int, int]:
    """Return an entry id as something that sorts."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
