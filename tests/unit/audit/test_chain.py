"""Rows and lines of a chain: each names its content and the one before it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from llm_proxy.audit.chain import START, Link, chained_line, chained_row, entry_of_line, entry_of_row, follow

ROW = {"id": "1", "timestamp": datetime(2026, 1, 2, tzinfo=UTC), "action": "token.create", "reason": None}


def _rows(count: int) -> list[dict[str, Any]]:
    rows, link = list[dict[str, Any]](), START
    for number in range(count):
        rows.append(chained_row({**ROW, "id": str(number)}, "w", link))
        link = entry_of_row(rows[-1]).link
    return rows


def test_a_chain_of_rows_is_whole() -> None:
    """Each row follows the one before it, and a column that is null does not count."""
    at = START
    for row in _rows(3):
        assert follow(entry_of_row({**row, "added_later": None}), at) is None
        at = entry_of_row(row).link
    assert at.seq == 3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"action": "token.revoke"}, ("changed record", 2)),
        ({"seq": 3}, ("missing record", 2)),
        ({"seq": 1}, ("changed record", 1)),
    ],
)
def test_a_changed_row_is_named(change: dict[str, Any], fault: tuple[str, int]) -> None:
    """Its content, or its number."""
    first, second = _rows(2)
    found = follow(entry_of_row({**second, **change}), entry_of_row(first).link)
    assert found is not None
    assert (found.kind, found.seq) == fault


def test_a_row_that_names_another_one_before_it_is_named() -> None:
    """The record before was replaced, or the first one has something before it."""
    _, second = _rows(2)
    entry = entry_of_row(second)
    replaced, first = follow(entry, Link(1, "f" * 64)), follow(entry_of_row({**second, "seq": 1}), START)
    assert replaced is not None
    assert (replaced.kind, replaced.seq) == ("changed record", 1)
    assert first is not None
    assert first.kind == "changed record"


def test_lines_are_chained_by_their_bytes() -> None:
    """A line that was chained is read back; any changed byte is noticed."""
    line, link = chained_line(b'{"action":"a"}\n', "w", START)
    entry, members = entry_of_line(line)
    assert entry is not None
    assert (entry.link, members["action"], follow(entry, START)) == (link, "a", None)
    changed, _ = entry_of_line(line.replace(b'"a"', b'"b"'))
    assert changed is not None
    assert follow(changed, START) is not None


@pytest.mark.parametrize("line", [b'{"action":"a"}', b'{"writer":"w","seq":true}'])
def test_a_line_outside_a_chain_claims_no_place(line: bytes) -> None:
    """It is counted, and proves nothing."""
    assert entry_of_line(line)[0] is None


@pytest.mark.parametrize("line", [b"[]", b"no json"])
def test_a_line_that_is_no_object_raises(line: bytes) -> None:
    """ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  (orjson's own text)
        entry_of_line(line)
