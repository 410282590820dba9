"""What a dispatcher was told, checked: settings in, options out."""

import os
import re
import socket
from dataclasses import dataclass, replace

from llm_proxy.dispatcher.backends import UnknownBackend, backend_class
from llm_proxy.redisclient import RedisTarget, target
from llm_proxy.settings import Settings
from llm_proxy.settings.declare import ListenAddress

IN_MEMORY = "a dispatcher cannot read the in-memory bus: set LLM_PROXY_EVENT_BUS to redis-streams or redis"


class OptionsError(Exception):
    """A dispatcher that cannot start; a line for every fault."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A dispatcher's configuration."""

    bus: str
    redis: RedisTarget
    key: str  # of the stream or the list
    group: str
    consumer: str
    block_s: float
    claim_s: float
    read_count: int
    trims: bool
    service: str
    endpoint: str
    api_key: str | None
    buffer: int
    buffer_bytes: int
    batch_size: int
    flush_interval_s: float
    retry_attempts: int
    retry_backoff_s: float
    timeout_s: float
    concurrency: int
    health_addr: ListenAddress | None
    is_verbose: bool
    methods: frozenset[str]
    max_deliveries: int
    dead_letter_max_len: int
    shutdown_timeout_s: float
    estimates_tokens: bool
    tiktoken_dir: str | None
    file_max_bytes: int
    keeps_binary: bool
    once: bool = False

    @property
    def dead_key(self) -> str:
        """The stream of dead letters, for either bus."""
        return f"{self.key}:dead"

    def once_only(self) -> "Options":
        """Return the same, but ending when nothing is left."""
        return replace(self, once=True)


def options(settings: Settings, *, needs_bus: bool = True) -> Options:
    """Return the options that the settings amount to. Raises OptionsError.

    Args:
        needs_bus: Whether events are to be read from the bus.
    """
    faults = []
    if needs_bus and settings.events.bus == "in-memory":
        faults.append(IN_MEMORY)
    faults += _service_faults(settings)
    try:
        where = target(settings)
    except ValueError as exc:
        faults.append(f"REDIS_ADDR: expected {exc}")
    if faults:
        raise OptionsError("\n".join(faults))
    is_list = settings.events.bus == "redis"
    return Options(
        bus=settings.events.bus,
        redis=where,
        key=settings.events.list_key if is_list else settings.events.stream_key,
        group=settings.events.consumer_group,
        consumer=settings.events.consumer_name or _made_up_name(settings.dispatcher.service),
        block_s=settings.events.stream_block_time_s,
        claim_s=settings.events.stream_claim_time_s,
        read_count=settings.events.stream_batch_size,
        trims=settings.events.stream_trim_acked,
        service=settings.dispatcher.service,
        endpoint=endpoint(settings),
        api_key=settings.dispatcher.api_key,
        buffer=settings.dispatcher.buffer,
        buffer_bytes=settings.dispatcher.buffer_bytes,
        batch_size=settings.dispatcher.batch_size,
        flush_interval_s=settings.dispatcher.flush_interval_s,
        retry_attempts=settings.dispatcher.retry_attempts,
        retry_backoff_s=settings.dispatcher.retry_backoff_s,
        timeout_s=settings.dispatcher.timeout_s,
        concurrency=settings.dispatcher.concurrency,
        health_addr=settings.dispatcher.health_addr,
        is_verbose=settings.dispatcher.verbose,
        methods=frozenset(method.upper() for method in settings.dispatcher.methods),
        max_deliveries=settings.dispatcher.max_deliveries,
        dead_letter_max_len=settings.dispatcher.dead_letter_max_len,
        shutdown_timeout_s=settings.dispatcher.shutdown_timeout_s,
        estimates_tokens=settings.dispatcher.estimate_tokens,
        tiktoken_dir=str(settings.tokens.tiktoken_cache_dir)
        if settings.tokens.tiktoken_cache_dir is not None
        else None,
        file_max_bytes=settings.dispatcher.file_max_bytes,
        keeps_binary=settings.events.log_binary_responses,
    )


def endpoint(settings: Settings) -> str:
    """DISPATCHER_ENDPOINT, else LLM_PROXY_ENDPOINT, else the service's own."""
    asked = settings.dispatcher.endpoint or settings.dispatcher.fallback_endpoint
    return asked or backend_class(settings.dispatcher.service).default_endpoint


def _service_faults(settings: Settings) -> list[str]:
    try:
        found = backend_class(settings.dispatcher.service)
    except UnknownBackend as exc:
        return [str(exc)]
    faults = []
    if found.needs_key and not settings.dispatcher.api_key:
        faults.append(f"LLM_PROXY_API_KEY: the service {settings.dispatcher.service} requires an API key")
    where = endpoint(settings)
    if found.is_http and not re.match(r"https?://[^\s/]+", where):
        faults.append(f"DISPATCHER_ENDPOINT: expected a URL for the service {settings.dispatcher.service}")
    return faults


def _made_up_name(service: str) -> str:
    """Return a name unique to a process."""
    return f"dispatcher-{service}-{socket.gethostname()}-{os.getpid()}"
