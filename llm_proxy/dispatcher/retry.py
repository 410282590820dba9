"""When a failed delivery is tried again."""

import random
from collections.abc import Callable, Iterable

from llm_proxy.dispatcher.backends.base import Result

MOST_S = 30.0
HOLD_S = 30.0  # between tries once a back end is taken for down
_JITTER = 0.2


def backoff_s(attempt: int, base_s: float, draw: Callable[[], float] = random.random) -> float:
    """Return the pause before retry number `attempt`, counted from 0: base, 2, 4, … times it, at most 30 s, ± 20 %."""
    pause = min(base_s * 2 ** min(attempt, 60), MOST_S)
    return float(pause * (1 - _JITTER + 2 * _JITTER * draw()))


def pause_s(results: Iterable[Result], attempt: int, base_s: float) -> float:
    """Return what the service asked for by Retry-After, the longest of it; else the back-off."""
    asked = [result.retry_after_s for result in results if result.retry_after_s is not None]
    return max(asked) if asked else backoff_s(attempt, base_s)
