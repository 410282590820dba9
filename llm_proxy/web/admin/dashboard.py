"""The dashboard."""

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from llm_proxy.web.admin import frame


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    @bp.get("/")
    def index() -> Response:
        """302 to the dashboard."""
        return redirect(url_for("admin.dashboard"))

    @bp.get("/dashboard")
    def dashboard() -> Response:
        """Counts, plots, findings and recent audit records."""
        records = frame.api("GET", "/manage/audit", query={"limit": 10}).data["events"] if _may_audit() else []
        return frame.page("dashboard.html", records=records)


def _may_audit() -> bool:
    return frame.may("GET", "/manage/audit")
