"""What a dispatcher was told, checked: settings in, options out."""

import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from llm_proxy.dispatcher.backends import UnknownBackend, backend_class
from llm_proxy.redisclient import RedisTarget, target
from llm_proxy.settings import DispatcherSettings, EventSettings, Settings

IN_MEMORY = "a dispatcher cannot read the in-memory bus: set LLM_PROXY_EVENT_BUS to redis-streams or redis"


class OptionsError(Exception):
    """A dispatcher that cannot start; a line for every fault."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of a dispatcher, with what follows from several of them."""

    dispatcher: DispatcherSettings
    events: EventSettings
    redis: RedisTarget
    endpoint: str  # a URL, or the path of a file
    consumer: str  # its name in the group
    tiktoken_dir: Path | None
    once: bool = False

    @property
    def is_list(self) -> bool:
        """Whether the bus is the list."""
        return self.events.bus == "redis"

    @property
    def key(self) -> str:
        """Key of the bus: of the list or of the stream."""
        return self.events.list_key if self.is_list else self.events.stream_key

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
    faults += _service_faults(settings.dispatcher)
    try:
        where = target(settings.redis)
    except ValueError as exc:
        faults.append(f"REDIS_ADDR: expected {exc}")
    if faults:
        raise OptionsError("\n".join(faults))
    return Options(
        dispatcher=settings.dispatcher,
        events=settings.events,
        redis=where,
        endpoint=endpoint(settings.dispatcher),
        consumer=settings.events.consumer_name or _made_up_name(settings.dispatcher.service),
        tiktoken_dir=settings.tokens.tiktoken_cache_dir,
    )


def endpoint(settings: DispatcherSettings) -> str:
    """DISPATCHER_ENDPOINT, else LLM_PROXY_ENDPOINT, else the service's own."""
    asked = settings.endpoint or settings.fallback_endpoint
    return asked or backend_class(settings.service).default_endpoint


def _service_faults(settings: DispatcherSettings) -> list[str]:
    try:
        found = backend_class(settings.service)
    except UnknownBackend as exc:
        return [str(exc)]
    faults = []
    if found.needs_key and not settings.api_key:
        faults.append(f"LLM_PROXY_API_KEY: the service {settings.service} requires an API key")
    where = endpoint(settings)
    if found.is_http and not re.match(r"https?://[^\s/]+", where):
        faults.append(f"DISPATCHER_ENDPOINT: expected a URL for the service {settings.service}")
    return faults


def _made_up_name(service: str) -> str:
    """Return a name unique to a process."""
    return f"dispatcher-{service}-{socket.gethostname()}-{os.getpid()}"
