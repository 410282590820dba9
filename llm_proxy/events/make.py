"""A worker's publisher, made from the settings."""

from collections.abc import Callable

from llm_proxy import redisclient
from llm_proxy.events.bus import Bus
from llm_proxy.events.file_sink import FileSink
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queue import Counters
from llm_proxy.events.spool import Spool, spool_folder
from llm_proxy.settings import Settings


def make_bus(settings: Settings, count_lost: Callable[[int], None]) -> Bus:
    """Return the producer's end of LLM_PROXY_EVENT_BUS; nothing is connected yet."""
    if settings.events.bus == "in-memory":
        return MemoryBus()
    from llm_proxy.events.redis_list import ListBus
    from llm_proxy.events.redis_streams import StreamBus

    client = redisclient.connect(redisclient.target(settings.redis), max_connections=4)
    if settings.events.bus == "redis":
        return ListBus(client, settings.events.list_key, settings.events.stream_max_len, count_lost)
    return StreamBus(client, settings.events.stream_key, settings.events.stream_max_len)


def make_publisher(settings: Settings, counters: Counters) -> Publisher:
    """Return the queue with everything behind it; `start` it in the process that serves."""
    bus = make_bus(settings, lambda count: counters.dropped("list_full", count))
    folder = spool_folder(settings) if not isinstance(bus, MemoryBus) else None
    sink = None
    if settings.events.file_log is not None:
        sink = FileSink(
            settings.events.file_log,
            keep_binary=settings.events.log_binary_responses,
            most_bytes=settings.events.buffer_bytes,
            count_lost=lambda count: counters.dropped("file", count),
        )
    return Publisher(
        bus,
        spool=Spool(folder, settings.events.spool_max_bytes) if folder is not None else None,
        most_events=settings.events.buffer_size,
        most_bytes=settings.events.buffer_bytes,
        counters=counters,
        file_sink=sink,
    )
