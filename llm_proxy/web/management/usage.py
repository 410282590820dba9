"""/manage/usage."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from flask import Blueprint, Response

from llm_proxy.db.pagination import InvalidCursor
from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.runtime.clock import utc_now
from llm_proxy.sanitize import spreadsheet_safe
from llm_proxy.usage.query import GROUPS, UsageFilter, names
from llm_proxy.web.context import services
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.pagination import LARGEST, link
from llm_proxy.web.management.routing import add

_DAYS = 30  # where `from` is not given


def routes(bp: Blueprint) -> None:
    """Add the route."""
    add(bp, "/usage", "GET", index)


def index() -> Response:
    """200 with sums as JSON or CSV; 400 names the parameter."""
    with current().attempt(AuditAction.USAGE_LIST, "failed to read usage") as attempt:
        groups, form = parsing.groups(GROUPS), parsing.form()
        limit = parsing.integer("limit", 1, LARGEST) or LARGEST
        wanted = _filter()
        try:
            rows, following = services().usage.page(wanted, groups, limit, parsing.parameter("cursor"))
        except InvalidCursor as error:
            raise parsing.invalid("cursor") from error
        attempt.project_id = wanted.project_id
        attempt.succeeded(rows_count=len(rows))
    headers = {} if following is None else {"Link": link("next", cursor=following)}
    if form == "csv":
        return Response(as_csv(rows, names(groups)), content_type="text/csv; charset=utf-8", headers=headers)
    return rendering.json_response({"data": rows, "next_cursor": following}, headers=headers)


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a header line, then a line a row; an unknown cost is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    """One that a spreadsheet does not run: a model's name is the provider's text."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0")
    text = "" if value is None else str(value)
    return spreadsheet_safe(text) if isinstance(value, str) else text


def _filter() -> UsageFilter:
    """Usage is kept by UTC day: instants stand for the day that they are in."""
    since, until = parsing.instant("from"), parsing.instant("to", is_end=True)
    last: date = until.date() if until is not None else utc_now().date()
    first: date = since.date() if since is not None else last - timedelta(days=min(_DAYS, last.toordinal() - 1))
    if first > last:
        raise BadRequest("from is after to", param="from")
    named = (parsing.word("project_id"), parsing.word("token_id"), parsing.word("model"), parsing.word("provider"))
    return UsageFilter(first, last, *named, within=current().caller.projects)
