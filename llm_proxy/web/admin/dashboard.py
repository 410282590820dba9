"""The dashboard: cards, plots, findings, recent audit records, and the state of the proxy."""

from typing import Any

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.access.roles import OPERATIONS
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.web.admin import frame, lists, traffic

_STATS, _DOCTOR = ("GET", "/manage/stats"), ("GET", "/manage/doctor")
_READS = (".list", ".read", ".show")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    bp.add_url_rule("/", "index", index, strict_slashes=False)
    lists.routes(bp, "/dashboard", "dashboard", dashboard)


def index() -> Response:
    """302 to the dashboard."""
    return redirect(url_for("admin.dashboard"))


def dashboard(form: str | None) -> Response:
    """Show counts, plots, findings and audit records; as a file, return the rows behind the plots.

    A refresh reads nothing whose reading is recorded, so that a page left open does not fill the audit trail.
    """
    chosen, project_id = traffic.span(), request.args.get("project_id") or None
    if form is not None:
        frame.require(*traffic.OPERATION)
    found = traffic.rows(chosen, project_id) if frame.may(*traffic.OPERATION) else []
    if form is not None:
        return _file(form, chosen, found)
    return frame.page(
        "dashboard.html",
        stats=_stats(),
        records=[] if request.headers.get("HX-Request") == "true" else _recent(),
        findings=_findings(),
        backend=frame.client().health(),
        span=chosen,
        spans=traffic.SPANS,
        project_id=project_id,
        rows=found,
        summary=traffic.summary(found) if found else None,
        plots=traffic.plots(found),
        files=lists.files(),
    )


def _file(form: str, chosen: traffic.Span, found: lists.Rows) -> Response:
    unit = "day" if chosen.is_daily else "hour"
    rows = [{unit: rfc3339(row["at"]), **{name: row[name] for name in traffic.COLUMNS}} for row in found]
    return lists.file(form, f"traffic-{chosen.name}", rows, (unit, *traffic.COLUMNS))


def _stats() -> dict[str, Any] | None:
    """Return the totals; None where the viewer may not see them."""
    if _STATS not in OPERATIONS or not frame.may(*_STATS):
        return None
    found: dict[str, Any] = frame.api(*_STATS).data
    return found


def _findings() -> list[dict[str, Any]] | None:
    """Return what doctor finds, faults first; None where the viewer may not see it."""
    if _DOCTOR not in OPERATIONS or not frame.may(*_DOCTOR):
        return None
    found: list[dict[str, Any]] = frame.api(*_DOCTOR).data["findings"]
    return sorted(found, key=lambda finding: ("fault", "warning", "good").index(finding["level"]))


def _recent() -> list[dict[str, Any]]:
    """Return the last ten audit records, without what the viewer read."""
    if not frame.may("GET", "/manage/audit"):
        return []
    actor = frame.viewer().actor
    records = frame.api("GET", "/manage/audit", query={"limit": 100}).data["events"]
    return [each for each in records if each["actor"] != actor or not each["action"].endswith(_READS)][:10]
