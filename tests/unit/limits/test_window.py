"""The sliding window's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.limits.window import Count, Window, bucket, free_after_s, has_room, retry_after_s, used

WINDOW = Window("k", 10, 60, "token")


@pytest.mark.parametrize(
    ("count", "is_used"),
    [
        (Count(0, 0, 0.0), 0),
        (Count(3, 10, 0.0), 13),
        (Count(3, 10, 30.0), 8),
        (Count(3, 10, 60.0), 3),
    ],
)
def test_the_bucket_before_counts_as_far_as_the_window_overlaps_it(count: Count, is_used: float) -> None:
    """The share of the previous bucket falls evenly."""
    assert used(count, 60) == is_used


def test_a_bucket_begins_at_a_multiple_of_its_length() -> None:
    """WindowStart is now floored to the window."""
    assert bucket(125.5, 60) == (120, 5.5)


@given(st.integers(0, 10), st.integers(0, 10), st.floats(0, 59.999))
def test_after_the_wait_there_is_room(current: int, previous: int, elapsed_s: float) -> None:
    """Retry-After is enough when no other request comes, and no more than two windows."""
    count = Count(current, previous, elapsed_s)
    wait_s = free_after_s(count, WINDOW)
    assert 0 <= wait_s <= 120
    then = elapsed_s + wait_s + 1e-3
    later = Count(current, previous, then) if then < 60 else Count(0, current if then < 120 else 0, then % 60)
    assert has_room(later, WINDOW)
    assert has_room(count, WINDOW) is (wait_s == 0)


def test_retry_after_is_at_least_a_second() -> None:
    """RFC 9110 §10.2.3: whole seconds."""
    assert retry_after_s(Count(10, 0, 59.9), WINDOW) >= 1
