"""The metrics that dashboards and alerts may count on: name → its own labels."""

import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "llm_proxy"
FROM_SCRAPING = {"job", "namespace", "pod", "instance", "le", "service", "container", "endpoint"}
_SUFFIX = re.compile(r"_(bucket|sum|count)$")

PROXY: dict[str, tuple[str, ...]] = {
    "llm_proxy_uptime_seconds": (),
    "llm_proxy_requests_total": (),
    "llm_proxy_errors_total": (),
    "llm_proxy_cache_hits_total": (),
    "llm_proxy_cache_misses_total": (),
    "llm_proxy_cache_bypass_total": (),
    "llm_proxy_cache_stores_total": (),
    "llm_proxy_goroutines": (),
    "llm_proxy_memory_heap_alloc_bytes": (),
    "llm_proxy_memory_heap_inuse_bytes": (),
    "llm_proxy_memory_heap_sys_bytes": (),
    "llm_proxy_memory_sys_bytes": (),
    "llm_proxy_memory_total_alloc_bytes": (),
    "llm_proxy_gc_runs_total": (),
    "llm_proxy_gc_pause_total_seconds": (),
    "llm_proxy_greenlets": (),
    "llm_proxy_memory_resident_bytes": (),
    "llm_proxy_memory_virtual_bytes": (),
    "llm_proxy_gc_collections_total": ("generation",),
    "llm_proxy_request_duration_seconds": ("method", "status_class"),
    "llm_proxy_upstream_duration_seconds": (),
    "llm_proxy_own_duration_seconds": (),
    "llm_proxy_time_to_first_byte_seconds": (),
    "llm_proxy_upstream_requests_total": ("outcome",),
    "llm_proxy_rejected_total": ("code",),
    "llm_proxy_inflight_requests": (),
    "llm_proxy_streams_open": (),
    "llm_proxy_client_disconnects_total": ("phase",),
    "llm_proxy_events_published_total": (),
    "llm_proxy_events_dropped_total": ("reason",),
    "llm_proxy_events_spooled_total": (),
    "llm_proxy_events_queued": (),
    "llm_proxy_event_spool_bytes": (),
    "llm_proxy_usage_flush_failures_total": (),
    "llm_proxy_cache_backend_errors_total": (),
    "llm_proxy_cache_revalidations_total": ("result",),
    "llm_proxy_cache_stored_bytes": (),
    "llm_proxy_cache_evictions_total": (),
    "llm_proxy_circuit_open": (),
    "llm_proxy_ratelimit_fallback": (),
    "llm_proxy_db_duration_seconds": ("operation",),
    "llm_proxy_redis_duration_seconds": ("use",),
    "llm_proxy_workers": (),
    "llm_proxy_ws_bytes_total": ("direction",),
    "llm_proxy_ws_open": (),
    "llm_proxy_ws_turns_total": ("outcome",),
    "llm_proxy_ws_unread_total": (),
    "llm_proxy_loop_lag_seconds": (),
    "llm_proxy_open_fds": (),
    "llm_proxy_cpu_seconds_total": (),
    "llm_proxy_lease_swaps_total": ("result",),
    "llm_proxy_quota_waits_total": ("result",),
    "llm_proxy_ledger_units_settled_total": ("by",),
    "llm_proxy_model_tokens_total": ("kind",),
    "llm_proxy_cost_usd_total": (),
    "llm_proxy_unpriced_requests_total": (),
    "llm_proxy_audit_failures_total": ("sink",),
    "llm_proxy_housekeeping_rows_total": ("job",),
}
DISPATCHER: dict[str, tuple[str, ...]] = {
    **{
        f"llm_proxy_dispatcher_events_{what}_total": ("service",)
        for what in ("received", "processed", "sent", "filtered", "trimmed")
    },
    "llm_proxy_dispatcher_events_dead_lettered_total": ("service", "reason"),
    "llm_proxy_dispatcher_retries_total": ("service", "class"),
    "llm_proxy_dispatcher_send_seconds": ("service",),
    "llm_proxy_dispatcher_batch_events": ("service",),
    "llm_proxy_dispatcher_pending": ("service",),
    "llm_proxy_dispatcher_lag": ("service",),
    "llm_proxy_dispatcher_stream_length": ("service",),
    "llm_proxy_dispatcher_oldest_pending_seconds": ("service",),
    "llm_proxy_dispatcher_held": ("service",),
    "llm_proxy_dispatcher_last_success_timestamp_seconds": ("service",),
    "llm_proxy_dispatcher_up": ("service",),
}
# Contracted metrics that panels ask for and this version does not have yet.
AWAITED: set[str] = set()
REDIS_EXPORTER = {
    "redis_up",
    "redis_connected_clients",
    "redis_blocked_clients",
    "redis_memory_used_bytes",
    "redis_memory_max_bytes",
    "redis_commands_processed_total",
    "redis_keyspace_hits_total",
    "redis_keyspace_misses_total",
    "redis_evicted_keys_total",
    "redis_expired_keys_total",
    "redis_stream_length",
    "redis_stream_group_lag",
    "redis_stream_group_messages_pending",
}


def known() -> set[str]:
    """Every name of the program's own."""
    return {*PROXY, *DISPATCHER}


def base(name: str) -> str:
    """The metric that a sample's name belongs to (histograms have three)."""
    cut = _SUFFIX.sub("", name)
    return cut if cut in known() else name


def asked_for(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels matched on) of every selector in a PromQL expression."""
    for name, matchers in re.findall(r"\b((?:llm_proxy|redis)_[a-z0-9_]+)(?:\{([^}]*)\})?", expression):
        yield base(name), set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))


def in_source() -> set[str]:
    """Names that the program's source states in full, and those of the dispatcher's own registry."""
    from llm_proxy.dispatcher.series import Series

    families = [family for family in Series("file").registry.collect() if family.name.startswith("llm_proxy_")]
    dispatcher = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    stated = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"[\"'](llm_proxy_[a-z0-9_]+)[\"']", path.read_text())
    }
    return stated | dispatcher
