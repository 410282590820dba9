"""Settings in force, and what doctor finds."""

from flask import Blueprint, request
from werkzeug.wrappers import Response

from llm_proxy.web.admin import frame, lists

_COLUMNS = ("variable", "value", "source", "help")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/settings", "settings", settings)
    lists.routes(bp, "/doctor", "doctor", doctor)


def settings(form: str | None) -> Response:
    """Return each variable with its value and where it came from."""
    found = frame.api("GET", "/manage/settings").data
    search, is_changed = request.args.get("search", "").lower(), bool(request.args.get("changed"))
    rows = [
        row
        for row in found
        if search in f"{row['variable']} {row['help']}".lower() and not (is_changed and row["source"] == "default")
    ]
    if form is not None:
        return lists.file(form, "settings", rows, _COLUMNS)
    paging = {"text": f"{len(rows)} of {len(found)}", **lists.files()}
    return frame.page("settings.html", rows=rows, paging=paging)


def doctor(form: str | None) -> Response:
    """Return the findings, faults first."""
    found = frame.api("GET", "/manage/doctor").data
    order = {"fault": 0, "warning": 1, "good": 2}
    rows = sorted(found["findings"], key=lambda finding: order[finding["level"]])
    if form is not None:
        return lists.file(form, "doctor", rows, ("code", "level", "what", "remedy"))
    faults = sum(row["level"] == "fault" for row in rows)
    paging = {"text": f"{len(rows)} findings", **lists.files()}
    return frame.page("doctor.html", rows=rows, faults=faults, examined_at=found["examined_at"], paging=paging)
