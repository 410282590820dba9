"""Metrics of the Python process, under their own names and under those of a Go program's dashboards.

The collector's callback adds to plain numbers; the counters follow when samples are taken.
"""

import gc
import time
from typing import Any

import gevent
from gevent import Greenlet

from llm_proxy.metrics import SAMPLER, counter, gauge, histogram

_LOOK_EACH_S = 5.0  # a look at all young objects takes about a millisecond
LAG_EACH_S = 0.05  # 20 samples a second cost 0.02 % of a core; whatever holds the loop for longer is always seen


GREENLETS = (
    gauge("llm_proxy_greenlets", "Live greenlets of all workers, begun since they serve."),
    gauge("llm_proxy_goroutines", "The same, by the name of Go's counterpart."),
)
RESIDENT = (
    gauge("llm_proxy_memory_heap_alloc_bytes", "Resident set of all workers; CPython keeps no heap figure."),
    gauge("llm_proxy_memory_heap_inuse_bytes", "The same."),
)
VIRTUAL = (
    gauge("llm_proxy_memory_heap_sys_bytes", "Virtual size of all workers; CPython keeps no heap figure."),
    gauge("llm_proxy_memory_sys_bytes", "The same."),
)
TOTAL_ALLOC_BYTES = counter(
    "llm_proxy_memory_total_alloc_bytes",
    "Sum of the increases of the resident set between samples: a lower bound of what was allocated.",
)
GC_RUNS = counter("llm_proxy_gc_runs_total", "Runs of the cyclic collector, all generations.")
GC_PAUSE_S = counter("llm_proxy_gc_pause_total_seconds", "Time that runs of the cyclic collector took.")
GC_COLLECTIONS = counter(
    "llm_proxy_gc_collections_total", "Runs of the cyclic collector by generation.", ["generation"]
)
CPU_S = counter("llm_proxy_cpu_seconds_total", "CPU time of all workers, user and system.")
LOOP_LAG = histogram(
    "llm_proxy_loop_lag_seconds",
    "How late a worker's event loop was, sampled 20 times a second; its timers are exact to 1 ms.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
_collections = tuple(GC_COLLECTIONS.labels(str(generation)) for generation in range(3))


class Runtime:
    """What this process has used so far."""

    def __init__(self) -> None:
        self._began = self._pause_s = self._cpu_s = 0.0
        self._runs = [0, 0, 0]
        self._resident = 0
        self._looked_at = float("-inf")
        self._greenlets = 0

    def collected(self, phase: str, info: dict[str, Any]) -> None:
        """`gc.callbacks`' protocol."""
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._pause_s += time.perf_counter() - self._began
            self._runs[info["generation"]] += 1

    def sample(self, virtual: int, resident: int) -> None:
        """Bring the metrics up to date. A look for greenlets is taken each 5 s."""
        for series in RESIDENT:
            series.set(resident)
        for series in VIRTUAL:
            series.set(virtual)
        TOTAL_ALLOC_BYTES.inc(max(0, resident - self._resident))
        self._resident = resident
        cpu_s = time.process_time()
        CPU_S.inc(max(0.0, cpu_s - self._cpu_s))
        self._cpu_s = cpu_s
        runs, self._runs = self._runs, [0, 0, 0]
        for child, number in zip(_collections, runs, strict=True):
            child.inc(number)
        GC_RUNS.inc(sum(runs))
        pause_s, self._pause_s = self._pause_s, 0.0
        GC_PAUSE_S.inc(pause_s)
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EACH_S:
            self._looked_at = now
            self._greenlets = list(map(type, gc.get_objects())).count(Greenlet)  # a third of a loop's price
        for series in GREENLETS:
            series.set(self._greenlets)


def watch_loop() -> Greenlet:
    """Sample how late this worker's event loop is; return the greenlet that does, for its end."""
    return gevent.spawn(_sample_lag)


def _sample_lag() -> None:
    while True:
        due_s = time.monotonic() + LAG_EACH_S
        gevent.sleep(LAG_EACH_S)
        LOOP_LAG.observe(max(0.0, time.monotonic() - due_s))


def watch() -> None:
    """Begin, once, in the process that serves."""
    runtime = Runtime()
    gc.callbacks.append(runtime.collected)
    SAMPLER.memory = runtime.sample
