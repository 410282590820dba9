"""A body settles once, whatever happens to it."""

from typing import Any

import gevent
import pytest
from support.pieces import UpstreamResponse

from llm_proxy.errors import UpstreamBroken
from llm_proxy.forwarding.relay import Relay


@pytest.fixture
def settled() -> list[tuple[Any, ...]]:
    """What `settle` was called with."""
    return []


def relay(response: UpstreamResponse, settled: list[tuple[Any, ...]], **rest: Any) -> Relay:
    """A relay that notes its settlement."""
    return Relay(response, lambda *how: settled.append(how), **rest)


def test_a_whole_body_settles_as_whole(settled: list[tuple[Any, ...]]) -> None:
    """Pieces as they came, then no failure and all bytes."""
    response = UpstreamResponse(b"ab", b"c")
    body = relay(response, settled)
    assert list(body) == [b"ab", b"c"]
    body.close()
    assert (settled, response.closed) == ([(None, 3, True)], 1)


def test_a_stream_begins_with_nothing(settled: list[tuple[Any, ...]]) -> None:
    """So that the head goes out before the first event."""
    assert list(relay(UpstreamResponse(b"a"), settled, is_stream=True)) == [b"", b"a"]


def test_a_body_that_is_never_begun_settles_too(settled: list[tuple[Any, ...]]) -> None:
    """The server closes it all the same: the client took nothing."""
    relay(UpstreamResponse(b"a"), settled).close()
    assert settled == [(None, 0, False)]


def test_a_body_without_content_is_whole_without_being_read(settled: list[tuple[Any, ...]]) -> None:
    """HEAD, 204, 304."""
    relay(UpstreamResponse(), settled, has_content=False).close()
    assert settled == [(None, 0, True)]


def test_a_client_that_stops_taking_leaves_it_unfinished(settled: list[tuple[Any, ...]]) -> None:
    """Closed between two pieces: what the server had taken counts."""
    body = relay(UpstreamResponse(b"ab", b"c", b"d"), settled)
    pieces = iter(body)
    next(pieces)
    next(pieces)
    body.close()
    assert settled == [(None, 2, False)]


@pytest.mark.parametrize("failure", [UpstreamBroken(), KeyError("ours"), SystemExit()])
def test_a_failure_is_raised_and_settled(settled: list[tuple[Any, ...]], failure: BaseException) -> None:
    """The server must see it, and so must the settlement."""
    with pytest.raises(type(failure)):
        list(relay(UpstreamResponse(b"ab", failure), settled))
    assert settled == [(failure, 2, False)]


def test_taps_see_every_piece_first(settled: list[tuple[Any, ...]]) -> None:
    """Before the client does, and only real pieces."""
    tapped: list[bytes] = []
    pieces = iter(relay(UpstreamResponse(b"a", b"b"), settled, is_stream=True, taps=[tapped.append]))
    assert (next(pieces), tapped) == (b"", [])
    assert (next(pieces), tapped) == (b"a", [b"a"])


def test_others_run_beside_a_body_whose_pieces_are_always_here(settled: list[tuple[Any, ...]]) -> None:
    """Neither provider nor client is ever waited for, so that nothing else would give the loop its turn."""
    seen = list[int]()
    body = relay(UpstreamResponse(*[b"x"] * 1000), settled)
    other = gevent.spawn(lambda: seen.append(body.sent_bytes))
    assert len(list(body)) == 1000
    other.join()
    assert seen[0] < 100
