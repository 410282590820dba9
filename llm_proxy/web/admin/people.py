"""Sessions of people: list, and the end of one after a page that asks."""

from typing import Any

from flask import Blueprint, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import ResourceNotFound
from llm_proxy.web.admin import confirm, cookies, frame, lists, messages, routing

_COLUMNS = (
    "id", "actor", "role", "method", "remember", "client_ip", "user_agent", "created_at", "last_seen_at", "expires_at",
)  # fmt: skip


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/people", "people", people)
    routing.add_form(bp, "/people/<session_id>/end", "people_end", ask_end, end, "DELETE /manage/sessions/{id}")


def people(form: str | None) -> Response:
    """Show the people who are signed in."""
    rows = _sessions()
    if form is not None:
        return lists.file(form, "sessions", rows, _COLUMNS)
    return frame.page("keys/people.html", sessions=rows, files=lists.files())


def ask_end(session_id: str) -> Response:
    """Ask before a session is ended; 404."""
    session = next((each for each in _sessions() if each["id"] == session_id), None)
    if session is None:
        raise ResourceNotFound("there is no such session, or it has ended")
    own = cookies.session()
    is_own = own is not None and own.id == session_id
    return confirm.page(
        "End session",
        f"{confirm.isolated(session['actor'])} must sign in again; what is typed in open forms is lost."
        + (" It is the session that you use now." if is_own else ""),
        f"1 session with the role {session['role']}, began {confirm.ago(session['created_at'])}, "
        f"last seen {confirm.ago(session['last_seen_at'])}",
        action=url_for("admin.people_end_submit", session_id=session_id),
        cancel=url_for("admin.people"),
    )


def end(session_id: str) -> Response:
    """303 to the list."""
    frame.api("DELETE", f"/manage/sessions/{session_id}")
    return messages.redirect_with("Session ended.", "people")


def _sessions() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame.api("GET", "/manage/sessions").data
    return rows
