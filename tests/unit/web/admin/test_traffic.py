"""Plots of traffic: steps, sums, and what the page's script draws."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_proxy.web.admin import traffic

NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)


def row(**values: Any) -> dict[str, Any]:
    """A step of a span."""
    nothing = {name: None if name.endswith("_ms") else 0 for name in traffic.COLUMNS}
    return {**nothing, "at": NOW, **values}


def test_steps_end_with_the_present_hour_or_day() -> None:
    """24 hours, 168 hours, or 30 UTC days without a gap."""
    day, week, month = (traffic.steps(span, NOW) for span in traffic.SPANS)
    assert (len(day), len(week), len(month)) == (24, 168, 30)
    assert day[-1] == week[-1] == datetime(2026, 3, 1, tzinfo=UTC)
    assert (month[0], month[-1]) == (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    assert {later - earlier for earlier, later in itertools.pairwise(week)} == {timedelta(hours=1)}


def test_a_summary_has_shares_of_what_there_was() -> None:
    """None, and no division by zero, where there was nothing."""
    found = traffic.summary(
        [
            row(requests=90, errors=9, refused=4, cache_hits=3, cache_misses=1, duration_p95_ms=700),
            row(requests=10, errors=1, duration_p95_ms=900, cost_usd=1.5),
        ]
    )
    assert (found["error_percent"], found["hit_percent"], found["duration_p95_ms"]) == (10.0, 75.0, 900)
    nothing = traffic.summary([row()])
    assert (nothing["error_percent"], nothing["hit_percent"], nothing["duration_p95_ms"]) == (None, None, None)


def test_plots_have_a_value_a_step() -> None:
    """Gaps are null, so that no line is drawn through hours without traffic."""
    plots = traffic.plots([row(requests=5, errors=3, refused=1, duration_p50_ms=80), row()])
    assert [plot["unit"] for plot in plots] == ["requests", "requests", "ms", "%", "USD", "tokens"]
    assert all(len(line["values"]) == 2 for plot in plots for line in plot["data"]["series"])
    errors, latency = plots[1]["data"]["series"], plots[2]["data"]["series"]
    assert [line["values"][0] for line in errors] == [2, 1]
    assert latency[0]["values"] == [80, None]
