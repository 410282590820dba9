"""Who may manage: the bearer of MANAGEMENT_TOKEN, and nobody who guesses for long (MP-17 to MP-20)."""

import time
from collections import deque
from collections.abc import Callable, Sequence

from llm_proxy.crypto import equal
from llm_proxy.errors import TooManyFailures, Unauthorized

FAILURES = 20  # MP-19
WINDOW_S = 60.0
_ADDRESSES = 10_000


class Gate:
    """Lets the right bearer through, always; wrong ones are answered, and from the 21st a minute only put off.

    Args:
        accepted: The management token, and the one before it while it is rotated. Empty ones let nobody through.
        clock: Monotonic seconds.
    """

    def __init__(self, accepted: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._accepted = [token for token in accepted if token]
        self._clock = clock
        self._failures: dict[str | None, deque[float]] = {}

    def check(self, authorization: str | None, client_ip: str | None) -> None:
        """Raises Unauthorized, or TooManyFailures with the time to wait."""
        scheme, _, presented = (authorization or "").strip().partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthorized
        if not self._is_right(presented):
            self._note(client_ip)
            raise Unauthorized("invalid management token")

    def _is_right(self, presented: str) -> bool:
        # WSGI hands over latin-1, settings are UTF-8. All are compared, so that time tells nothing.
        text = presented.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        return sum(equal(text, accepted) for accepted in self._accepted) > 0

    def _note(self, client_ip: str | None) -> None:
        now = self._clock()
        if client_ip not in self._failures and len(self._failures) >= _ADDRESSES:
            self._failures.pop(next(iter(self._failures)))
        failures = self._failures.setdefault(client_ip, deque())
        while failures and now - failures[0] >= WINDOW_S:
            failures.popleft()
        if len(failures) >= FAILURES:
            raise TooManyFailures(retry_after_s=max(1, round(WINDOW_S - (now - failures[0]) + 0.5)))
        failures.append(now)
