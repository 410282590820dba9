"""Seats of open WebSockets are counted over all workers of a machine."""

from pathlib import Path

import pytest

from llm_proxy.errors import Overloaded, TooManySockets
from llm_proxy.limits.seats import Seats


def test_the_machine_and_each_token_have_a_bound(tmp_path: Path) -> None:
    """Two tables on one file are two workers; a seat that was given back is free."""
    one, other = Seats(tmp_path, 3, 2), Seats(tmp_path, 3, 2)
    first = one.take("a")
    other.take("a")
    with pytest.raises(TooManySockets):
        one.take("a")
    other.take("b")
    with pytest.raises(Overloaded):
        one.take("c")
    first.release()
    first.release()
    one.take("c")
    with pytest.raises(Overloaded):
        other.take("d")


def test_seats_of_a_dead_worker_are_free(tmp_path: Path) -> None:
    """A worker that was killed holds none."""
    Seats(tmp_path, 1, 1).take("a")
    with pytest.raises(TooManySockets):
        Seats(tmp_path, 1, 1).take("a")
    line = (tmp_path / "seats.1").read_bytes()
    (tmp_path / "seats.1").write_bytes((2**22 + 1).to_bytes(8, "little") + line[8:])  # no process has this number
    Seats(tmp_path, 1, 1).take("a")
