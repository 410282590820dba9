"""/manage/audit/verification: whether the audit trail is whole. Its last verification is a record of the trail."""

from dataclasses import replace
from typing import Any

import orjson
from flask import Blueprint, Response
from sqlalchemy import RowMapping

from llm_proxy.audit.query import AuditFilter, by_time
from llm_proxy.audit.verify import Report
from llm_proxy.errors import Conflict
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.operations.audit_check import details
from llm_proxy.runtime.clock import utc_now
from llm_proxy.web import context
from llm_proxy.web.context import services
from llm_proxy.web.management import rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add

_WAITED_S = 2.0
_MEMBERS = ("records", "writers", "without_chain", "faults")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/audit/verification", "GET", show)
    add(bp, "/audit/verification", "POST", verify)


def show() -> Response:
    """Return 200 with the last verification."""
    with current().attempt(AuditAction.AUDIT_VERIFY, "failed to read the verification"):
        shown = _state()
    return rendering.json_response(shown)


def verify() -> Response:
    """Return 200 with what was found, or 202 where it takes longer than two seconds; 409 where none is kept."""
    call = current()
    with call.attempt(AuditAction.AUDIT_VERIFY, "failed to verify the audit trail"):
        settings = services().settings.operation
        if not (settings.audit_enabled and settings.audit_store_in_db):
            raise Conflict("audit records are not kept in the database", code="audit_not_stored")
        event, audit = call.event(AuditAction.AUDIT_VERIFY, "success", {}), services().audit

        def record(report: Report) -> None:
            outcome = "failure" if report.faults else "success"
            found = {**event.details, **details(report)}
            audit.record(replace(event, outcome=outcome, timestamp=utc_now(), details=found))

        check = context.services().audit_check
        check.begin(record)
        is_done = check.wait(_WAITED_S)
        shown = _state()
    return rendering.json_response(shown, 200 if is_done else 202)


def _state() -> dict[str, Any]:
    wanted = AuditFilter({"action": AuditAction.AUDIT_VERIFY.value})
    rows, _ = services().audit_log.after(wanted, by_time(descending=True), 10, None)
    last = next((row for row in rows if row["outcome"] != "error" and "records" in _metadata(row)), None)
    is_running = context.services().audit_check.is_running
    if last is None:
        return {"state": "running" if is_running else "never", "verified_at": None, "actor": None} | _nothing()
    known = _metadata(last)
    state = "running" if is_running else "broken" if known["faults"] else "whole"
    about = {"state": state, "verified_at": rendering.time_of(last["timestamp"]), "actor": last["actor"]}
    return about | {name: known.get(name) for name in _MEMBERS}


def _metadata(row: RowMapping) -> dict[str, Any]:
    try:
        found = orjson.loads(row["metadata"] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _nothing() -> dict[str, Any]:
    return dict.fromkeys(_MEMBERS)
