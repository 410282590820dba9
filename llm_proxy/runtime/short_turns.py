"""Long work of a worker in short turns, so that its other requests do not wait for it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from greenlet import getcurrent

TURN_S: Final = 0.001
_PAUSE_S: Final = 1e-6  # a timer, for which the loop looks at its sockets; of sleeps of zero it runs fifty first


class _Running:
    """The long work that is being done: the greenlet that does it, and when its turn ends."""

    __slots__ = ("ends_at", "greenlet")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.ends_at = 0.0


_running = _Running()


@contextmanager
def long_work() -> Iterator[None]:
    """Have `breathe` end the turns of what this greenlet does in the block.

    Of such work one is done at a time in a process. A block inside another one of the same greenlet is part of it.
    """
    current = getcurrent()
    if _running.greenlet is current:
        yield
        return
    with _one_at_a_time():
        _running.greenlet, _running.ends_at = current, time.perf_counter() + TURN_S
        try:
            yield
        finally:
            _running.greenlet = None


def breathe() -> None:
    """End the turn of long work where its time is over, and serve everything else once. Elsewhere do nothing.

    Loops whose length a client or a provider chooses call it, so that they may run as part of long work.
    """
    if _running.greenlet is None or time.perf_counter() < _running.ends_at or _running.greenlet is not getcurrent():
        return
    pause()
    _running.ends_at = time.perf_counter() + TURN_S


def in_short_turns(pieces: Iterable[bytes], do: Callable[[bytes], object]) -> None:
    """Do something with all pieces, each of which takes a short time. What it raises ends the work."""
    with long_work():
        for piece in pieces:
            do(piece)
            breathe()


def pause() -> None:
    """Let the loop serve everything else once: for a greenlet whose sockets are always ready, so that none waits."""
    import gevent  # late: commands that serve nothing read bodies without it

    gevent.sleep(_PAUSE_S)


@cache
def _one_at_a_time() -> Any:
    from gevent.lock import Semaphore

    return Semaphore()
