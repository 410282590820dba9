"""Settings of rate limits, the response cache, and Redis."""

from dataclasses import dataclass
from pathlib import Path

from llm_proxy.settings.redis_address import redis_address
from llm_proxy.settings.variable import boolean, choice, duration, existing_file, integer, setting, size, text, url


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Windows of requests a minute."""

    global_rate_limit: int = setting("GLOBAL_RATE_LIMIT", integer(0), "0", "Requests a minute in all; 0 = off.")
    ip_rate_limit: int = setting("IP_RATE_LIMIT", integer(0), "0", "Requests a minute from one address; 0 = off.")
    distributed_enabled: bool = setting(
        "DISTRIBUTED_RATE_LIMIT_ENABLED", boolean, "false", "Limit tokens over all replicas, in Redis."
    )
    distributed_prefix: str = setting(
        "DISTRIBUTED_RATE_LIMIT_PREFIX", text, "ratelimit:", "Prefix of the windows' keys."
    )
    distributed_key_secret: str | None = setting(
        "DISTRIBUTED_RATE_LIMIT_KEY_SECRET", text, None, "Hides token ids in keys (HMAC).", secret=True
    )
    distributed_window_s: float = setting(
        "DISTRIBUTED_RATE_LIMIT_WINDOW", duration("1s"), "1m", "Length of a token's window."
    )
    distributed_max: int | None = setting(
        "DISTRIBUTED_RATE_LIMIT_MAX",
        integer(1),
        None,
        "Requests per window, for each token; 60 when enabled and unset.",
    )
    distributed_fallback: bool = setting(
        "DISTRIBUTED_RATE_LIMIT_FALLBACK", boolean, "true", "Limit on each machine while Redis is unavailable."
    )


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """The response cache (RFC 9111)."""

    enabled: bool = setting("HTTP_CACHE_ENABLED", boolean, "true", "Whether responses are cached.")
    backend: str = setting(
        "HTTP_CACHE_BACKEND", choice("in-memory", "redis"), "in-memory", "Where responses are stored."
    )
    stream_responses: bool = setting(
        "HTTP_CACHE_STREAM_RESPONSES", boolean, "false", "Whether finished event streams are stored."
    )
    max_object_bytes: int = setting("HTTP_CACHE_MAX_OBJECT_BYTES", size(), "1048576", "Largest stored body.")
    default_ttl_s: float = setting(
        "HTTP_CACHE_DEFAULT_TTL", duration("0s"), "300", "Lifetime of public responses that name none."
    )
    memory_max_bytes: int = setting(
        "HTTP_CACHE_MEMORY_MAX_BYTES", size(), "64MB", "Room of the in-memory store, for the machine."
    )
    redis_url: str | None = setting(
        "REDIS_CACHE_URL", url("redis", "rediss"), None, "Redis of the cache; unset: REDIS_ADDR.", secret=True
    )
    redis_key_prefix: str = setting("REDIS_CACHE_KEY_PREFIX", text, "llmproxy:cache:", "Prefix of stored responses.")
    redis_pool_size: int = setting(
        "REDIS_CACHE_POOL_SIZE", integer(1, 10000), "50", "Connections to the cache's Redis."
    )
    redis_timeout_s: float = setting("REDIS_CACHE_TIMEOUT", duration("1ms", "1m"), "1s", "Bound of stores and purges.")
    redis_scan_count: int = setting("REDIS_SCAN_COUNT", integer(1, 1_000_000), "2048", "Batch of a scan.")


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """The Redis that bus, cache and limits share."""

    addr: str = setting("REDIS_ADDR", redis_address, "localhost:6379", "host:port, or a redis:// or rediss:// URL.")
    db: int = setting("REDIS_DB", integer(0, 1_000_000), "0", "Database number.")
    username: str | None = setting("REDIS_USERNAME", text, None, "User name.")
    password: str | None = setting("REDIS_PASSWORD", text, None, "Password.", secret=True)
    tls: bool = setting("REDIS_TLS", boolean, "false", "Connect by TLS.")
    tls_ca: Path | None = setting("REDIS_TLS_CA", existing_file, None, "CA bundle.")
