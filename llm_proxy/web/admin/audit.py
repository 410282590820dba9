"""Audit events: list with all filters, and the page of a record."""

from typing import Any

import orjson
from flask import Blueprint, request
from werkzeug.wrappers import Response

from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web.admin import frame, lists

FILTERS = (
    "search", "action", "outcome", "actor", "project_id", "token_id", "client_ip", "request_id", "correlation_id",
    "method", "path", "start_time", "end_time",
)  # fmt: skip
COLUMNS = (
    "id", "timestamp", "action", "actor", "outcome", "project_id", "token_id", "client_ip", "method", "path",
    "request_id", "correlation_id", "user_agent", "reason", "metadata",
)  # fmt: skip
OUTCOMES = ("success", "failure", "denied", "error")
_MOST_PAGES = 10  # of 100 records, in a file


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/audit", "audit", _list)

    @bp.get("/audit/<event_id>")
    def audit_show(event_id: str) -> Response:
        """Return the page of a record; 404."""
        record = frame.api("GET", f"/manage/audit/{event_id}").data
        return frame.page("audit/show.html", record=record, metadata=_pretty(record.get("metadata")))


def _list(form: str | None) -> Response:
    wanted = lists.query(*FILTERS)
    if form is not None:
        rows = _many(wanted)
        return lists.file(form, "audit", rows, COLUMNS)
    found = frame.api("GET", "/manage/audit", query={**wanted, **_place()})
    return frame.page(
        "audit/list.html",
        records=found.data["events"],
        paging=_paging(found),
        actions=[action.value for action in AuditAction],
        outcomes=OUTCOMES,
        sort=wanted["sort"] or "-timestamp",
        is_filtered=any(wanted[name] for name in FILTERS),
        has_more_filters=any(wanted[name] for name in FILTERS if name not in ("search", "action", "outcome", "actor")),
    )


def _place() -> dict[str, Any]:
    """Return which part is asked for; `page_size` is what `size` is elsewhere."""
    size = min(max(request.args.get("page_size", 20, type=int), 1), lists.LARGEST)
    page = request.args.get("page", type=int)
    if page is not None and not request.args.get("cursor"):
        return {"page": max(page, 1), "page_size": size}
    return {"limit": size, "cursor": request.args.get("cursor")}


def _paging(found: Any) -> dict[str, Any]:
    place = found.data.get("pagination")
    if place is None:
        return lists.paging(found, len(found.data["events"]), found.data["next_cursor"])
    return lists.numbered(len(found.data["events"]), place["page"], place["total_pages"], place["total_count"])


def _many(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the first thousand records."""
    rows, cursor = list[dict[str, Any]](), None
    for _ in range(_MOST_PAGES):
        query = {**wanted, "limit": lists.LARGEST, "cursor": cursor}
        found = frame.api("GET", "/manage/audit", query=query).data
        rows += found["events"]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    return rows


def _pretty(metadata: str | None) -> str | None:
    """Return the JSON text of a record, indented."""
    if not metadata:
        return None
    try:
        return orjson.dumps(orjson.loads(metadata), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return metadata
