"""The circuit breakers of the way to the provider, and the slots of running exchanges; one of each a worker.

Nothing here waits: an exchange is let through or refused at once.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from llm_proxy.errors import CircuitOpen, Overloaded
from llm_proxy.settings import UpstreamSettings

SHARE_OF_CONNECTIONS = 0.9  # the rest is for probes, metrics and /manage
_MOMENT_S = 1.0  # connections that break within it are one failure: a blip with many in flight is no outage
KNOWN_SCOPES = 512  # clients name models: what is remembered about them is bounded

Scope = tuple[str, str]  # an endpoint of the provider and a model, empty where the request names none


class Circuit:
    """One circuit: opens after failures in a row, lets one probe through after a pause; its success closes it."""

    __slots__ = ("_failed", "_failures", "_is_probing", "_moment_s", "_now", "_open_s", "_opened_s", "_window_s")

    def __init__(self, settings: UpstreamSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._failures, self._open_s = settings.circuit_breaker_failures, settings.circuit_breaker_open_s
        self._window_s, self._now = settings.circuit_breaker_window_s or math.inf, now
        # a short window has room for twice the failures that open it
        self._moment_s = min(_MOMENT_S, self._window_s / (2 * max(1, self._failures)))
        self._failed: deque[float] = deque(maxlen=max(1, self._failures))
        self._opened_s: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether exchanges are refused, or one is probing."""
        return self._opened_s is not None

    @property
    def is_clean(self) -> bool:
        """Whether nothing is known against it."""
        return self._opened_s is None and not self._failed

    def enter(self) -> bool:
        """Let an exchange through; True when it is the probe. Raises CircuitOpen."""
        if self._opened_s is None:
            return False
        left_s = self._opened_s + self._open_s - self._now()
        if left_s > 0 or self._is_probing:
            raise CircuitOpen(retry_after_s=max(1, math.ceil(left_s)))
        self._is_probing = True
        return True

    def succeeded(self, *, is_probe: bool = False) -> None:
        """Record a success. While the circuit is open only the probe's counts: others were let through before."""
        if is_probe or self._opened_s is None:
            self._is_probing, self._opened_s = False, None
            self._failed.clear()

    def failed(self, *, is_probe: bool = False) -> None:
        """Record a failure; a probe's opens the circuit again."""
        if not is_probe and self._opened_s is not None:
            return
        now = self._now()
        self._is_probing = False
        self._failed.append(now)
        is_full = len(self._failed) == self._failures and now - self._failed[0] <= self._window_s
        if is_probe or is_full:
            self._opened_s = now

    def broke(self, *, is_probe: bool = False) -> None:
        """Record a connection that broke before its response: one failure a moment, however many break in it."""
        if is_probe or not self._failed or self._now() - self._failed[-1] >= self._moment_s:
            self.failed(is_probe=is_probe)

    def abandoned(self) -> None:
        """Release the probe's place: it ended without a verdict, its client left for one."""
        self._is_probing = False


@dataclass(slots=True)
class Probe:
    """Which open circuits an exchange probes."""

    is_of_provider: bool = False
    is_of_scope: bool = False

    @property
    def is_any(self) -> bool:
        """Whether it probes one."""
        return self.is_of_provider or self.is_of_scope


NO_PROBE = Probe()


class CircuitBreaker:
    """The circuits of one provider: one for the host, and one for each endpoint and model.

    A connection that can't be made closes the way to the host. What an endpoint or a model does - no response in time,
    502, 503, 504 - closes the way to it alone. Connections that break before the response count once a second, or more
    often where the window is short, and a response that broke off is no verdict.

    Args:
        now: Monotonic clock in seconds.

    Attributes:
        knows_failures: Whether there is anything to ask it, or a success could change.
    """

    def __init__(self, settings: UpstreamSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._now = settings, now
        self._is_off = settings.circuit_breaker_failures == 0
        self.knows_failures = False
        self._host = Circuit(settings, now)
        self._by_scope: OrderedDict[Scope, Circuit] = OrderedDict()  # with failures alone, the latest last

    @property
    def is_open(self) -> bool:
        """Whether any of the circuits is open."""
        return self._host.is_open or any(circuit.is_open for circuit in self._by_scope.values())

    def enter(self, scope: Callable[[], Scope]) -> Probe:
        """Let an exchange through; `scope` is asked only where failures are known. Raises CircuitOpen."""
        if not self._by_scope and not self._host.is_open:
            return NO_PROBE
        probe = Probe(is_of_provider=self._host.enter())
        try:
            circuit = self._by_scope.get(scope()) if self._by_scope else None
            probe.is_of_scope = circuit is not None and circuit.enter()
        except BaseException:
            if probe.is_of_provider:
                self._host.abandoned()
            raise
        return probe

    def leave(self, verdict: str, scope: Callable[[], Scope], probe: Probe = NO_PROBE) -> None:
        """Take an exchange's verdict: `unreachable`, `fail`, `broke`, `reset` or `neutral`."""
        if self._is_off:
            return
        if verdict == "reset" and self._host.is_clean and not self._by_scope:
            return
        if verdict == "unreachable":
            self._host.failed(is_probe=probe.is_of_provider)
        elif probe.is_of_provider and verdict == "neutral":
            self._host.abandoned()
        elif verdict != "neutral":
            self._host.succeeded(is_probe=probe.is_of_provider)  # it was reached
        self._leave_scope(verdict, scope(), probe)
        self.knows_failures = bool(self._by_scope) or not self._host.is_clean

    def _leave_scope(self, verdict: str, scope: Scope, probe: Probe) -> None:
        circuit = self._by_scope.get(scope)
        if verdict in ("fail", "broke"):
            if circuit is None:
                circuit = self._by_scope[scope] = Circuit(self._settings, self._now)
                if len(self._by_scope) > KNOWN_SCOPES:
                    self._by_scope.popitem(last=False)
            self._by_scope.move_to_end(scope)
            record = circuit.failed if verdict == "fail" else circuit.broke
            record(is_probe=probe.is_of_scope)
        elif circuit is not None:
            if verdict == "reset":
                circuit.succeeded(is_probe=probe.is_of_scope)
                if circuit.is_clean:
                    del self._by_scope[scope]
            elif probe.is_of_scope:
                circuit.abandoned()


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
    """Return a worker's limit: its even share, at least 1, so that all together never run more than asked for.

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
