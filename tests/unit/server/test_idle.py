"""Waits for a next request end at their limit, by one timer."""

from time import monotonic

import gevent

from llm_proxy.server.idle import IdleTimer


def test_each_wait_ends_at_its_own_limit() -> None:
    """Not before, and not at the next one's; a wait that is over is not ended."""
    timer, ended = IdleTimer(0.05), list[tuple[str, float]]()
    began = dict[str, float]()

    def begin(name: str) -> None:
        began[name] = monotonic()
        timer.begin(ends[name])

    ends = {name: lambda name=name: ended.append((name, monotonic() - began[name])) for name in "abc"}
    begin("a")
    begin("b")
    timer.over(ends["a"])
    gevent.sleep(0.02)
    begin("c")
    began_a = dict(began)
    begin("a")  # again: its limit begins again
    with gevent.Timeout(2):
        while len(ended) < 3:
            gevent.sleep(0.005)
    assert [name for name, _ in ended] == ["b", "c", "a"]
    assert all(0.05 <= took < 0.5 for _, took in ended)
    assert began["a"] > began_a["a"]


def test_an_end_may_begin_the_next_wait() -> None:
    """One timer goes on for all."""
    timer, ended = IdleTimer(0.01), list[float]()

    def end() -> None:
        timer.begin(end)
        ended.append(monotonic())

    timer.begin(end)
    timer.begin(lambda: ended.append(monotonic()))
    with gevent.Timeout(2):
        while len(ended) < 6:
            gevent.sleep(0.002)
    assert ended[-1] - ended[0] >= 0.04


def test_it_begins_again_after_all_have_ended() -> None:
    """The timer stands still in between."""
    timer, ended = IdleTimer(0.01), list[int]()
    for number in (1, 2):
        timer.begin(lambda number=number: ended.append(number))  # type: ignore[misc]
        with gevent.Timeout(2):
            while number not in ended:
                gevent.sleep(0.002)
    assert ended == [1, 2]
