"""/manage/audit."""

from typing import Any

from flask import Blueprint, Response
from sqlalchemy import RowMapping

from llm_proxy.audit.query import EXACT, SHOWN, AuditFilter, by_time
from llm_proxy.db.pagination import InvalidCursor
from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web.context import services
from llm_proxy.web.management import pagination, parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.pagination import LARGEST, LAST_PAGE, PAGE_SIZE
from llm_proxy.web.management.routing import add


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/audit", "GET", index)
    add(bp, "/audit/<event_id>", "GET", show)


def index() -> Response:
    """200 with events and their place; 400 names the parameter."""
    with current().attempt(AuditAction.AUDIT_LIST, "failed to list audit events") as attempt:
        if parsing.parameter("limit") or parsing.parameter("cursor"):
            shown = _by_key()
            attempt.succeeded(events_count=len(shown["events"]))
        else:
            shown = _by_page()
            place = shown["pagination"]
            attempt.succeeded(
                events_count=len(shown["events"]),
                page=place["page"],
                page_size=place["page_size"],
                total_count=place["total_count"],
            )
    return rendering.json_response(shown)


def show(event_id: str) -> Response:
    """200 with the event; 404."""
    details = {"audit_event_id": event_id}
    with current().attempt(AuditAction.AUDIT_SHOW, "failed to get audit event", details=details) as attempt:
        if not event_id.strip():
            raise BadRequest("audit event ID is required", param="id")
        row = services().audit_log.get(event_id.replace("\x00", "\ufffd"), current().caller.projects)
        attempt.succeeded()
    return rendering.json_response(event_json(row))


def event_json(row: RowMapping) -> dict[str, Any]:
    """Return an audit record as the API shows it."""
    shown = {
        "id": row["id"],
        "timestamp": rendering.time_of(row["timestamp"]),
        "action": row["action"],
        "actor": row["actor"],
        "outcome": row["outcome"],
    }
    return shown | {name: row[name] for name in SHOWN if row[name] is not None}


def filters() -> AuditFilter:
    """From the query. Raises BadRequest."""
    exact = {name: value for name in EXACT if (value := parsing.word(name)) is not None}
    since, until = parsing.instant("start_time"), parsing.instant("end_time", is_end=True)
    if since is not None and until is not None and since > until:
        raise BadRequest("start_time is after end_time", param="start_time")
    return AuditFilter(exact, parsing.search(), since, until, current().caller.projects)


def _is_descending() -> bool:
    sort = parsing.parameter("sort")
    if sort not in (None, "asc", "desc", "timestamp", "-timestamp"):
        raise BadRequest("sort must be one of asc, desc, timestamp, -timestamp", param="sort")
    return sort not in ("asc", "timestamp")


def _by_page() -> dict[str, Any]:
    page = parsing.integer("page", 1, LAST_PAGE) or 1
    size = min(parsing.integer("page_size", 1, LAST_PAGE) or PAGE_SIZE, LARGEST)
    order = by_time(descending=_is_descending())
    rows, total = services().audit_log.page(filters(), order, page, size, pagination.most())
    pages, has_next = pagination.pages(total, page, size, len(rows))
    place = {
        "page": page,
        "page_size": size,
        "total_count": total.count,
        "total_pages": pages,
        "has_next": has_next,
        "has_prev": page > 1,
    }
    more = {"total_is_more": True} if total.is_more else {}
    return {"events": [event_json(row) for row in rows], "pagination": place | more}


def _by_key() -> dict[str, Any]:
    if parsing.parameter("page") or parsing.parameter("page_size"):
        raise BadRequest("page and limit cannot be combined", param="limit")
    limit = parsing.integer("limit", 1, LARGEST) or PAGE_SIZE
    order = by_time(descending=_is_descending())
    try:
        rows, following = services().audit_log.after(filters(), order, limit, parsing.parameter("cursor"))
    except InvalidCursor as error:
        raise parsing.invalid("cursor") from error
    return {"events": [event_json(row) for row in rows], "next_cursor": following}
