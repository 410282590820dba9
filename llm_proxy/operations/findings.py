"""What `doctor` finds in a server that runs; kept for half a minute, because a page may ask at each look."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from llm_proxy.runtime.clock import rfc3339, utc_now

KEPT_S: Final = 30.0
Examine = Callable[[], Sequence[dict[str, Any]]]


class Findings:
    """The last findings.

    Args:
        examine: Makes them: dictionaries with code, level, what and remedy.
        clock: Monotonic seconds.
    """

    def __init__(self, examine: Examine = list, clock: Callable[[], float] = time.monotonic) -> None:
        self.examine, self._clock = examine, clock
        self._lock = threading.Lock()
        self._found: dict[str, Any] | None = None
        self._found_s = 0.0

    def current(self) -> dict[str, Any]:
        """Return the findings and when they were made; one caller at a time makes them."""
        with self._lock:
            if self._found is None or self._clock() - self._found_s >= KEPT_S:
                findings = list(self.examine())
                self._found = {"examined_at": rfc3339(utc_now()), "findings": findings}
                self._found_s = self._clock()
            return self._found
