"""Long work of a worker in short turns, so that its other requests do not wait for it."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from greenlet import getcurrent

TURN_S: Final = 0.001
_PAUSE_S: Final = 1e-6  # a timer, for which the loop looks at its sockets; of sleeps of zero it runs fifty first


_ends: Final = dict[Any, float]()  # when the turn ends of each greenlet that does long work


@contextmanager
def long_work() -> Iterator[None]:
    """Have `breathe` end the turns of what this greenlet does in the block; one inside another is part of it.

    For the few greenlets that work behind requests. They do not wait for one another, and no request for them.
    """
    current = getcurrent()
    if current in _ends:
        yield
        return
    _ends[current] = time.perf_counter() + TURN_S
    try:
        yield
    finally:
        del _ends[current]


def breathe() -> None:
    """End the turn of long work where its time is over, and serve everything else once. Elsewhere do nothing.

    Loops whose length a client or a provider chooses call it, so that they may run as part of long work.
    """
    if not _ends:
        return
    current = getcurrent()
    if time.perf_counter() >= _ends.get(current, math.inf):
        pause()
        _ends[current] = time.perf_counter() + TURN_S


def in_short_turns(pieces: Iterable[bytes], do: Callable[[bytes], object]) -> None:
    """Do something with all pieces, each of which takes a short time. What it raises ends the work.

    For requests: of all such work in a process one turn runs at a time, and after each the loop serves everything else
    once.
    """
    work = map(do, pieces)
    is_over = False
    while not is_over:
        with _one_at_a_time():
            is_over = _turn(work)
            if not is_over:
                pause()


def _turn(work: Iterator[object]) -> bool:
    """Return whether the work is over."""
    ends_at = time.perf_counter() + TURN_S
    return all(time.perf_counter() < ends_at for _ in work)


def pause() -> None:
    """Let the loop serve everything else once: for a greenlet whose sockets are always ready, so that none waits."""
    import gevent  # late: commands that serve nothing read bodies without it

    gevent.sleep(_PAUSE_S)


@cache
def _one_at_a_time() -> Any:
    from gevent.lock import Semaphore

    return Semaphore()
