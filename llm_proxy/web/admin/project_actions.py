"""Projects: revoking their tokens, activation and deactivation, each after a page that asks."""

from typing import Any

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from llm_proxy.db.pagination import Total
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, routing
from llm_proxy.web.admin.routing import Route

_TOKENS_TOO = "revoke_tokens"


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    revoking, changing = "POST /manage/projects/{id}/tokens/revoke", "PATCH /manage/projects/{id}"
    routing.add(
        bp,
        Route("GET", "/projects/<project_id>/revoke-tokens", "projects_revoke", _ask_revoke, revoking),
        Route("POST", "/projects/<project_id>/revoke-tokens", "projects_revoke_submit", revoke),
        Route("POST", "/projects/<project_id>/tokens/revoke", "projects_revoke_alias", revoke),
        Route("GET", "/projects/<project_id>/deactivate", "projects_deactivate", _ask_deactivate, changing),
        Route("POST", "/projects/<project_id>/deactivate", "projects_deactivate_submit", deactivate),
        Route("POST", "/projects/<project_id>/activate", "projects_activate", activate),
    )


def revoke(project_id: str) -> Response:
    """303 to the project; 422 without the number typed."""
    error = confirm.fault(_unrevoked(project_id).count)
    if error is not None:
        return _ask_revoke(project_id, error)
    found = frame.api("POST", f"/manage/projects/{project_id}/tokens/revoke").data
    revoked = confirm.counted(found["revoked_count"], "token")
    messages.say(f"{revoked} revoked, {found['already_revoked_count']:,} were before.")
    return _to(project_id)


def deactivate(project_id: str) -> Response:
    """303 to the project; 422 without the number of its tokens typed."""
    error = confirm.fault(_unrevoked(project_id).count)
    if error is not None:
        return _ask_deactivate(project_id, error)
    body: dict[str, Any] = {"is_active": False}
    if forms.is_checked(_TOKENS_TOO):
        body[_TOKENS_TOO] = True
    frame.api("PATCH", f"/manage/projects/{project_id}", body=body)
    messages.say("Project deactivated" + (", its tokens revoked." if _TOKENS_TOO in body else "."))
    return _to(project_id)


def activate(project_id: str) -> Response:
    """303 to the project; tokens that were revoked stay so."""
    frame.api("PATCH", f"/manage/projects/{project_id}", body={"is_active": True})
    messages.say("Project activated. Tokens that were revoked stay revoked.")
    return _to(project_id)


def counts(project_id: str) -> dict[str, Total]:
    """Return how many tokens a project has, and how many of them are active."""
    return {"total": _count(project_id, None), "active": _count(project_id, "active")}


def unconfirmed(project_id: str) -> str | None:
    """Return the number of a project's tokens that must be typed before they end, and was not; None: go on."""
    count = _unrevoked(project_id).count
    return confirm.typed(count) if confirm.fault(count) is not None else None


def _unrevoked(project_id: str) -> Total:
    """Return how many tokens are not revoked; of a large project, among the first that are counted."""
    total, revoked = _count(project_id, None), _count(project_id, "revoked")
    return Total(total.count - revoked.count, total.is_more)


def _count(project_id: str, status: str | None) -> Total:
    query = {"project_id": project_id, "status": status, "page": 1, "page_size": 1, "total": "bounded"}
    return lists.total(frame.api("GET", "/manage/tokens", query=query))


def _ask_revoke(project_id: str, error: str | None = None) -> Response:
    project, found = frame.api("GET", f"/manage/projects/{project_id}").data, _unrevoked(project_id)
    return confirm.page(
        "Revoke all tokens",
        f"Every token of {confirm.isolated(project['name'])} is refused within a second.",
        _impact(project_id, found),
        action=url_for("admin.projects_revoke_submit", project_id=project_id),
        button="Revoke all tokens",
        cancel=url_for("admin.projects_show", project_id=project_id),
        count=found.count,
        error=error,
    )


def _ask_deactivate(project_id: str, error: str | None = None) -> Response:
    project, found = frame.api("GET", f"/manage/projects/{project_id}").data, _unrevoked(project_id)
    return confirm.page(
        "Deactivate project",
        f"Requests of {confirm.isolated(project['name'])} are refused within a second, until it is activated again.",
        _impact(project_id, found),
        action=url_for("admin.projects_deactivate_submit", project_id=project_id),
        button="Deactivate project",
        cancel=url_for("admin.projects_show", project_id=project_id),
        count=found.count,
        option=(_TOKENS_TOO, "Revoke its tokens too, so that they stay dead after an activation"),
        error=error,
    )


def impact(project_id: str) -> str:
    """Return a line on what the end of a project's tokens hits: how many, open streams, the last use."""
    return _impact(project_id, _unrevoked(project_id))


def _impact(project_id: str, unrevoked: Total) -> str:
    latest = frame.api("GET", "/manage/tokens", query={"project_id": project_id, "sort": "-last_used_at", "limit": 1})
    tokens = "1 token that is not revoked" if str(unrevoked) == "1" else f"{unrevoked} tokens that are not revoked"
    used = latest.data[0]["last_used_at"] if latest.data else None
    return ", ".join([tokens, *confirm.open_streams(project_id=project_id), confirm.last_used(used)])


def _to(project_id: str) -> Response:
    return redirect(url_for("admin.projects_show", project_id=project_id), 303)
