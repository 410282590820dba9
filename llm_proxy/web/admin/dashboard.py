"""The dashboard: cards, plots, findings, recent audit records, and the state of the proxy."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from llm_proxy.access.roles import OPERATIONS
from llm_proxy.errors import ResourceNotFound
from llm_proxy.runtime.clock import utc_now
from llm_proxy.web.admin import frame
from llm_proxy.web.management.answers import answer

_STATS, _DOCTOR = ("GET", "/manage/stats"), ("GET", "/manage/doctor")
_DAYS = 30
_EVER = "2020-01-01"  # before any usage
_PLOTS = {
    "requests": {"requests": "Requests"},
    "tokens": {"prompt_tokens": "Prompt", "completion_tokens": "Completion"},
    "cost": {"cost_usd": "Cost"},
}
_READS = (".list", ".read", ".show")


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    @bp.get("/")
    def index() -> Response:
        """302 to the dashboard."""
        return redirect(url_for("admin.dashboard"))

    @bp.get("/dashboard")
    def dashboard() -> Response:
        """Show counts, plots, findings and recent audit records."""
        return frame.page(
            "dashboard.html",
            stats=_stats(),
            total=_total_requests(),
            records=_recent(),
            findings=_findings(),
            backend=frame.client().health(),
            has_usage=frame.may("GET", "/manage/usage"),
        )

    @bp.get("/dashboard/status")
    def dashboard_status() -> Response:
        """Show the part that refreshes itself."""
        return frame.page("dashboard_status.html", backend=frame.client().health())

    @bp.get("/dashboard/plots/<name>.json")
    def dashboard_plot(name: str) -> Response:
        """Return a day's sums as a plot takes them: seconds and series."""
        if name not in _PLOTS:
            raise ResourceNotFound("no such plot")
        return answer(_plot(_PLOTS[name]))


def _stats() -> dict[str, Any] | None:
    """Return the totals; None where the viewer may not see them."""
    if _STATS not in OPERATIONS or not frame.may(*_STATS):
        return None
    found: dict[str, Any] = frame.api(*_STATS).data
    return found


def _total_requests() -> int | None:
    if not frame.may("GET", "/manage/usage"):
        return None
    rows = frame.api("GET", "/manage/usage", query={"from": _EVER}).data["data"]
    return sum(int(row["requests"]) for row in rows)


def _findings() -> list[dict[str, Any]]:
    if _DOCTOR not in OPERATIONS or not frame.may(*_DOCTOR):
        return []
    found: list[dict[str, Any]] = frame.api(*_DOCTOR).data["findings"]
    return found


def _recent() -> list[dict[str, Any]]:
    """Return the last ten audit records, without what the viewer read."""
    if not frame.may("GET", "/manage/audit"):
        return []
    actor = frame.viewer().actor
    records = frame.api("GET", "/manage/audit", query={"limit": 100}).data["events"]
    return [each for each in records if each["actor"] != actor or not each["action"].endswith(_READS)][:10]


def _plot(names: dict[str, str]) -> dict[str, Any]:
    today = utc_now().astimezone(UTC).date()
    days = [today - timedelta(days=back) for back in range(_DAYS - 1, -1, -1)]
    query = {"group_by": "day", "from": days[0].isoformat(), "to": today.isoformat()}
    rows = {row["day"]: row for row in frame.api("GET", "/manage/usage", query=query).data["data"]}
    return {
        "x": [int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) for day in days],
        "series": [
            {"label": label, "values": [rows.get(day.isoformat(), {}).get(name) or 0 for day in days]}
            for name, label in names.items()
        ],
    }
