"""The bench's figures beside each other: what is noise, what a feature costs, and what became worse."""

from typing import Any

import pytest
from bench.comparing import AGAIN, BASE, prices, regressions


def report(cpu_us: float, **more: Any) -> dict[str, Any]:
    """A report with one contestant."""
    return {"contestants": {"llm-proxy": {"cpu_us_per_request": cpu_us}}, **more}


def test_a_price_within_the_noise_is_no_price() -> None:
    """Pairs of the same build span 10 %: a row whose pairs all lie above that costs something, another does not."""
    found = prices({BASE: [100, 100, 100], AGAIN: [90, 100, 110], "dear": [130, 120, 140], "cheap": [105, 95, 120]})
    assert found["noise_percent"] == pytest.approx(10)
    assert found["rows"]["dear"]["price_percent"] == pytest.approx(30)
    beyond = {name: row["is_beyond_noise"] for name, row in found["rows"].items()}
    assert beyond == {BASE: False, AGAIN: False, "dear": True, "cheap": False}


@pytest.mark.parametrize(("now", "is_worse"), [(104, False), (106, True), (50, False)])
def test_a_figure_is_worse_beyond_five_percent(now: float, is_worse: bool) -> None:
    """Processes of one build differ by as much."""
    assert bool(regressions(report(100), report(now))) is is_worse


def test_measured_noise_widens_the_bound() -> None:
    """Whichever of the two reports measured it."""
    noisy = {"features": {"noise_percent": 20.0, "rows": {}}}
    assert regressions(report(100), report(115)) != []
    assert regressions(report(100, **noisy), report(115)) == []
    assert regressions(report(100), report(115, **noisy)) == []


def test_a_regression_names_figure_and_both_values() -> None:
    """Contestants, streams and features alike; what the old report has not is not compared."""
    old = {
        "contestants": {"a": {"streams_200": {"cpu_us_per_event": 50.0}}},
        "features": {"noise_percent": 1.0, "rows": {"b": {"cpu_us_per_request": 100.0}}},
    }
    new = {
        "contestants": {"a": {"streams_200": {"cpu_us_per_event": 60.0}}},
        "features": {"noise_percent": 1.0, "rows": {n: {"cpu_us_per_request": 200.0} for n in ("b", "c")}},
    }
    assert regressions(old, new) == [
        "a, 200 streams: CPU µs/event: 50 → 60 (+20 %, noise 5 %)",
        "feature b: CPU µs/request: 100 → 200 (+100 %, noise 5 %)",
    ]
