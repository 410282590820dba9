"""Every metric: name, labels, help, and how the values of several worker processes become one.

With PROMETHEUS_MULTIPROC_DIR set (gunicorn's configuration sees to it) each process counts in memory-mapped files of
its own and a scrape adds them up. Children are made once, here: `labels()` on each request costs more than counting.
No metric carries a token, a project or a path.
"""

import contextlib
import fcntl
import os
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest, values
from prometheus_client import Counter as LibraryCounter
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

from llm_proxy.runtime import metric_files

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "other")
UPSTREAM_OUTCOMES = ("2xx", "3xx", "4xx", "5xx", "connect_error", "timeout", "aborted", "client_gone")
DISCONNECT_PHASES = ("before_dispatch", "before_first_byte", "mid_stream")
EVENT_LOSSES = ("spool_full", "buffer_full", "shutdown", "list_full", "file")
HOUSEKEEPING_JOBS = (
    "tokens_revoked",
    "tokens_deleted",
    "usage",
    "audit",
    "idempotency_keys",
    "usage_objects",
    "outcomes",
    "admin_sessions",
    "leases",
)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OWN_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()


def _count_without_lock() -> None:
    """Have values of several processes counted in 0.4 µs instead of 2.4, of which a request has ten.

    The library takes a lock and asks for the process id each time. Greenlets do not interrupt `inc`, and a fork is
    told: the first value that the child counts makes the library open files of the child's own for all of them.
    """
    base: Any = MultiProcessValue()  # type: ignore[no-untyped-call]
    pack_into = struct.Struct("dd").pack_into
    made: list[Any] = []

    class Value(base):  # type: ignore[misc]
        _value: float

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

        def inc(self, amount: float) -> None:
            self._value += amount
            file = self._file
            pack_into(file._m, file._positions[self._key], self._value, 0.0)

    values.ValueClass = Value
    os.register_at_fork(after_in_child=lambda: base.inc(made[0], 0) if made else None)


if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    metric_files.install()
    _count_without_lock()


class Counter(LibraryCounter):
    """The library's, without its look at labels that are missing and amounts below zero, which the proxy never uses."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count."""
        self._value.inc(amount)


class Histogram(LibraryHistogram):
    """The library's, with its bucket found by halving."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one more of this size."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)  # the last bound is infinite


counter, histogram = partial(Counter, registry=REGISTRY), partial(Histogram, registry=REGISTRY)
gauge = partial(Gauge, registry=REGISTRY, multiprocess_mode="livesum")  # what it counts is the sum over the workers

REQUESTS = counter("llm_proxy_requests_total", "Requests to the proxy, preflights left out.")
ERRORS = counter("llm_proxy_errors_total", "Proxied requests that ended with a status of 400 or above, or broken off.")
CACHE_HITS = counter("llm_proxy_cache_hits_total", "Responses served from the cache.")
CACHE_MISSES = counter("llm_proxy_cache_misses_total", "Look-ups without a usable stored response.")
CACHE_BYPASS = counter("llm_proxy_cache_bypass_total", "Requests that no stored response may serve.")
CACHE_STORES = counter("llm_proxy_cache_stores_total", "Responses written to the cache.")
MODEL_TOKENS = counter("llm_proxy_model_tokens_total", "Model tokens that the provider reported, by kind.", ["kind"])
COST_USD = counter("llm_proxy_cost_usd_total", "What they cost by the price list, in USD.")
UNPRICED = counter("llm_proxy_unpriced_requests_total", "Exchanges whose model has no price in the list.")
RATELIMIT_FALLBACK = gauge(
    "llm_proxy_ratelimit_fallback",
    "1 while limits are counted on each machine because Redis is unavailable.",
    multiprocess_mode="livemax",
)
CACHE_REVALIDATIONS = counter(
    "llm_proxy_cache_revalidations_total",
    "Stored responses that were validated with the provider, by result.",
    ["result"],
)
CACHE_BACKEND_ERRORS = counter(
    "llm_proxy_cache_backend_errors_total", "Failures of the store; each was a miss, or no store."
)
CACHE_EVICTIONS = counter("llm_proxy_cache_evictions_total", "Stored responses evicted to stay within the size limit.")
CACHE_STORED_BYTES = gauge(
    "llm_proxy_cache_stored_bytes",
    "What this machine's store holds; Redis counts its own.",
    multiprocess_mode="livemax",
)

UPSTREAM_REQUESTS = counter("llm_proxy_upstream_requests_total", "Exchanges with the provider by outcome.", ["outcome"])
PROVIDER_REQUESTS = counter(
    "llm_proxy_provider_requests_total",
    "Exchanges by provider and outcome, where several providers are served.",
    ["provider", "outcome"],
)
PROVIDER_MODEL_TOKENS = counter(
    "llm_proxy_provider_model_tokens_total",
    "Model tokens by provider and kind, where several providers are served.",
    ["provider", "kind"],
)
PROVIDER_COST_USD = counter(
    "llm_proxy_provider_cost_usd_total",
    "What they cost by provider, in USD, where several providers are served.",
    ["provider"],
)
REJECTED = counter("llm_proxy_rejected_total", "Requests refused before dispatch, by code.", ["code"])
DISCONNECTS = counter("llm_proxy_client_disconnects_total", "Clients that left early, by phase.", ["phase"])
FLUSH_FAILURES = counter("llm_proxy_usage_flush_failures_total", "Failed writes of token counts; they are tried again.")
AUDIT_FAILURES = counter("llm_proxy_audit_failures_total", "Audit records that a sink lost.", ["sink"])
LEASE_SWAPS = counter(
    "llm_proxy_lease_swaps_total", "Changes of tokens' leases in the database, by result.", ["result"]
)
QUOTA_WAITS = counter(
    "llm_proxy_quota_waits_total",
    "Requests that waited for a unit of a quota that others still held, by how it ended.",
    ["result"],
)
UNITS_SETTLED = counter(
    "llm_proxy_ledger_units_settled_total",
    "Units added to tokens' counts: by their owner, recovered from a dead worker, or lapsed with a silent one's slice.",
    ["by"],
)
HOUSEKEEPING_ROWS = counter(
    "llm_proxy_housekeeping_rows_total", "Rows revoked or deleted by housekeeping, by job.", ["job"]
)
DB_DURATION = histogram(
    "llm_proxy_db_duration_seconds", "Time of a database operation.", ["operation"], buckets=_OWN_SECONDS
)
EVENTS_PUBLISHED = counter("llm_proxy_events_published_total", "Events that the bus took.")
EVENTS_SPOOLED = counter("llm_proxy_events_spooled_total", "Events that went through the spool.")
EVENTS_DROPPED = counter("llm_proxy_events_dropped_total", "Events that were lost, by reason.", ["reason"])
EVENTS_QUEUED = gauge("llm_proxy_events_queued", "Events that wait in the workers' memory.")
EVENT_SPOOL_BYTES = gauge("llm_proxy_event_spool_bytes", "Bytes of events that wait on disk.")
REQUEST_DURATION = histogram(
    "llm_proxy_request_duration_seconds",
    "Time of a request from its first byte to the end of its response.",
    ["method", "status_class"],
    buckets=_SECONDS,
)
UPSTREAM_DURATION = histogram(
    "llm_proxy_upstream_duration_seconds", "Part of it spent waiting for the provider.", buckets=_SECONDS
)
OWN_DURATION = histogram(
    "llm_proxy_own_duration_seconds", "Total less upstream: the proxy's own share.", buckets=_OWN_SECONDS
)
FIRST_BYTE = histogram(
    "llm_proxy_time_to_first_byte_seconds", "Time to the head of the provider's response.", buckets=_SECONDS
)
REDIS_DURATION = histogram(
    "llm_proxy_redis_duration_seconds", "Time of Redis' responses, by use.", ["use"], buckets=_OWN_SECONDS
)
INFLIGHT = gauge("llm_proxy_inflight_requests", "Requests in the proxy now.")
STREAMS_OPEN = gauge("llm_proxy_streams_open", "Event streams being relayed now.")
WS_OPEN = gauge("llm_proxy_ws_open", "WebSockets open now.")
WS_TURNS = counter("llm_proxy_ws_turns_total", "Turns of WebSockets, by how they ended.", ["outcome"])
WS_BYTES = counter("llm_proxy_ws_bytes_total", "Bytes that WebSockets carried, by direction.", ["direction"])
WS_UNREAD = counter("llm_proxy_ws_unread_total", "Frames and messages of WebSockets that could not be read.")
CIRCUIT_OPEN = gauge("llm_proxy_circuit_open", "Workers whose circuit to the provider is open.")
WORKERS = gauge("llm_proxy_workers", "Worker processes that serve.")
RESIDENT_BYTES = gauge("llm_proxy_memory_resident_bytes", "Resident set of all workers.")
VIRTUAL_BYTES = gauge("llm_proxy_memory_virtual_bytes", "Virtual size of all workers.")
OPEN_FDS = gauge("llm_proxy_open_fds", "Open descriptors of all workers.")

ws_turns = {outcome: WS_TURNS.labels(outcome) for outcome in ("ok", "failed", "cut", "refused")}
ws_bytes = {direction: WS_BYTES.labels(direction) for direction in ("to_provider", "to_client")}
model_tokens = {kind: MODEL_TOKENS.labels(kind) for kind in ("prompt", "completion", "cached", "reasoning")}
cache_revalidations = {result: CACHE_REVALIDATIONS.labels(result) for result in ("fresh", "changed", "failed")}
upstream_requests = {outcome: UPSTREAM_REQUESTS.labels(outcome) for outcome in UPSTREAM_OUTCOMES}
audit_failures = {sink: AUDIT_FAILURES.labels(sink) for sink in ("file", "table", "queue")}
lease_swaps = {result: LEASE_SWAPS.labels(result) for result in ("done", "lost", "failed")}
quota_waits = {result: QUOTA_WAITS.labels(result) for result in ("unit", "refused", "timeout")}
units_settled = {by: UNITS_SETTLED.labels(by) for by in ("owner", "recovered", "lapsed", "mate", "silence")}
db_duration = {operation: DB_DURATION.labels(operation) for operation in ("read", "swap", "management")}
redis_duration = {use: REDIS_DURATION.labels(use) for use in ("bus", "cache", "limit")}
events_dropped = {reason: EVENTS_DROPPED.labels(reason) for reason in EVENT_LOSSES}
housekeeping_rows = {job: HOUSEKEEPING_ROWS.labels(job) for job in HOUSEKEEPING_JOBS}
client_disconnects = {phase: DISCONNECTS.labels(phase) for phase in DISCONNECT_PHASES}
_provider_requests: dict[tuple[str, str], Counter] = {}
_rejected: dict[str, Counter] = {}
_durations: dict[tuple[str, int], Histogram] = {}

_STARTED_AT = time.time()
_BOOT_FILE = "boot"  # its time of change is when the server was started
_LOCK_FILE = "lock"
_JSON_NAMES = {
    "llm_proxy_requests_total": "request_count",
    "llm_proxy_errors_total": "error_count",
    "llm_proxy_cache_hits_total": "cache_hits",
    "llm_proxy_cache_misses_total": "cache_misses",
    "llm_proxy_cache_bypass_total": "cache_bypass",
    "llm_proxy_cache_stores_total": "cache_stores",
}


def provider_requests(provider: str, outcome: str) -> Counter:
    """Return the child of PROVIDER_REQUESTS for a provider that is served and an outcome: both are closed sets."""
    child = _provider_requests.get((provider, outcome))
    if child is None:
        child = _provider_requests[provider, outcome] = PROVIDER_REQUESTS.labels(provider, outcome)
    return child


def rejected(code: str) -> Counter:
    """Return the child of REJECTED for an error code; codes are a closed set, so children are kept."""
    child = _rejected.get(code)
    if child is None:
        child = _rejected[code] = REJECTED.labels(code)
    return child


def request_duration(method: str, status: int) -> Histogram:
    """Return the child of REQUEST_DURATION for a method (unknown ones count as `other`) and a status."""
    key = (method, status // 100)
    child = _durations.get(key)
    if child is None:
        label = method if method in METHODS else "other"
        child = REQUEST_DURATION.labels(label, f"{status // 100}xx")
        if label == method:
            _durations[key] = child
    return child


class Sampler:
    """Gauges of this process, set from what is asked once a second and before a scrape."""

    def __init__(self) -> None:
        self._readings: list[tuple[Gauge, Callable[[], float]]] = []
        self.memory: Callable[[int, int], None] = lambda virtual, resident: None  # told at each sample

    def watch(self, gauge: Gauge, reading: Callable[[], float]) -> None:
        """Set the gauge from `reading` whenever samples are taken; one reading a gauge."""
        self._readings = [(known, read) for known, read in self._readings if known is not gauge]
        self._readings.append((gauge, reading))

    def sample(self) -> None:
        """Set all gauges now. About 60 µs."""
        for gauge, reading in self._readings:
            gauge.set(reading())
        virtual, resident = _memory_bytes()
        VIRTUAL_BYTES.set(virtual)
        RESIDENT_BYTES.set(resident)
        self.memory(virtual, resident)
        with contextlib.suppress(OSError):  # no /proc
            OPEN_FDS.set(len(os.listdir("/proc/self/fd")))
        WORKERS.set(1)
        metric_files.settle_all()


SAMPLER = Sampler()
_COUNTERS_BY_OTHER_NAMES = (b"llm_proxy_memory_total_alloc_bytes", b"llm_proxy_gc_pause_total_seconds")


def _memory_bytes() -> tuple[int, int]:
    """Virtual size and resident set of this process; zeros where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            virtual, resident = statm.read().split()[:2]
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(virtual) * page, int(resident) * page


def text() -> bytes:
    """All metrics in Prometheus' text format 0.0.4, summed over the workers."""
    SAMPLER.sample()
    with _locked(_folder(), fcntl.LOCK_SH):
        return _without_suffix(generate_latest(_scrape()))


def _without_suffix(text: bytes) -> bytes:
    """Two contracted names count, but do not end as counters do; so they have no type (`promtool check metrics`)."""
    for name in _COUNTERS_BY_OTHER_NAMES:
        text = text.replace(name + b"_total counter", name + b" untyped").replace(name + b"_total", name)
    return text


def totals() -> dict[str, float | int]:
    """Return the counts of `GET /metrics` with JSON, summed over the workers."""
    found: dict[str, float | int] = {"uptime_seconds": _uptime_s()} | dict.fromkeys(_JSON_NAMES.values(), 0)
    with _locked(_folder(), fcntl.LOCK_SH):
        for metric in _scrape().collect():
            for sample in metric.samples:
                if sample.name in _JSON_NAMES:
                    found[_JSON_NAMES[sample.name]] = int(sample.value)
    return found


def _folder() -> str | None:
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None


def _uptime_s() -> float:
    """Seconds since the server was started (not this worker)."""
    folder = _folder()
    try:
        started_at = os.stat(os.path.join(folder, _BOOT_FILE)).st_mtime if folder else _STARTED_AT
    except OSError:
        started_at = _STARTED_AT
    return max(0.0, time.time() - started_at)


class _Uptime(Collector):
    """The one gauge that is computed when it is asked for."""

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        yield GaugeMetricFamily("llm_proxy_uptime_seconds", "Seconds since the server was started.", value=_uptime_s())


def _scrape() -> CollectorRegistry:
    folder = _folder()
    registry = CollectorRegistry()
    if folder is None:
        for collector in list(REGISTRY._collector_to_names):
            registry.register(collector)
    else:
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(_Uptime())
    return registry


@contextlib.contextmanager
def _locked(folder: str | None, kind: int) -> Iterator[None]:
    """Hold the folder's lock: a scrape must not meet a file that is being folded away."""
    if folder is None or not os.path.isdir(folder):
        yield
        return
    descriptor = os.open(os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def clear_folder(path: str | Path) -> None:
    """Empty the folder at a server's start, and note the time; not in an upgrade, whose other master counts there."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(str(folder), fcntl.LOCK_EX):
        for file in folder.glob("*.db"):
            file.unlink(missing_ok=True)
        (folder / _BOOT_FILE).touch()
        os.utime(folder / _BOOT_FILE)


def fold_dead_worker(path: str | Path, pid: int) -> None:
    """Add a dead worker's counts to the file of all dead ones, so that the folder does not grow with each restart.

    Runs in the master, also after a `kill -9`; gauges of live workers go with their worker.
    """
    folder = str(path)
    if os.path.isdir(folder):
        with _locked(folder, fcntl.LOCK_EX):
            metric_files.fold(folder, pid)


_SETTLED_BEFORE = {"recovered": "mate", "lapsed": "silence"}  # earlier labels, kept for one release


def count_settled(by: str, units: int) -> None:
    """Count units that were added to a token's count; less than none is none."""
    if units > 0:
        units_settled[by].inc(units)
        if by in _SETTLED_BEFORE:
            units_settled[_SETTLED_BEFORE[by]].inc(units)
