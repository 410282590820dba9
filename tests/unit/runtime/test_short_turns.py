"""Long work of a worker in short turns."""

import time

import gevent
import pytest

from llm_proxy.runtime.short_turns import TURN_S, breathe, in_short_turns, long_work

_STEP_S, _WORKS = TURN_S * 1.5, 20


def test_all_of_it_is_done_in_order() -> None:
    """However many turns it takes."""
    done: list[bytes] = []
    pieces = [b"%d" % number for number in range(1000)]
    in_short_turns(pieces, done.append)
    assert done == pieces


def test_between_two_turns_the_loop_serves_what_else_is_ready() -> None:
    """Twenty long works let nothing else wait for more than a turn."""
    done: list[bytes] = []

    def step(name: bytes) -> None:
        until = time.perf_counter() + _STEP_S
        while time.perf_counter() < until:
            pass
        done.append(name)

    def beat() -> None:
        while not all(work.ready() for work in works):
            done.append(b" ")
            gevent.sleep(1e-6)

    works = [gevent.spawn(in_short_turns, [b"%c" % (97 + number)] * 5, step) for number in range(_WORKS)]
    gevent.joinall([*works, gevent.spawn(beat)], raise_error=True)
    between = b"".join(done).split(b" ")
    assert sum(map(len, between)) == 5 * _WORKS
    assert max(map(len, between)) <= 2


def test_what_it_raises_ends_it_and_gives_the_turn_on() -> None:
    """The next work runs."""
    with pytest.raises(ValueError, match="junk"):
        in_short_turns([b"junk"], lambda piece: int(piece))
    done: list[bytes] = []
    in_short_turns([b"next"], done.append)
    assert done == [b"next"]


def test_no_request_waits_for_work_behind_requests() -> None:
    """While an event is made in turns, a body is looked at at once; both go on beside each other."""
    done: list[str] = []

    def make_events() -> None:
        with long_work():
            for number in range(10):
                until = time.perf_counter() + _STEP_S
                while time.perf_counter() < until:
                    pass
                breathe()
                done.append(f"event {number}")

    work = gevent.spawn(make_events)
    gevent.sleep(0)
    in_short_turns([b"body"], lambda piece: done.append(piece.decode()))
    work.join()
    assert done.index("body") < 3
    assert len(done) == 11
