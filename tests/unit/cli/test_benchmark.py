"""The summary of a benchmark."""

from llm_proxy.cli.benchmark import Sample, summary


def test_benchmark_summary() -> None:
    """Ten samples of 1 to 10 ms: the figures can be worked out by hand."""
    samples = [Sample(200, number / 1000, number / 2000, number > 8) for number in range(1, 11)]
    value = summary([*samples, Sample(500, 1.0, None, False)], 2, 4, 2.0)
    assert value["latency_ms"] == {"avg": 5.5, "min": 1, "max": 10, "p90": 9, "p90_mean": 5, "p99": 10}
    assert value["upstream_latency_ms"]["max"] == 5
    assert value["proxy_latency_ms"]["avg"] == 2.75
    assert (value["success"], value["failed"], value["cache_hits"], value["requests_per_s"]) == (10, 3, 2, 6.5)
    assert value["statuses"] == {"200": 10, "500": 1}
