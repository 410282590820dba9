"""Lists: how a page of one is asked for, and the same rows as CSV and JSON at the same address."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import gevent
import orjson
from flask import Blueprint, Response, request
from werkzeug.wrappers import Response as AnyResponse

from llm_proxy.texts import spreadsheet_safe
from llm_proxy.web.admin import frame
from llm_proxy.web.admin.api import ApiResponse

SIZE, LARGEST = 25, 100
_NEXT = re.compile(r"<\?([^>]*)>; rel=\"next\"")
_BETWEEN = 500  # rows of CSV, after which other requests get their turn

View = Callable[[str | None], AnyResponse]


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


def size() -> int:
    """Return how many rows a page has."""
    wanted = request.args.get("size", SIZE, type=int) or SIZE
    return min(max(wanted, 1), LARGEST)


def query(*names: str) -> dict[str, Any]:
    """Return the filters and the order of the address."""
    return {name: request.args.get(name) for name in (*names, "sort")}


def place(sort: str | None = None) -> dict[str, Any]:
    """Return which part of the list is asked for: by cursor, or by number where the address has one."""
    page = request.args.get("page", type=int)
    if page is not None and not request.args.get("cursor"):
        return {"page": max(page, 1), "page_size": size()}
    return {"limit": size(), "cursor": request.args.get("cursor")}


def paging(found: ApiResponse, count: int | None = None, following: str | None = None) -> dict[str, Any]:
    """Return what the macro `pages` shows below a list.

    Args:
        count: Rows shown, where the response is no array.
        following: Cursor of the next page, where no `Link` says it.
    """
    shown = len(found.data) if count is None else count
    headers = found.headers
    if "x-page" in headers:
        return numbered(shown, int(headers["x-page"]), int(headers["x-total-pages"]), int(headers["x-total-count"]))
    link = _NEXT.search(headers.get("link", ""))
    if link:
        following = parse_qs(link[1]).get("cursor", [""])[0]
    is_first = not request.args.get("cursor")
    text = f"{shown} in all" if is_first and not following else f"{shown} on this page"
    return {
        "text": text,
        "first": None if is_first else frame.with_query(cursor=None),
        "next": frame.with_query(cursor=following) if following else None,
        **files(),
    }


def numbered(shown: int, page: int, pages: int, total: int) -> dict[str, Any]:
    """Return what the macro `pages` shows below a list that is asked for by page number."""
    near = sorted({1, pages, *range(page - 2, page + 3)} & set(range(1, pages + 1)))
    numbers: list[dict[str, Any]] = []
    for number in near:
        if numbers and number - numbers[-1]["number"] > 1:
            numbers.append({"number": number - 1, "is_gap": True})
        numbers.append({"number": number, "href": frame.with_query(page=number), "is_current": number == page})
    return {
        "text": f"{shown} of {total:,}",
        "numbers": numbers if pages > 1 else [],
        "previous": frame.with_query(page=page - 1) if page > 1 else None,
        "next": frame.with_query(page=page + 1) if page < pages else None,
        **files(),
    }


def files() -> dict[str, str]:
    """Return the addresses of the same rows as files: the same filters, without the place in the list."""
    address = frame.with_query(cursor=None, size=None, page=None)
    path, mark, asked = address.partition("?")
    return {form: f"{path}.{form}{mark}{asked}" for form in ("csv", "json")}


def file(form: str, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Response:
    """Return rows as a file that a browser saves."""
    if form == "json":
        content, kind = orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE), "application/json"
    else:
        content, kind = "".join(_csv(rows, columns)).encode(), "text/csv; charset=utf-8"
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    return Response(content, content_type=kind, headers=headers)


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for number, row in enumerate(rows):
        writer.writerow([cell(row.get(name)) for name in columns])
        if number % _BETWEEN == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
            gevent.sleep(0)
    yield text.getvalue()


def cell(value: Any) -> str:
    """Return a cell's text, which no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return spreadsheet_safe(orjson.dumps(value).decode())
    return spreadsheet_safe(str(value)) if isinstance(value, str) else str(value)
