"""Long work of a worker in short turns, so that its other requests do not wait for it."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import gevent
from gevent.lock import Semaphore

TURN_S: Final = 0.001
_PAUSE_S: Final = 1e-6  # a timer, for which the loop looks at its sockets; of sleeps of zero it runs fifty first
_one_at_a_time = Semaphore()


def in_short_turns(pieces: Iterable[bytes], do: Callable[[bytes], object]) -> None:
    """Do something with all pieces, each of which takes a short time. What it raises ends the work.

    Of all such work in a process one turn runs at a time, and after each the loop serves everything else once.
    """
    work = map(do, pieces)
    is_over = False
    while not is_over:
        with _one_at_a_time:
            is_over = _turn(work)
            if not is_over:
                pause()


def pause() -> None:
    """Let the loop serve everything else once: for a greenlet whose sockets are always ready, so that none waits."""
    gevent.sleep(_PAUSE_S)


def _turn(work: Iterator[object]) -> bool:
    """Return whether the work is over."""
    ends_at = time.perf_counter() + TURN_S
    return all(time.perf_counter() < ends_at for _ in work)
