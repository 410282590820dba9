"""Exact totals of large lists, kept for some seconds."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

LONG_S: Final = 0.02  # a total that takes longer to count is kept
KEPT_S: Final = 10.0
MOST: Final = 200


class KeptTotals:
    """Exact totals that took long to count, for some seconds: pages of a list need the same one.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, int]] = {}

    def of(self, key: Hashable) -> "KeptTotal":
        """Return the place of one list's total."""
        at, total = self._kept.get(key, (float("-inf"), 0))
        known = total if self._clock() - at < KEPT_S else None
        return KeptTotal(known, self._clock(), lambda total: self._keep(key, total), self._clock)

    def _keep(self, key: Hashable, total: int) -> None:
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[key] = (self._clock(), total)


@dataclass(frozen=True, slots=True)
class KeptTotal:
    """A total that may be known already; `keep` remembers one that took long since `began`."""

    known: int | None
    began: float
    _keep: Callable[[int], None]
    _clock: Callable[[], float]

    def keep(self, total: int) -> None:
        """Remember the total if counting it took long."""
        if self.known is None and self._clock() - self.began > LONG_S:
            self._keep(total)
