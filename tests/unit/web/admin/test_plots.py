"""Plots of traffic and of a token's endings: steps, sums, and what the page's script draws."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_proxy.web.admin import token_outcomes, traffic

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


def test_endings_are_grouped_by_kind() -> None:
    """A line for each kind that there was; a code that is not known is another kind."""
    rows = [
        {"hour": "2026-02-28T23:00:00Z", "code": "ok", "requests": 4},
        {"hour": "2026-02-28T23:00:00Z", "code": "cache_hit", "requests": 1},
        {"hour": "2026-03-01T00:00:00Z", "code": "cost_budget_exceeded", "requests": 2},
        {"hour": "2026-03-01T00:00:00Z", "code": "made_up", "requests": 9},
        {"hour": "2025-01-01T00:00:00Z", "code": "ok", "requests": 7},
    ]
    series = token_outcomes.plot(rows, NOW)["data"]["series"]
    assert [line["label"] for line in series] == ["Ok", "Over a limit", "Other"]
    assert [line["values"][-2:] for line in series] == [[5, 0], [0, 2], [0, 9]]
    assert token_outcomes.totals(rows)[0] == {"code": "ok", "kind": "Ok", "requests": 11}


def test_every_refusal_has_a_meaning() -> None:
    """Codes of tokens, projects and limits are explained in words."""
    for code in ("token_expired", "token_inactive", "project_inactive", "rate_limit_exceeded", "cost_budget_exceeded"):
        assert " " in token_outcomes.MEANINGS[code]
