"""Running requests, each of which can be cut after a page that asks."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import ResourceNotFound
from llm_proxy.web.admin import confirm, frame, lists, messages, routing

_COLUMNS = (
    "id", "kind", "project_id", "token_id", "model", "method", "path", "status", "started_at", "request_bytes",
    "response_bytes", "client_ip", "request_id",
)  # fmt: skip
_MOST = 200  # shown on the page; files hold all
_FILTERS = ("kind", "project_id", "token_id")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/streams", "streams", streams)
    routing.add_form(bp, "/streams/<stream_id>/cut", "streams_cut", ask_cut, cut, "DELETE /manage/streams/{id}")


def streams(form: str | None) -> Response:
    """Return what runs now."""
    found = _running()
    wanted = {name: request.args[name] for name in _FILTERS if request.args.get(name)}
    rows = [row for row in found if all(row[name] == value for name, value in wanted.items())]
    if form is not None:
        return lists.file(form, "streams", rows, _COLUMNS)
    text = f"{len(rows)} running" if len(rows) <= _MOST else f"the oldest {_MOST} of {len(rows):,}"
    return frame.page(
        "streams.html", rows=rows[:_MOST], is_filtered=bool(wanted), paging={"text": text, **lists.files()}
    )


def ask_cut(stream_id: str) -> Response:
    """Ask before a running request is cut; 303 to the list where it has ended."""
    row = next((each for each in _running() if each["id"] == stream_id), None)
    if row is None:
        return messages.redirect_with("The request had ended already.", "streams", "warning")
    return confirm.page(
        "Cut request",
        "The connection to the client ends at once, and so does the request to the provider. "
        "What was used so far is charged.",
        _impact(row),
        action=url_for("admin.streams_cut_submit", stream_id=stream_id),
        cancel=url_for("admin.streams"),
    )


def cut(stream_id: str) -> Response:
    """303 to the list."""
    try:
        frame.api("DELETE", f"/manage/streams/{stream_id}")
    except ResourceNotFound:
        return messages.redirect_with("The request had ended already.", "streams", "warning")
    return messages.redirect_with("The request was cut.", "streams")


def _running() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.api("GET", "/manage/streams").data
    return rows


def _impact(row: Mapping[str, Any]) -> str:
    parts = [f"1 {row['kind']}", f"{row['method']} {row['path']}"]
    parts += [f"{name} {row[member]}" for name, member in (("model", "model"), ("token", "token_id")) if row[member]]
    sent = confirm.counted(row["response_bytes"] or 0, "byte")
    return ", ".join([*parts, f"began {confirm.ago(row['started_at'])}", f"{sent} sent"])
