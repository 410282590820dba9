"""The event bus and its dead letters, each with replay and drop."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import LlmProxyError, ResourceNotFound
from llm_proxy.events.dead_letters import REASONS
from llm_proxy.web.admin import confirm, frame, lists, messages, routing
from llm_proxy.web.admin.routing import Route

_LETTERS = "/manage/dispatcher/dead-letters"
_MOST_LETTERS = 1000
_DROP = "drop"  # to be typed
_COLUMNS = ("id", "at", "reason", "error", "service", "attempts", "original_id", "bytes")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/dispatcher", "dispatcher", dispatcher)
    dropping = "DELETE /manage/dispatcher/dead-letters/{id}"
    routing.add(
        bp,
        Route("GET", "/dispatcher/consumers.<any(csv, json):form>", "dispatcher_consumers", consumers_file),
        Route("POST", "/dispatcher/<letter_id>/replay", "dispatcher_replay", replay),
    )
    routing.add_form(bp, "/dispatcher/<letter_id>/drop", "dispatcher_drop", _ask_drop, drop, dropping)


def dispatcher(form: str | None) -> Response:
    """Return lag and dead letters."""
    state = frame.api("GET", "/manage/dispatcher").data
    if form is not None:
        frame.require("GET", _LETTERS)
    has_letters = state["bus"] != "in-memory" and frame.may("GET", _LETTERS)
    query = {"reason": request.args.get("reason"), "limit": _MOST_LETTERS if form else 100}
    letters = frame.api("GET", _LETTERS, query=query).data if has_letters else []
    if form is not None:
        return lists.file(form, "dead-letters", letters, _COLUMNS)
    paging = {"text": f"{len(letters)} shown, the oldest first", **lists.files()}
    return frame.page("dispatcher.html", state=state, letters=letters, reasons=REASONS, paging=paging)


def consumers_file(form: str) -> Response:
    """Return the consumers of the bus as a file."""
    rows = frame.api("GET", "/manage/dispatcher").data["consumers"]
    return lists.file(form, "consumers", rows, ("name", "pending", "undelivered"))


def replay(letter_id: str) -> Response:
    """303 to the list."""
    return _act("POST", f"{_LETTERS}/{letter_id}/replay", "The event is on the bus again.")


def drop(letter_id: str) -> Response:
    """303 to the list; 422 without the word typed."""
    error = confirm.fault(phrase=_DROP)
    if error is not None:
        return _ask_drop(letter_id, error)
    return _act("DELETE", f"{_LETTERS}/{letter_id}", "The dead letter was deleted.")


def _ask_drop(letter_id: str, error: str | None = None) -> Response:
    letters = frame.api("GET", _LETTERS, query={"limit": _MOST_LETTERS}).data
    letter = next((each for each in letters if each["id"] == letter_id), None)
    if letter is None:
        raise ResourceNotFound("there is no such dead letter")
    return confirm.page(
        "Drop dead letter",
        "The event is deleted and reaches no service any more. Replay it instead, where the service works again.",
        f"1 event of {letter['bytes'] or 0:,} bytes, given up {confirm.ago(letter['at'])} after {letter['attempts']} "
        f"attempts ({letter['reason']}: {letter['error']})",
        action=url_for("admin.dispatcher_drop_submit", letter_id=letter_id),
        cancel=url_for("admin.dispatcher"),
        phrase=_DROP,
        error=error,
    )


def _act(method: str, path: str, done: str) -> Response:
    try:
        frame.api(method, path)
        messages.say(done, "success")
    except LlmProxyError as refused:
        messages.say(refused.message, "error")
    return redirect(url_for("admin.dispatcher"), 303)
