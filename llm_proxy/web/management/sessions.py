"""/manage/sessions: people who are signed in to the admin UI."""

from typing import Any

from flask import Blueprint, Response

from llm_proxy.access.sessions import Session
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.management import rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/sessions", "GET", index)
    add(bp, "/sessions/<session_id>", "DELETE", end)


def index() -> Response:
    """Return 200 with live sessions: all for an unlimited admin, else those of the same person."""
    with current().attempt(AuditAction.SESSION_LIST, "failed to list sessions") as attempt:
        found = context.services().sessions.list(current().caller)
        attempt.succeeded(session_count=len(found))
    return rendering.json_response([session_json(session) for session in found])


def end(session_id: str) -> Response:
    """Return 204 when it has ended; 404."""
    attempt = current().attempt(AuditAction.SESSION_END, "failed to end the session")
    with attempt, attempt.transaction() as tx:
        context.services().sessions.end_by_id(tx, session_id, current().caller)
    return rendering.no_content()


def session_json(session: Session) -> dict[str, Any]:
    """Return what is shown of a session; its id is a hash that opens nothing."""
    return {
        "id": session.id,
        "actor": session.caller.actor,
        "role": session.caller.role.value,
        "method": session.method.value,
        "remember": session.remember,
        "client_ip": session.client_ip,
        "user_agent": session.user_agent,
        "created_at": rendering.time_of(session.created_at),
        "last_seen_at": rendering.time_of(session.last_seen_at),
        "expires_at": rendering.time_of(session.expires_at),
    }
