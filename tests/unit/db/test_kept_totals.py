"""Totals that took long to count are kept for some seconds."""

import pytest
from support.clock import Clock

from llm_proxy.db import kept_totals
from llm_proxy.db.kept_totals import KeptTotals


def _counted(totals: KeptTotals, clock: Clock, key: str, took_s: float) -> int | None:
    place = totals.of(key)
    clock.now += took_s
    place.keep(7)
    return place.known


def test_what_took_long_is_known_for_a_while() -> None:
    """By list; then it is counted again."""
    clock = Clock()
    totals = KeptTotals(clock)
    assert [_counted(totals, clock, key, 1.0) for key in ("a", "a", "b")] == [None, 7, None]
    clock.now += kept_totals.KEPT_S
    assert totals.of("a").known is None


def test_what_was_fast_is_counted_again() -> None:
    """So small lists are exact at once."""
    clock = Clock()
    totals = KeptTotals(clock)
    assert [_counted(totals, clock, "a", 0.01) for _ in range(2)] == [None, None]


def test_a_known_total_is_not_kept_for_longer() -> None:
    """Or a list that is asked for all the time would never be counted again."""
    clock = Clock()
    totals = KeptTotals(clock)
    assert [_counted(totals, clock, "a", 6.0) for _ in range(4)] == [None, 7, 7, None]


def test_few_totals_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(kept_totals, "MOST", 2)
    clock = Clock()
    totals = KeptTotals(clock)
    assert [_counted(totals, clock, key, 1.0) for key in ("a", "b", "c", "a")] == [None] * 4
