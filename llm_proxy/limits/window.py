"""A sliding window out of two buckets: pure arithmetic.

Time is cut into buckets as long as the window. What counts is all of the running bucket, and of the one before it the
part that the window still overlaps: its content is taken to have come evenly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Window:
    """One limit as it applies to one request.

    Attributes:
        key: Whose window, without the bucket (`{id}`, `ip:{address}`, `tpm:{id}`).
        limit: Units in any time of `window_s`.
        window_s: Length in whole seconds.
        amount: Units to add; 0 only looks whether one is free.
        name: What the refusal calls it: `token`, `project`, `client` or `global`.
        unit: `requests` or `tokens`.
    """

    key: str
    limit: int
    window_s: int
    name: str
    amount: int = 1
    unit: str = "requests"


class Count(NamedTuple):
    """What a store holds of a window at one instant, which is the store's own."""

    current: int
    previous: int
    elapsed_s: float


class Verdict(NamedTuple):
    """`refused`: place of the first window without room, None when all have it; `found` is that window's."""

    refused: int | None
    found: Count | None


class Store(Protocol):
    """Counts of windows, shared by all users of the store."""

    def take(self, windows: Sequence[Window]) -> Verdict:
        """Add to all of them, or, when one is full, to none."""

    def add(self, windows: Sequence[Window]) -> None:
        """Add to all of them, full or not."""


ADMITTED = Verdict(None, None)


def bucket(now_s: float, window_s: int) -> tuple[int, float]:
    """Return the running bucket's first second since 1970, and how much of it has passed."""
    start = int(now_s // window_s) * window_s
    return start, now_s - start


def used(count: Count, window_s: int) -> float:
    """Units in the window that ends now."""
    return count.current + count.previous * (1.0 - count.elapsed_s / window_s)


def has_room(count: Count, window: Window) -> bool:
    """Whether one more unit (or the window's amount, if that is more) fits."""
    return used(count, window.window_s) + max(1, window.amount) <= window.limit


def free_after_s(count: Count, window: Window) -> float:
    """Seconds until a unit fits, if no other request takes it; at most two windows."""
    size, wanted = float(window.window_s), window.limit - max(1, window.amount)
    left = size - count.elapsed_s
    if count.current <= wanted:  # the part that goes is the previous bucket's
        if count.previous <= 0:
            return 0.0
        until = size * (1.0 - (wanted - count.current) / count.previous)
        return min(max(0.0, until - count.elapsed_s), left)
    if wanted < 0:
        return left + size
    return left + size * (1.0 - wanted / count.current)  # then the running bucket is the previous one


def retry_after_s(count: Count, window: Window) -> int:
    """Whole seconds for `Retry-After`, at least 1."""
    return max(1, math.ceil(free_after_s(count, window) - 1e-6))
