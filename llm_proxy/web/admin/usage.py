"""Usage: sums by project, token, model, provider or day, with plots."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from llm_proxy.runtime.clock import utc_now
from llm_proxy.web.admin import frame, lists, routing
from llm_proxy.web.admin.routing import Route

GROUPS = ("project", "token", "model", "provider", "day")
_FILTERS = ("from", "to", "project_id", "token_id", "model", "provider")
_COLUMNS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_usd")
_MEASURES = {
    "requests": ("requests",),
    "tokens": ("prompt_tokens", "completion_tokens"),
    "cost": ("cost_usd",),
}
_ROWS = 25  # of a page
_MOST_DAYS = 1_000  # of a plot
_SHOWN_DAYS = 30  # at least, where the address names no first day


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/usage", "usage", usage)
    routing.add(
        bp,
        Route("GET", "/usage/plot/<any(requests, tokens, cost):measure>", "usage_plot", plot),
    )


def usage(form: str | None) -> AnyResponse:
    """Return sums by what the address names."""
    group = _group()
    if form is not None:
        parts = lists.parts("/manage/usage", {**_asked(), "group_by": group}, "data", lists.MOST_IN_FILE)
        return lists.stream(form, f"usage-by-{group}", parts, (group, *_COLUMNS))
    asked = {**_asked(), "group_by": group, "limit": lists.size(_ROWS), "cursor": request.args.get("cursor")}
    found = frame.api("GET", "/manage/usage", query=asked)
    total = frame.api("GET", "/manage/usage", query=_asked()).data["data"]
    rows = found.data["data"]
    return frame.page(
        "usage.html",
        rows=rows,
        group=group,
        groups=GROUPS,
        total=total[0] if total else None,
        names=_project_names(rows) if group == "project" else {},
        paging=lists.paging(found, len(rows), _ROWS),
        plots=[
            (url_for("admin.usage_plot", measure=measure, **_asked()), title, unit)
            for measure, title, unit in (
                ("requests", "Requests", "requests"),
                ("tokens", "Model tokens", "tokens"),
                ("cost", "Cost", "USD"),
            )
        ],
        days=_by_day() if rows else [],
    )


def plot(measure: str) -> Response:
    """Return a measure by day, for a plot; days without use are 0."""
    days = _by_day()
    series = [{"label": _label(name), "values": [row[name] or 0 for row in days]} for name in _MEASURES[measure]]
    x = [int(datetime.combine(date.fromisoformat(row["day"]), time(), UTC).timestamp()) for row in days]
    return jsonify({"x": x, "series": series})


def _group() -> str:
    group = request.args.get("group", "day")
    return group if group in GROUPS else "day"


def _asked() -> dict[str, Any]:
    return {name: request.args[name] for name in _FILTERS if request.args.get(name)}


def _label(name: str) -> str:
    return name.removesuffix("_usd").replace("_", " ").capitalize()


def _by_day() -> list[dict[str, Any]]:
    """Return the sums of each day in the span of the address, with the days in between."""
    parts = lists.parts("/manage/usage", {**_asked(), "group_by": "day"}, "data", _MOST_DAYS)
    found = {row["day"]: row for part in parts for row in part}
    if not found:
        return []
    last = date.fromisoformat(max(found)) if request.args.get("to") else utc_now().date()
    first = date.fromisoformat(min(found))
    if not request.args.get("from"):
        first = min(first, last - timedelta(days=_SHOWN_DAYS - 1))
    empty = dict.fromkeys(_COLUMNS, 0)
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [found.get(day.isoformat(), {"day": day.isoformat(), **empty}) for day in days]


def _project_names(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return names by id, of the projects of one page; what is gone has none."""
    wanted = {row["project_id"] for row in rows}
    found = frame.api("GET", "/manage/projects", query={"limit": lists.LARGEST}).data
    return {project["id"]: project["name"] for project in found if project["id"] in wanted}
