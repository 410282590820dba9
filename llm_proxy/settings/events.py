"""Settings of events, buses and the dispatcher (events.md)."""

from dataclasses import dataclass
from pathlib import Path

from llm_proxy.settings.variable import (
    ListenAddress,
    address,
    boolean,
    choice,
    duration,
    file_path,
    integer,
    setting,
    size,
    text,
    words,
)


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """What is captured, and the bus that carries it."""

    bus: str = setting(
        "LLM_PROXY_EVENT_BUS",
        choice("in-memory", "redis-streams", "redis", aliases={"memory": "in-memory"}),
        "in-memory",
        "in-memory, redis-streams or redis.",
    )
    required: bool = setting("LLM_PROXY_EVENTS_REQUIRED", boolean, "false", "Refuse requests rather than lose events.")
    spool_dir: str | None = setting(
        "EVENT_SPOOL_DIR", text, None, "Folder for events while Redis is unavailable; empty = none.", empty=""
    )
    spool_max_bytes: int = setting("EVENT_SPOOL_MAX_BYTES", size("1MB"), "256MB", "Room of the spool, for the machine.")
    file_log: Path | None = setting("FILE_EVENT_LOG", file_path, None, "File that each worker writes its events to.")
    log_binary_responses: bool = setting(
        "LOG_BINARY_RESPONSES", boolean, "false", "Keep binary bodies, as base64, in that file."
    )
    observability_enabled: bool = setting("OBSERVABILITY_ENABLED", boolean, "true", "Deprecated, without effect.")
    buffer_size: int = setting("OBSERVABILITY_BUFFER_SIZE", integer(1), "1000", "Events that a worker queues.")
    buffer_bytes: int = setting(
        "OBSERVABILITY_BUFFER_BYTES", size("1MB"), "64MB", "Bytes of events that a worker queues."
    )
    max_request_body_bytes: int = setting(
        "OBSERVABILITY_MAX_REQUEST_BODY_BYTES", integer(-(2**31), 2**31), "65536", "Kept of a request body."
    )
    max_response_body_bytes: int = setting(
        "OBSERVABILITY_MAX_RESPONSE_BODY_BYTES", integer(-(2**31), 2**31), "262144", "Kept of a response body."
    )
    capture_bodies: str = setting(
        "OBSERVABILITY_CAPTURE_BODIES", choice("all", "none"), "all", "Whether bodies are captured."
    )
    stream_key: str = setting("REDIS_STREAM_KEY", text, "llm-proxy-events", "The stream.")
    consumer_group: str = setting("REDIS_CONSUMER_GROUP", text, "llm-proxy-dispatchers", "Consumer group.")
    consumer_name: str | None = setting("REDIS_CONSUMER_NAME", text, None, "Unset: made up.")
    stream_max_len: int = setting("REDIS_STREAM_MAX_LEN", integer(0), "10000", "Delivered entries kept; 0 = no limit.")
    stream_block_time_s: float = setting(
        "REDIS_STREAM_BLOCK_TIME", duration("0s", "10m"), "5s", "Wait of a read; 0 = poll."
    )
    stream_claim_time_s: float = setting(
        "REDIS_STREAM_CLAIM_TIME", duration("100ms", "24h"), "30s", "Idle time before another may take an entry."
    )
    stream_batch_size: int = setting("REDIS_STREAM_BATCH_SIZE", integer(1, 100_000), "100", "Entries per read.")
    stream_trim_acked: bool = setting(
        "REDIS_STREAM_TRIM_ACKED", boolean, "false", "The dispatcher trims all delivered entries."
    )
    list_key: str = setting("REDIS_LIST_KEY", text, "llm-proxy-events:list", "The list bus.")


@dataclass(frozen=True, kw_only=True)
class DispatcherSettings:
    """The dispatcher process. `llm-proxy dispatcher` has a flag for most."""

    service: str = setting("DISPATCHER_SERVICE", text, "file", "Back end.")
    endpoint: str | None = setting("DISPATCHER_ENDPOINT", text, None, "URL or path of the back end.")
    fallback_endpoint: str | None = setting("LLM_PROXY_ENDPOINT", text, None, "Fallback of DISPATCHER_ENDPOINT.")
    api_key: str | None = setting("LLM_PROXY_API_KEY", text, None, "Key of the back end.", secret=True)
    buffer: int = setting("DISPATCHER_BUFFER", integer(1, 1_000_000), "1000", "Events held unacknowledged.")
    buffer_bytes: int = setting("DISPATCHER_BUFFER_BYTES", size("1MB"), "64MB", "Bytes of events held.")
    batch_size: int = setting("DISPATCHER_BATCH_SIZE", integer(1, 100_000), "100", "Events per delivery.")
    detach: bool = setting("DISPATCHER_DETACH", boolean, "false", "Run in the background.")
    flush_interval_s: float = setting(
        "DISPATCHER_FLUSH_INTERVAL", duration("10ms", "1h"), "5s", "Oldest event of a batch."
    )
    retry_attempts: int = setting("DISPATCHER_RETRY_ATTEMPTS", integer(0, 100), "3", "Retries of a batch.")
    retry_backoff_s: float = setting(
        "DISPATCHER_RETRY_BACKOFF", duration("1ms", "10m"), "1s", "First pause between tries."
    )
    timeout_s: float = setting("DISPATCHER_TIMEOUT", duration("100ms", "10m"), "30s", "Total limit of a send.")
    concurrency: int = setting("DISPATCHER_CONCURRENCY", integer(1, 100), "4", "Parallel posts to Helicone.")
    health_addr: ListenAddress | None = setting(
        "DISPATCHER_HEALTH_ADDR", address, ":9090", "Probes and metrics; empty = none.", empty=None
    )
    verbose: bool = setting("LLM_PROXY_DISPATCHER_VERBOSE", boolean, "false", "Send response header fields along.")
    methods: tuple[str, ...] = setting("DISPATCHER_METHODS", words, "POST", "Methods that are forwarded.")
    max_deliveries: int = setting(
        "DISPATCHER_MAX_DELIVERIES", integer(1, 1_000_000), "20", "Failures before a dead letter."
    )
    dead_letter_max_len: int = setting("DISPATCHER_DEAD_LETTER_MAX_LEN", integer(1), "10000", "Dead letters kept.")
    shutdown_timeout_s: float = setting(
        "DISPATCHER_SHUTDOWN_TIMEOUT", duration("0s", "10m"), "20s", "To finish after SIGTERM."
    )
    estimate_tokens: bool = setting(
        "DISPATCHER_ESTIMATE_TOKENS", boolean, "true", "Estimate tokens that the provider does not report."
    )
    file_max_bytes: int = setting("DISPATCHER_FILE_MAX_BYTES", size(), "0", "Rotate the file at this size; 0 = off.")
