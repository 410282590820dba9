"""Projects: revoking their tokens, activation and deactivation, each after a page that asks."""

from typing import Any

from flask import Blueprint, url_for
from werkzeug.wrappers import Response

from llm_proxy.db.pagination import Total
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, routing
from llm_proxy.web.admin.routing import Route

_ONE = "/projects/<project_id>"
_TOKENS_TOO = "revoke_tokens"


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    revoking, changing = "POST /manage/projects/{id}/tokens/revoke", "PATCH /manage/projects/{id}"
    routing.add_form(bp, f"{_ONE}/revoke-tokens", "projects_revoke", _ask_revoke, revoke, revoking)
    routing.add_form(bp, f"{_ONE}/deactivate", "projects_deactivate", _ask_deactivate, deactivate, changing)
    routing.add(
        bp,
        Route("POST", f"{_ONE}/tokens/revoke", "projects_revoke_alias", revoke),
        Route("POST", f"{_ONE}/activate", "projects_activate", activate),
    )


def revoke(project_id: str) -> Response:
    """303 to the project; 422 without the number typed."""
    error = confirm.fault(_unrevoked(project_id).count)
    if error is not None:
        return _ask_revoke(project_id, error)
    found = frame.api("POST", f"/manage/projects/{project_id}/tokens/revoke").data
    revoked = confirm.counted(found["revoked_count"], "token")
    return messages.redirect_with(
        f"{revoked} revoked, {found['already_revoked_count']:,} were before.", "projects_show", project_id=project_id
    )


def deactivate(project_id: str) -> Response:
    """303 to the project; 422 without the number of its tokens typed."""
    error = confirm.fault(_unrevoked(project_id).count)
    if error is not None:
        return _ask_deactivate(project_id, error)
    body: dict[str, Any] = {"is_active": False}
    if forms.is_checked(_TOKENS_TOO):
        body[_TOKENS_TOO] = True
    frame.api("PATCH", f"/manage/projects/{project_id}", body=body)
    return messages.redirect_with(
        "Project deactivated" + (", its tokens revoked." if _TOKENS_TOO in body else "."),
        "projects_show",
        project_id=project_id,
    )


def activate(project_id: str) -> Response:
    """303 to the project; tokens that were revoked stay so."""
    frame.api("PATCH", f"/manage/projects/{project_id}", body={"is_active": True})
    return messages.redirect_with(
        "Project activated. Tokens that were revoked stay revoked.", "projects_show", project_id=project_id
    )


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
    effect = "Every token of {} is refused within a second."
    return _ask(project_id, "Revoke all tokens", effect, "projects_revoke_submit", error)


def _ask_deactivate(project_id: str, error: str | None = None) -> Response:
    effect = "Requests of {} are refused within a second, until it is activated again."
    too = (_TOKENS_TOO, "Revoke its tokens too, so that they stay dead after an activation")
    return _ask(project_id, "Deactivate project", effect, "projects_deactivate_submit", error, too)


def _ask(
    project_id: str, title: str, effect: str, submit: str, error: str | None, option: tuple[str, str] | None = None
) -> Response:
    """Return the page that asks before tokens of a project end; `effect` has a place for the project's name."""
    project, found = frame.api("GET", f"/manage/projects/{project_id}").data, _unrevoked(project_id)
    return confirm.page(
        title,
        effect.format(confirm.isolated(project["name"])),
        _impact(project_id, found),
        action=url_for(f"admin.{submit}", project_id=project_id),
        cancel=url_for("admin.projects_show", project_id=project_id),
        count=found.count,
        option=option,
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
