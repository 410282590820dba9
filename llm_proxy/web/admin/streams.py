"""Running requests, with a button that cuts one."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import ResourceNotFound
from llm_proxy.web.admin import frame, lists, messages

_COLUMNS = (
    "id", "kind", "project_id", "token_id", "model", "method", "path", "status", "started_at", "request_bytes",
    "response_bytes", "client_ip", "request_id",
)  # fmt: skip
_MOST = 200  # shown on the page; files hold all
_FILTERS = ("kind", "project_id", "token_id")


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    def streams(form: str | None) -> Response:
        """Return what runs now."""
        found = frame.api("GET", "/manage/streams").data
        wanted = {name: request.args[name] for name in _FILTERS if request.args.get(name)}
        rows = [row for row in found if all(row[name] == value for name, value in wanted.items())]
        if form is not None:
            return lists.file(form, "streams", rows, _COLUMNS)
        text = f"{len(rows)} running" if len(rows) <= _MOST else f"the oldest {_MOST} of {len(rows):,}"
        return frame.page(
            "streams.html", rows=rows[:_MOST], is_filtered=bool(wanted), paging={"text": text, **lists.files()}
        )

    lists.routes(bp, "/streams", "streams", streams)

    @bp.post("/streams/<stream_id>/cut", endpoint="streams_cut")
    def cut(stream_id: str) -> Response:
        """303 to the list."""
        try:
            frame.api("DELETE", f"/manage/streams/{stream_id}")
            messages.say("The request was cut.", "success")
        except ResourceNotFound:
            messages.say("The request had ended already.", "warning")
        return redirect(url_for("admin.streams"), 303)
