"""Audit events: list with all filters, and the page of a record."""

from typing import Any

import orjson
from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.db.pagination import Total
from llm_proxy.errors import LlmProxyError
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web.admin import frame, lists, messages, routing
from llm_proxy.web.admin.routing import Route

FILTERS = (
    "search", "action", "outcome", "actor", "project_id", "token_id", "client_ip", "request_id", "correlation_id",
    "method", "path", "start_time", "end_time",
)  # fmt: skip
COLUMNS = (
    "id", "timestamp", "action", "actor", "outcome", "project_id", "token_id", "client_ip", "method", "path",
    "request_id", "correlation_id", "user_agent", "reason", "metadata",
)  # fmt: skip
OUTCOMES = ("success", "failure", "denied", "error")
VERIFICATION = "/manage/audit/verification"
_ROWS = 20  # of a page
_FOUND = {
    "whole": ("The audit trail is whole: no record was changed or left out.", "success"),
    "broken": ("The audit trail is broken; the first fault of each chain is shown below.", "error"),
    "running": ("The verification runs; its result is shown here when it has ended.", "info"),
    "never": ("The verification failed; the server's log says why.", "error"),
}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/audit", "audit", _list)
    routing.add(
        bp,
        Route("POST", "/audit/verify", "audit_verify", verify),
        Route("GET", "/audit/<event_id>", "audit_show", audit_show),
    )


def verify() -> Response:
    """303 to the list, with what was found."""
    try:
        found = frame.api("POST", VERIFICATION).data
    except LlmProxyError as refused:
        messages.say(f"Not verified: {refused.message}.", "error")
    else:
        messages.say(*_FOUND[found["state"]])
    return redirect(url_for("admin.audit"), 303)


def audit_show(event_id: str) -> Response:
    """Return the page of a record; 404."""
    record = frame.api("GET", f"/manage/audit/{event_id}").data
    return frame.page("audit/show.html", record=record, metadata=_pretty(record.get("metadata")))


def _list(form: str | None) -> Response:
    wanted = lists.query(*FILTERS)
    if form is not None:
        parts = lists.parts("/manage/audit", wanted, "events", lists.MOST_IN_FILE)
        return lists.stream(form, "audit", parts, COLUMNS)
    found = lists.read("/manage/audit", {**wanted, **_place()}, "events")
    return frame.page(
        "audit/list.html",
        records=found.data["events"],
        paging=_paging(found),
        actions=[action.value for action in AuditAction],
        outcomes=OUTCOMES,
        chain=frame.api("GET", VERIFICATION).data if frame.may("GET", VERIFICATION) else None,
        sort=wanted["sort"] or "-timestamp",
        is_filtered=any(wanted[name] for name in FILTERS),
        has_more_filters=any(wanted[name] for name in FILTERS if name not in ("search", "action", "outcome", "actor")),
    )


def _place() -> dict[str, Any]:
    """Return which part is asked for; `page_size` is what `size` is elsewhere."""
    size = min(max(request.args.get("page_size", _ROWS, type=int), 1), lists.LARGEST)
    page = request.args.get("page", type=int)
    if page is not None and not request.args.get("cursor"):
        return {"page": max(page, 1), "page_size": size, "total": "bounded"}
    return {"limit": size, "cursor": request.args.get("cursor")}


def _paging(found: Any) -> dict[str, Any]:
    place = found.data.get("pagination")
    if place is None:
        return lists.paging(found, len(found.data["events"]), _ROWS)
    total = Total(place["total_count"], is_more=place.get("total_is_more", False))
    shown = len(found.data["events"])
    return lists.numbered(shown, place["page"], place["total_pages"], total, has_next=place["has_next"], usual=_ROWS)


def _pretty(metadata: str | None) -> str | None:
    """Return the JSON text of a record, indented."""
    if not metadata:
        return None
    try:
        return orjson.dumps(orjson.loads(metadata), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return metadata
