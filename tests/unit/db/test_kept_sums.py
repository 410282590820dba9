"""Sums over parts of a span: merged by key, and kept where reading took long."""

from typing import Any

import pytest

from llm_proxy.db import kept_sums
from llm_proxy.db.kept_sums import KeptSums

PARTS = [("may", True), ("june", True), ("today", False)]


class Reader:
    """Rows by part; each read takes so many seconds."""

    def __init__(self, took_s: float) -> None:
        self.now_s, self._took_s, self.read = 100.0, took_s, list[str]()
        self.rows: dict[str, list[tuple[Any, ...]]] = {
            "may": [("b", 1, None), ("a", 2, 5)],
            "june": [("a", 3, None)],
            "today": [("c", 1, None), ("a", 1, 1)],
        }

    def __call__(self, part: str) -> list[tuple[Any, ...]]:
        self.read.append(part)
        self.now_s += self._took_s
        return self.rows[part]


def _sums(reader: Reader) -> KeptSums:
    return KeptSums(clock=lambda: reader.now_s)


def test_rows_are_merged_in_the_order_of_their_keys() -> None:
    """Numbers are added; None is no number, so that it stays only where there is none."""
    reader = Reader(0.0)
    assert _sums(reader).of("usage", PARTS, 1, reader) == [("a", 6, 6), ("b", 1, None), ("c", 1, None)]


def test_a_key_without_columns_is_one_sum() -> None:
    """The total of everything."""
    reader = Reader(0.0)
    reader.rows = {part: [(1, None)] for part, _ in PARTS}
    assert _sums(reader).of("total", PARTS, 0, reader) == [(3, None)]


def test_what_was_fast_is_read_again() -> None:
    """A small installation sees each change at once."""
    reader = Reader(0.001)
    sums = _sums(reader)
    for _ in range(2):
        sums.of("usage", PARTS, 1, reader)
    assert reader.read == ["may", "june", "today"] * 2


def test_parts_that_are_over_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on is read each time, as are parts of other sums and parts that are too long."""
    monkeypatch.setattr(kept_sums, "MOST_ROWS", 1)
    reader = Reader(0.1)
    sums = _sums(reader)
    for name in ("usage", "usage", "other"):
        sums.of(name, PARTS, 1, reader)
    assert reader.read == ["may", "june", "today", "may", "today", "may", "june", "today"]
    reader.now_s += kept_sums.KEPT_S
    sums.of("usage", PARTS, 1, reader)
    assert reader.read[8:] == ["may", "june", "today"]


def test_the_oldest_parts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(kept_sums, "MOST_PARTS", 2)
    reader = Reader(0.1)
    sums = _sums(reader)
    for name in ("first", "second", "first"):
        sums.of(name, PARTS[:2], 1, reader)
    assert reader.read == ["may", "june"] * 3
