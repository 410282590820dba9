"""The event bus and its dead letters, each with replay and drop."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import LlmProxyError
from llm_proxy.events.dead_letters import REASONS
from llm_proxy.web.admin import frame, lists, messages

_LETTERS = "/manage/dispatcher/dead-letters"
_COLUMNS = ("id", "at", "reason", "error", "service", "attempts", "original_id", "bytes")


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    def dispatcher(form: str | None) -> Response:
        """Return lag and dead letters."""
        state = frame.api("GET", "/manage/dispatcher").data
        has_letters = state["bus"] != "in-memory" and frame.may("GET", _LETTERS)
        query = {"reason": request.args.get("reason"), "limit": 1000 if form else 100}
        letters = frame.api("GET", _LETTERS, query=query).data if has_letters else []
        if form is not None:
            return lists.file(form, "dead-letters", letters, _COLUMNS)
        paging = {"text": f"{len(letters)} shown, the oldest first", **lists.files()}
        return frame.page("dispatcher.html", state=state, letters=letters, reasons=REASONS, paging=paging)

    lists.routes(bp, "/dispatcher", "dispatcher", dispatcher)

    @bp.post("/dispatcher/<letter_id>/replay", endpoint="dispatcher_replay")
    def replay(letter_id: str) -> Response:
        """303 to the list."""
        return _act("POST", f"{_LETTERS}/{letter_id}/replay", "The event is on the bus again.")

    @bp.post("/dispatcher/<letter_id>/drop", endpoint="dispatcher_drop")
    def drop(letter_id: str) -> Response:
        """303 to the list."""
        return _act("DELETE", f"{_LETTERS}/{letter_id}", "The dead letter was deleted.")


def _act(method: str, path: str, done: str) -> Response:
    try:
        frame.api(method, path)
        messages.say(done, "success")
    except LlmProxyError as refused:
        messages.say(refused.message, "error")
    return redirect(url_for("admin.dispatcher"), 303)
