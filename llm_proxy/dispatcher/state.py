"""How a dispatcher is doing: counts, states and what the probes say of them."""

import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from llm_proxy.dispatcher.options import Options
from llm_proxy.dispatcher.series import Series
from llm_proxy.events.bus import SourceStats

REFRESH_S = 10.0
_LIVE_S = 60.0
_REDIS_AWAY_S = 60.0
_STALLED_S = 300.0
_MOST_LAG = 10_000
_RECENT_S = 300.0
_EXPECTED_CALL_S = 30.0


class State:
    """The facts of one dispatcher. `now` arguments are of the monotonic clock."""

    def __init__(self, options: Options, series: Series) -> None:
        self._options, self.series = options, series
        now = time.monotonic()
        self._turned_at = now
        self._progress_at = now  # something was processed, or there was nothing to do
        self._redis_down_since: float | None = now
        self._dead_at = self._trimmed_at = -_RECENT_S
        self._window: deque[tuple[float, int]] = deque([(now, 0)], maxlen=7)
        self.processed = self.sent = self.dropped = 0
        self.last_processed_at: datetime | None = None
        self.last_error: str | None = None
        self.held_by: str | None = None
        self.is_open = False
        self.is_stopping = False
        self.stats = SourceStats()
        self.rate = 0.0
        series.up.set(0)
        series.held.set(0)

    # -- what happens ------------------------------------------------------------------------------------------------

    def turned(self) -> None:
        """Note that the loop is alive."""
        self._turned_at = time.monotonic()

    def redis_is_up(self) -> None:
        """Note that a command was answered."""
        self._redis_down_since = None
        self.series.up.set(1)

    def redis_is_down(self, error: str) -> None:
        """Note that a command failed."""
        if self._redis_down_since is None:
            self._redis_down_since = time.monotonic()
        self.last_error = error
        self.series.up.set(0)

    def count_processed(self, events: int) -> None:
        """Events were made into payloads, or dealt with otherwise."""
        self.processed += events
        self.series.processed.inc(events)
        self._progress_at = time.monotonic()
        self.last_processed_at = datetime.now(UTC)

    def count_sent(self, events: int) -> None:
        """Count events that the service accepted."""
        self.sent += events
        self.series.sent.inc(events)
        self.series.last_success.set(time.time())
        self._progress_at = time.monotonic()
        self.set_held(None)

    def count_dead(self, reason: str) -> None:
        """Count an event that was given up.

        A service that judges single events (`rejected`) has taken key and address.
        """
        self.series.dead_lettered[reason].inc()
        if reason == "rejected":
            self.set_held(None)
        self._dead_at = time.monotonic()

    def set_held(self, reason: str | None) -> None:
        """Set whether the configuration keeps events from being accepted; None: no longer."""
        self.held_by = reason
        self.series.held.set(1 if reason else 0)
        if reason:
            self.last_error = reason

    def take(self, stats: SourceStats) -> None:
        """Take new figures of the bus."""
        now = time.monotonic()
        if stats.trimmed > self.stats.trimmed:
            new = stats.trimmed - self.stats.trimmed
            self.dropped += new
            self.series.trimmed.inc(new)
            self._trimmed_at = now
        if not stats.lag:
            self._progress_at = now
        self.stats = stats
        since, before = self._window[-1]
        if now > since:
            self.rate = (self.processed - before) / (now - since)
        self._window.append((now, self.processed))
        series = self.series
        series.pending.set(stats.pending)
        series.lag.set(stats.lag)
        series.stream_length.set(stats.length)
        series.oldest_pending_seconds.set(stats.oldest_pending_s)

    # -- what is said ------------------------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether the loop has turned lately; a call to the service may take as long as it is allowed to."""
        allowed_s = _LIVE_S + max(0.0, self._options.dispatcher.timeout_s - _EXPECTED_CALL_S)
        return time.monotonic() - self._turned_at < allowed_s

    @property
    def unreadiness(self) -> str | None:
        """Why the dispatcher is not ready; None when it is."""
        if self.is_stopping:
            return "stopping"
        if not self.is_open or self._redis_down_since is not None:
            return "redis"
        return "held" if self.held_by else None

    def trouble(self) -> str | None:
        """Why it is unhealthy; None when it is not. Failing to read figures is no reason by itself."""
        now = time.monotonic()
        if self.stats.lag > _MOST_LAG:
            return f"High lag: {self.stats.lag}"
        if self.held_by:
            return f"Held: {self.held_by}"
        if self._redis_down_since is not None and now - self._redis_down_since > _REDIS_AWAY_S:
            return "Redis is unreachable"
        if self.stats.lag > 0 and now - self._progress_at > _STALLED_S:
            return "Nothing processed for 5 minutes"
        return None

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether it is fit, and the body of /health."""
        now = time.monotonic()
        trouble = self.trouble()
        message = trouble
        if message is None and now - self._trimmed_at < _RECENT_S:
            message = "Events were trimmed before they were delivered"
        if message is None and now - self._dead_at < _RECENT_S:
            message = "Events were given up in the last 5 minutes"
        status = "unhealthy" if trouble else "degraded" if message else "healthy"
        is_list = self._options.is_list
        report: dict[str, Any] = {
            "healthy": trouble is None,
            "status": status,
            "events_processed": self.processed,
            "events_dropped": self.dropped,
            "events_sent": self.sent,
            "processing_rate": round(self.rate, 3),
            "lag_count": self.stats.pending if is_list else self.stats.lag,
            "stream_length": self.stats.length,
            "last_processed_at": self.last_processed_at.isoformat() if self.last_processed_at else None,
            "lag_undelivered": self.stats.undelivered,
            "oldest_pending_seconds": round(self.stats.oldest_pending_s, 3),
            "last_error": self.last_error,
            "consumer": self._options.consumer,
            "group": None if is_list else self._options.events.consumer_group,
            "service": self._options.dispatcher.service,
        }
        if message is not None:
            report["message"] = message
        return trouble is None, report
