"""Metrics of the Python process."""

import time

import gevent
from prometheus_client import generate_latest

from llm_proxy import metrics, runtime_metrics


def value(name: str) -> float:
    """A sample of this process."""
    found = metrics.REGISTRY.get_sample_value(name)
    assert found is not None, name
    return found


def test_a_process_tells_what_it_used() -> None:
    """Runs of the collector, CPU time and the growth of the resident set since the last sample."""
    runtime = runtime_metrics.Runtime()
    runtime.sample(10_000, 4_000)
    before = value("llm_proxy_gc_runs_total"), value("llm_proxy_memory_total_alloc_bytes_total")
    for phase in ("start", "stop"):  # gc.callbacks' protocol
        runtime.collected(phase, {"generation": 2})
    runtime.sample(10_000, 7_000)
    runtime.sample(9_000, 5_000)
    assert value("llm_proxy_gc_runs_total") - before[0] == 1
    assert value("llm_proxy_memory_total_alloc_bytes_total") - before[1] == 3_000
    assert value("llm_proxy_memory_heap_alloc_bytes") == 5_000
    assert value("llm_proxy_memory_sys_bytes") == 9_000
    assert value("llm_proxy_cpu_seconds_total") > 0
    assert value("llm_proxy_gc_pause_total_seconds_total") > 0


def test_contracted_names_are_told_to_the_letter() -> None:
    """Two names of the ordering document count without a counter's ending."""
    text = metrics._without_suffix(generate_latest(metrics.REGISTRY)).decode()
    for name in ("llm_proxy_memory_total_alloc_bytes", "llm_proxy_gc_pause_total_seconds"):
        assert f"# TYPE {name} untyped\n" in text
        assert f"\n{name} " in text
        assert f"{name}_total" not in text


def test_what_holds_the_loop_shows_as_lag() -> None:
    """A callback that keeps the loop for 0.2 s: a sample of more than 0.1 s, and none that long without one."""
    name = "llm_proxy_loop_lag_seconds_bucket"

    def late() -> float:
        at_most = metrics.REGISTRY.get_sample_value(name, {"le": "0.1"}) or 0.0
        return (metrics.REGISTRY.get_sample_value(name, {"le": "+Inf"}) or 0.0) - at_most

    before = late()
    watching = runtime_metrics.watch_loop()
    try:
        gevent.sleep(0)  # its wait begins
        time.sleep(runtime_metrics.LAG_EACH_S + 0.2)  # not patched here: it holds the loop
        with gevent.Timeout(5):
            while late() == before:
                gevent.sleep(0.01)
    finally:
        watching.kill()
    assert late() - before == 1
