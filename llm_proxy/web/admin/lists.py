"""Lists: how a page of one is asked for, and the same rows as CSV and JSON at the same address."""

import csv
import io
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import gevent
import orjson
from flask import Blueprint, Response, request, stream_with_context
from werkzeug.wrappers import Response as AnyResponse

from llm_proxy.db.pagination import Total
from llm_proxy.sanitize import spreadsheet_safe
from llm_proxy.web.admin import frame
from llm_proxy.web.admin.api import ApiResponse

SIZE, LARGEST = 10, 100
SIZES = (10, 25, 100)  # offered
ALL_NUMBERS = 7  # pages up to which no number is left out
LOOK_ON_S = 0.08
MOST_IN_FILE = 10_000  # rows of lists that grow without end
_NEXT = re.compile(r"<\?([^>]*)>; rel=\"next\"")
_BETWEEN = 500  # rows of CSV, after which other requests get their turn

View = Callable[[str | None], AnyResponse]
Rows = list[dict[str, Any]]


def routes(bp: Blueprint, rule: str, endpoint: str, view: View) -> None:
    """Add a list's page, and the same address with `.csv` and `.json`; the view gets that ending."""

    def page() -> AnyResponse:
        """Return the page."""
        return view(None)

    def rows(form: str) -> AnyResponse:
        """Return the rows as a file."""
        return view(form)

    bp.add_url_rule(rule, endpoint, page)
    bp.add_url_rule(f"{rule}.<any(csv, json):form>", f"{endpoint}_rows", rows)


def size(usual: int = SIZE) -> int:
    """Return how many rows a page has; `usual`: where the address does not say it."""
    wanted = request.args.get("size", usual, type=int) or usual
    return min(max(wanted, 1), LARGEST)


def query(*names: str) -> dict[str, Any]:
    """Return the filters and the order of the address."""
    return {name: request.args.get(name) for name in (*names, "sort")}


def place(sort: str | None = None) -> dict[str, Any]:
    """Return which part of the list is asked for: by cursor, or by number where the address has one."""
    page = request.args.get("page", type=int)
    if page is not None and not request.args.get("cursor"):
        return {"page": max(page, 1), "page_size": size(), "total": "bounded"}
    return {"limit": size(), "cursor": request.args.get("cursor")}


def read(path: str, query: Mapping[str, Any], member: str | None = None) -> ApiResponse:
    """Return a page of a list of the management API; where nothing was found so far, look on for a moment.

    Args:
        query: Filters, order and `place`.
        member: Of the response that holds the rows; None: it is an array.
    """
    until = time.monotonic() + LOOK_ON_S
    found = frame.api("GET", path, query=query)
    while not (found.data if member is None else found.data[member]) and time.monotonic() < until:
        cursor = following(found) if "limit" in query else None
        if cursor is None:
            break
        found = frame.api("GET", path, query={**query, "cursor": cursor})
    return found


def paging(found: ApiResponse, count: int | None = None, usual: int = SIZE) -> dict[str, Any]:
    """Return what the macro `pages` shows below a list.

    Args:
        count: Rows shown, where the response is no array.
        usual: Rows of a page where the address does not say it.
    """
    shown = len(found.data) if count is None else count
    headers = found.headers
    if "x-page" in headers:
        has_next = 'rel="next"' in headers.get("link", "")
        page, pages = int(headers["x-page"]), int(headers["x-total-pages"])
        return numbered(shown, page, pages, total(found), has_next=has_next, usual=usual)
    cursor, is_first = following(found), not request.args.get("cursor")
    text = f"{shown} in all" if is_first and cursor is None else f"{shown} on this page"
    is_whole = is_first and cursor is None and shown <= SIZES[0]
    return {
        "sizes": [] if is_whole else _sizes(usual),
        "text": text,
        "first": None if is_first else frame.with_query(cursor=None),
        "next": frame.with_query(cursor=cursor) if cursor else None,
        **files(),
    }


def total(found: ApiResponse) -> Total:
    """Return how many rows a list has that was asked for by page number."""
    return Total(int(found.headers["x-total-count"]), is_more="x-total-is-more" in found.headers)


def numbered(shown: int, page: int, pages: int, total: Total, *, has_next: bool, usual: int = SIZE) -> dict[str, Any]:
    """Return what the macro `pages` shows below a list that is asked for by page number; `usual`: see `paging`."""
    every = range(1, pages + 1)
    near = [number for number in every if pages <= ALL_NUMBERS or number in (1, pages) or abs(number - page) <= 2]
    numbers: list[dict[str, Any]] = []
    for number in near:
        if numbers and number - numbers[-1]["number"] > 1:
            numbers.append({"number": number - 1, "is_gap": True})
        numbers.append({"number": number, "href": frame.with_query(page=number), "is_current": number == page})
    return {
        "text": f"{shown} of {total}",
        "sizes": _sizes(usual) if total.count > SIZES[0] else [],
        "numbers": numbers if pages > 1 else [],
        "previous": frame.with_query(page=page - 1) if page > 1 else None,
        "next": frame.with_query(page=page + 1) if has_next else None,
        **files(),
    }


def _sizes(usual: int) -> list[dict[str, Any]]:
    """Return the numbers of rows that a page may have, each with its address: the first page of that length."""
    name = "page_size" if request.endpoint == "admin.audit" else "size"
    present = request.args.get(name, usual, type=int)
    return [
        {"rows": rows, "href": frame.with_query(cursor=None, page=None, **{name: rows}), "is_current": rows == present}
        for rows in SIZES
    ]


def files() -> dict[str, str]:
    """Return the addresses of the same rows as files: the same filters, without the place in the list."""
    address = frame.with_query(cursor=None, size=None, page=None)
    path, mark, asked = address.partition("?")
    return {form: f"{path}.{form}{mark}{asked}" for form in ("csv", "json")}


def file(form: str, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Response:
    """Return rows as a file that a browser saves."""
    return stream(form, name, iter([rows]), columns)


def stream(form: str, name: str, parts: Iterator[Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> Response:
    """Return rows as a file that a browser saves, made while it is sent. What refuses the first part is raised here."""
    first = next(parts, [])
    written = (_json if form == "json" else _csv)(itertools.chain([first], parts), columns)
    kind = "application/json" if form == "json" else "text/csv; charset=utf-8"
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    return Response(stream_with_context(written), content_type=kind, headers=headers)


def parts(path: str, query: Mapping[str, Any], member: str | None = None, most: int | None = None) -> Iterator[Rows]:
    """Yield the rows of a list of the management API, a page at a time.

    Args:
        member: Of the response that holds the rows; None: it is an array.
        most: Rows after which the list ends; None: never.
    """
    cursor, rows = None, 0
    while True:
        found = frame.api("GET", path, query={**query, "limit": LARGEST, "cursor": cursor})
        part: Rows = found.data if member is None else found.data[member]
        yield part
        cursor, rows = following(found), rows + len(part)
        if cursor is None or (most is not None and rows >= most):
            return


def following(found: ApiResponse) -> str | None:
    """Return the cursor of the next page; None at the end."""
    if isinstance(found.data, dict) and "next_cursor" in found.data:
        cursor: str | None = found.data["next_cursor"]
        return cursor
    link = _NEXT.search(found.headers.get("link", ""))
    return parse_qs(link[1]).get("cursor", [None])[0] if link else None


def _json(parts: Iterable[Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> Iterator[bytes]:
    before = b"["
    for rows in parts:
        if rows:
            yield before + orjson.dumps(list(rows))[1:-1]
            before = b","
        gevent.sleep(0)
    yield b"[]\n" if before == b"[" else b"]\n"


def _csv(parts: Iterable[Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> Iterator[bytes]:
    yield _lines([columns])
    for rows in parts:
        for start in range(0, len(rows), _BETWEEN):
            yield _lines([cell(row.get(name)) for name in columns] for row in rows[start : start + _BETWEEN])
            gevent.sleep(0)


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def cell(value: Any) -> str:
    """Return a cell's text, which no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return spreadsheet_safe(orjson.dumps(value).decode())
    return spreadsheet_safe(str(value)) if isinstance(value, str) else str(value)
