"""Projects: revoking their tokens, activation and deactivation, each after a page that asks."""

from typing import Any

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from llm_proxy.db.pagination import Total
from llm_proxy.web.admin import confirm, forms, frame, lists, messages

_TOKENS_TOO = "revoke_tokens"


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    @bp.get("/projects/<project_id>/revoke-tokens")
    def projects_revoke(project_id: str) -> Response:
        """Ask before all tokens of a project are revoked."""
        return _ask_revoke(project_id)

    def revoke(project_id: str) -> Response:
        """303 to the project; 422 without the number typed."""
        error = confirm.fault(_unrevoked(project_id).count)
        if error is not None:
            return _ask_revoke(project_id, error)
        found = frame.api("POST", f"/manage/projects/{project_id}/tokens/revoke").data
        messages.say(f"{found['revoked_count']:,} tokens revoked, {found['already_revoked_count']:,} were before.")
        return _to(project_id)

    bp.add_url_rule("/projects/<project_id>/revoke-tokens", "projects_revoke_submit", revoke, methods=["POST"])
    bp.add_url_rule("/projects/<project_id>/tokens/revoke", "projects_revoke_alias", revoke, methods=["POST"])

    @bp.get("/projects/<project_id>/deactivate")
    def projects_deactivate(project_id: str) -> Response:
        """Ask before a project is deactivated."""
        return _ask_deactivate(project_id)

    @bp.post("/projects/<project_id>/deactivate", endpoint="projects_deactivate_submit")
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

    @bp.post("/projects/<project_id>/activate", endpoint="projects_activate")
    def activate(project_id: str) -> Response:
        """303 to the project; tokens that were revoked stay so."""
        frame.api("PATCH", f"/manage/projects/{project_id}", body={"is_active": True})
        messages.say("Project activated. Tokens that were revoked stay revoked.")
        return _to(project_id)


def counts(project_id: str) -> dict[str, Total]:
    """Return how many tokens a project has, and how many of them are active."""
    return {"total": _count(project_id, None), "active": _count(project_id, "active")}


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
        f"Every token of {project['name']} is refused within a second.",
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
        f"Requests of {project['name']} are refused within a second, until it is activated again.",
        _impact(project_id, found),
        action=url_for("admin.projects_deactivate_submit", project_id=project_id),
        button="Deactivate project",
        cancel=url_for("admin.projects_show", project_id=project_id),
        count=found.count,
        option=(_TOKENS_TOO, "Revoke its tokens too, so that they stay dead after an activation"),
        error=error,
    )


def _impact(project_id: str, unrevoked: Total) -> str:
    latest = frame.api("GET", "/manage/tokens", query={"project_id": project_id, "sort": "-last_used_at", "limit": 1})
    used = latest.data[0]["last_used_at"] if latest.data else None
    parts = [f"{unrevoked} tokens that are not revoked", *confirm.open_streams(project_id=project_id)]
    return ", ".join([*parts, "never used" if used is None else f"last used {confirm.ago(used)}"])


def _to(project_id: str) -> Response:
    return redirect(url_for("admin.projects_show", project_id=project_id), 303)
