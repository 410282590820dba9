"""What a worker knows about its database itself: whether it answers, and what time it says it is."""

import time
from collections.abc import Callable
from datetime import UTC, datetime


class DatabaseHealth:
    """One a worker, shared by all parts that ask the database for requests.

    `is_down` is set by a connection that could not be made or a sync that failed, and cleared by the next sync's
    success alone: requests are refused at once meanwhile, and neither wait for it nor keep it set.

    Expiry and times of use are judged by the database's clock, so that replicas whose clocks differ agree. Until it is
    known, this machine's is used.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.is_down = False
        self._down_since = 0.0
        self.offset_s = time.time() - clock()

    def failed(self) -> None:
        """Note that a connection or a sync failed."""
        if not self.is_down:
            self._down_since = self.clock()
        self.is_down = True

    def succeeded(self) -> None:
        """Note that a sync succeeded."""
        self.is_down = False

    @property
    def down_s(self) -> float:
        """For how many seconds it has been down; 0 while it answers."""
        return self.clock() - self._down_since if self.is_down else 0.0

    def learn(self, database_s: float, sent_at: float) -> None:
        """Its clock showed `database_s` (seconds since 1970) in a read that was sent at `sent_at` and ends now."""
        self.offset_s = database_s - (sent_at + self.clock()) / 2

    def now_s(self) -> float:
        """Return the database's time in seconds since 1970."""
        return self.clock() + self.offset_s

    def now(self) -> datetime:
        """Return the database's time."""
        return datetime.fromtimestamp(self.now_s(), UTC)
