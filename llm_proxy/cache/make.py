"""The cache that the settings ask for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from gevent import monkey
from sqlalchemy import Engine

from llm_proxy import metrics, redisclient
from llm_proxy.cache.engine import Counts, ResponseCache
from llm_proxy.cache.invalidation import WriteTimes
from llm_proxy.cache.memory import MemoryStore
from llm_proxy.cache.policy import Rules
from llm_proxy.cache.purges import Purges, PurgeTable
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.singleflight import SingleFlight
from llm_proxy.cache.store import Store
from llm_proxy.runtime import shared_dir
from llm_proxy.settings import Settings

if TYPE_CHECKING:
    from llm_proxy.cache.redis import RedisStore

_log = logging.getLogger(__name__)


def make_cache(settings: Settings, engine: Engine, provider: str) -> ResponseCache:
    """Return a worker's cache before the provider of this name. Opens files of the server's folder, no connection."""
    where = shared_dir.shared()
    store: Store | None = _redis_store(settings) if settings.cache.backend == "redis" else None
    if store is None:
        store = MemoryStore(
            where,
            most_bytes=settings.cache.memory_max_bytes,
            failed=metrics.CACHE_BACKEND_ERRORS.inc,
            evicted=metrics.CACHE_EVICTIONS.inc,
        )
    kept = store

    def apply(purges: Sequence[tuple[int, Scope]]) -> None:
        for number, scope in purges if kept.is_local else ():  # the purging worker cleared Redis
            kept.remove(scope, number)

    return ResponseCache(
        store,
        writes=WriteTimes(where),
        purges=Purges(PurgeTable(engine), apply),
        singleflight=SingleFlight(where),
        rules=Rules(
            default_ttl_s=settings.cache.default_ttl_s,
            most_bytes=settings.cache.max_object_bytes,
            stores_streams=settings.cache.stream_responses,
        ),
        provider=provider,
        counts=Counts(stored=metrics.CACHE_STORES.inc),
    )


def _redis_store(settings: Settings) -> RedisStore | None:
    """None, with a warning, where the address is none."""
    try:
        if settings.cache.redis_url is not None:
            target = redisclient.parse_address(settings.cache.redis_url)
        else:
            target = redisclient.target(settings.redis)
    except ValueError as error:
        _log.warning("the cache's Redis address is none, answers are kept on this machine: expected %s", error)
        return None
    from llm_proxy.cache.redis import LOOK_UP_LIMIT_S, RedisStore

    connect = partial(redisclient.connect, target, max_connections=settings.cache.redis_pool_size)
    # The whole look-up has its own bound where sockets are gevent's; elsewhere each of its two reads gets a half.
    quick_s = LOOK_UP_LIMIT_S if monkey.is_module_patched("socket") else LOOK_UP_LIMIT_S / 2
    return RedisStore(
        connect(timeout_s=quick_s),
        connect(timeout_s=settings.cache.redis_timeout_s),
        prefix=settings.cache.redis_key_prefix,
        scan_count=settings.cache.redis_scan_count,
        failed=metrics.CACHE_BACKEND_ERRORS.inc,
        took=metrics.redis_duration["cache"].observe,
    )
