"""operations.reconcile: usage and events are compared by provider where both sides name it."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.operations import reconcile

DAY = date(2026, 1, 2)


def compared(period: dict[tuple[str, str], int], events: dict[tuple[str, str], int]) -> reconcile.Report:
    """Compare requests by token and provider with events."""
    sums = {key: (requests, 10 * requests, requests) for key, requests in period.items()}
    return reconcile.compare([], [], {}, period=sums, events=events)


@pytest.mark.parametrize(
    ("period", "events", "differences"),
    [
        ({("t", "a"): 1, ("t", "b"): 1}, {("t", "a"): 1, ("t", "b"): 1}, []),
        ({("t", "a"): 2, ("t", "b"): 0}, {("t", "a"): 1, ("t", "b"): 1}, [("a", 1, 2), ("b", 1, 0)]),
        ({("t", ""): 1, ("t", "a"): 1}, {("t", "a"): 2}, []),
        ({("t", "a"): 2}, {("t", ""): 1}, [(None, 1, 2)]),
    ],
    ids=["agree", "another-provider", "usage-from-before", "events-without-provider"],
)
def test_events_and_usage_agree_by_provider(
    period: dict[tuple[str, str], int],
    events: dict[tuple[str, str], int],
    differences: list[tuple[str | None, int, int]],
) -> None:
    """A request that is counted with another provider is two differences; unnamed ones are compared in sum."""
    found = compared(period, events).differences
    assert [(one.provider, one.counter, one.usage) for one in found] == differences


def test_the_report_sums_by_provider() -> None:
    """Requests, model tokens and money of each provider over all tokens."""
    report = compared({("t", "a"): 1, ("u", "a"): 2, ("u", "b"): 4}, {})
    assert report.providers == {"a": (3, 30, 3), "b": (4, 40, 4)}


@pytest.mark.parametrize(
    "line",
    [
        {"token_id": "t", "timestamp": "2026-01-02T00:00:00Z", "provider": "a"},
        {"TokenID": "t", "Timestamp": "2026-01-02T00:00:00Z", "Provider": "a"},
        {"timestamp": "2026-01-02T00:00:00Z", "metadata": {"token_id": "t", "provider": "a"}},
    ],
    ids=["file", "bus", "dispatcher"],
)
def test_events_are_counted_by_provider(line: dict[str, Any], tmp_path: Path) -> None:
    """Each form of an event's line names token and provider."""
    path = tmp_path / "events"
    path.write_text(json.dumps(line))
    assert reconcile.event_counts(path, DAY, DAY) == {("t", "a"): 1}
