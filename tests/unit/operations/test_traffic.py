"""Sums of traffic: the row of all projects, and latencies out of classes."""

import pytest

from llm_proxy.db.models.traffic import BOUNDS_MS, SUMMED
from llm_proxy.operations.traffic import ALL, with_all
from llm_proxy.operations.traffic_log import quantile


def sums(requests: int) -> list[int]:
    """A row with that many requests."""
    return [requests, *[0] * (len(SUMMED) - 1)]


def test_all_projects_are_one_row_more_an_hour() -> None:
    """Requests without a project are in it alone."""
    rows = with_all({("a", 1): sums(2), ("b", 1): sums(3), (ALL, 1): sums(1), ("a", 2): sums(5)})
    assert {key: row[0] for key, row in rows.items()} == {
        (ALL, 1): 6, ("a", 1): 2, ("b", 1): 3, (ALL, 2): 5, ("a", 2): 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "share", "expected"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 50),
        ({0: 1, 3: 9}, 0.5, 722),  # 4 of the 9 between 500 and 1000 ms
        ({2: 100}, 0.95, 488),
        ({9: 4}, 0.5, 60_000),
        ({0: 95, 9: 5}, 0.95, 100),
    ],
)
def test_a_latency_is_found_within_its_class(classes: dict[int, int], share: float, expected: int | None) -> None:
    """By a straight line; the open class is its bound."""
    numbers = [classes.get(place, 0) for place in range(len(BOUNDS_MS) + 1)]
    assert quantile(numbers, share) == expected
