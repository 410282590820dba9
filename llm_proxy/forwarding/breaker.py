"""The circuit to the provider and the slots of running exchanges; one of each a worker.

Nothing here waits: an exchange is let through or refused at once.
"""

import math
import time
from collections.abc import Callable

from llm_proxy.errors import CircuitOpen, Overloaded

FAILURES_TO_OPEN = 5
COOL_DOWN_S = 30.0
SHARE_OF_CONNECTIONS = 0.9  # the rest is for probes, metrics and /manage


class CircuitBreaker:
    """Opens after 5 failures in a row, lets one probe through after the cool-down; its success closes the circuit.

    Args:
        now: Monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures = 0
        self._opened_s: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether exchanges are refused, or one is probing."""
        return self._opened_s is not None

    def enter(self) -> bool:
        """Let an exchange through; True when it is the probe. Raises CircuitOpen."""
        if self._opened_s is None:
            return False
        left_s = self._opened_s + COOL_DOWN_S - self._now()
        if left_s > 0 or self._is_probing:
            raise CircuitOpen(retry_after_s=max(1, math.ceil(left_s)))
        self._is_probing = True
        return True

    def leave(self, verdict: str, *, is_probe: bool = False) -> None:
        """Take an exchange's verdict: `fail`, `reset` or `neutral`.

        While the circuit is open only the probe's verdict counts: exchanges that were let through before it opened
        say nothing new. A neutral probe (its client left) makes way for another.
        """
        if is_probe:
            self._is_probing = False
        elif self._opened_s is not None:
            return
        if verdict == "reset":
            self._failures, self._opened_s = 0, None
        elif verdict == "fail":
            self._failures += 1
            if is_probe or self._failures >= FAILURES_TO_OPEN:
                self._opened_s = self._now()


class ConcurrencyLimit:
    """How many exchanges a worker runs at once.

    Args:
        limit: This worker's share of MAX_CONCURRENT_REQUESTS, and never more than 90 % of its connections; None for no
            limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.taken = 0

    def take(self) -> None:
        """Take one; give it back by `release`. Raises Overloaded."""
        if self.limit is not None and self.taken >= self.limit:
            raise Overloaded
        self.taken += 1

    def release(self) -> None:
        """Give one back."""
        self.taken -= 1


def slot_limit(max_concurrent: int, workers: int, worker_connections: int | None) -> int | None:
    """A worker's limit: its even share, at least 1, so that all together never run more than asked for.

    Args:
        max_concurrent: MAX_CONCURRENT_REQUESTS; 0 = no limit.
        workers: Worker processes that share it.
        worker_connections: Connections that the worker accepts; None where there is no such bound.
    """
    limits = []
    if max_concurrent:
        limits.append(max(1, max_concurrent // max(1, workers)))
    if worker_connections is not None:
        limits.append(max(1, int(worker_connections * SHARE_OF_CONNECTIONS)))
    return min(limits, default=None)
