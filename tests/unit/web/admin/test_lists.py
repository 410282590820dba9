"""Lists of the admin UI: totals that are bounded, and files that are made while they are sent."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from llm_proxy.db.pagination import Total
from llm_proxy.web.admin import frame, lists
from llm_proxy.web.admin.api import ApiResponse

ROWS = [{"id": "1", "name": "=1+1", "is_active": True}, {"id": "2", "name": None, "is_active": False}]
COLUMNS = ("id", "name", "is_active")


@pytest.fixture(autouse=True)
def asked() -> Iterator[None]:
    """A request for a list."""
    with Flask("test").test_request_context("/admin/tokens?status=active&cursor=x"):
        yield


def test_a_bounded_total_has_a_plus() -> None:
    """The next page is offered although the number of pages is not known."""
    shown = lists.numbered(25, 400, 400, Total(10_000, is_more=True), has_next=True)
    assert (shown["text"], shown["next"]) == ("25 of 10,000+", "/admin/tokens?status=active&cursor=x&page=401")


@pytest.mark.parametrize(
    ("page", "pages", "shown"),
    [(1, 1, []), (1, 7, [1, 2, 3, 4, 5, 6, 7]), (1, 8, [1, 2, 3, None, 8]), (5, 9, [1, None, 3, 4, 5, 6, 7, None, 9])],
)
def test_numbers_are_left_out_from_eight_pages_on(page: int, pages: int, shown: list[int | None]) -> None:
    """Two to each side of the present page, the first and the last; None stands for a gap."""
    numbers = lists.numbered(10, page, pages, Total(pages * 10), has_next=page < pages)["numbers"]
    assert [None if each.get("is_gap") else each["number"] for each in numbers] == shown


def test_a_long_list_offers_other_lengths_of_a_page() -> None:
    """Each begins at the first page; a list that fits into the shortest page offers none."""
    sizes = lists.numbered(10, 2, 3, Total(30), has_next=True)["sizes"]
    assert [each["href"] for each in sizes] == [f"/admin/tokens?status=active&size={rows}" for rows in (10, 25, 100)]
    assert lists.numbered(10, 1, 1, Total(10), has_next=False)["sizes"] == []
    assert lists.size() == 10


@pytest.mark.parametrize(("address", "current"), [("/admin/usage", 25), ("/admin/usage?size=100", 100)])
def test_the_length_that_a_page_has_is_marked(address: str, current: int) -> None:
    """The usual one of the list, where the address names none."""
    found = ApiResponse(200, {"data": [], "next_cursor": "next"})
    with Flask("test").test_request_context(address):
        sizes = lists.paging(found, 25, usual=25)["sizes"]
    assert [each["rows"] for each in sizes if each["is_current"]] == [current]


@pytest.mark.parametrize("cut", [1, 2, 3], ids="parts of {} rows".format)
def test_files_hold_all_parts(cut: int) -> None:
    """CSV has one header line, and no cell that a spreadsheet runs; JSON is one array."""
    parts: list[Any] = [ROWS[start : start + cut] for start in range(0, 4, cut)]
    text = lists.stream("csv", "tokens", iter(parts), COLUMNS).get_data(as_text=True)
    assert list(csv.reader(io.StringIO(text))) == [[*COLUMNS], ["1", "'=1+1", "true"], ["2", "", "false"]]
    response = lists.stream("json", "tokens", iter(parts), COLUMNS)
    assert (json.loads(response.get_data()), response.headers["Content-Disposition"]) == (
        ROWS,
        'attachment; filename="tokens.json"',
    )


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_file_without_rows_is_whole(form: str) -> None:
    """A header line, or an empty array."""
    text = lists.stream(form, "tokens", iter([[]]), COLUMNS).get_data(as_text=True)
    assert text.strip() == {"csv": "id,name,is_active", "json": "[]"}[form]


def _api(monkeypatch: pytest.MonkeyPatch, pages: int, page: list[Any]) -> list[Any]:
    """Let the API have so many pages; return the cursors that it is asked for."""
    cursors = list[Any]()

    def api(method: str, path: str, *, query: dict[str, Any]) -> ApiResponse:
        cursors.append(query["cursor"])
        link = '<?cursor=next>; rel="next"' if len(cursors) < pages else ""
        return ApiResponse(200, page, {"link": link})

    monkeypatch.setattr(frame, "api", api)
    return cursors


def test_a_file_ends_after_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no page is read before it is sent."""
    cursors = _api(monkeypatch, 10, ROWS)
    parts = lists.parts("/manage/audit", {}, most=4)
    assert (next(parts), cursors) == (ROWS, [None])
    assert (len(list(parts)), cursors) == (1, [None, "next"])


def test_an_empty_page_is_looked_on_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the end of the list, or until the time is over."""
    cursors = _api(monkeypatch, 3, [])
    lists.read("/manage/tokens", {"limit": 25, "cursor": None})
    assert cursors == [None, "next", "next"]
    monkeypatch.setattr(lists, "LOOK_ON_S", 0.0)
    cursors = _api(monkeypatch, 3, [])
    found = lists.read("/manage/tokens", {"limit": 25, "cursor": None})
    assert (cursors, lists.following(found)) == ([None], "next")
