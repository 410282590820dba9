"""A completion through the proxy itself, with a token that is made for it and lives ten minutes."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import frame, routing
from llm_proxy.web.admin.routing import Route

_MINUTES, _MOST_REQUESTS = 10, 20
_ISSUE, _PROJECTS = ("POST", "/manage/tokens"), ("GET", "/manage/projects")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    routing.add(
        bp,
        Route("GET", "/playground", "playground", playground, " ".join(_ISSUE)),
        Route("POST", "/playground/token", "playground_token", token),
        Route("GET", "/playground/<token_id>/usage", "playground_usage", usage),
    )


def playground() -> Response:
    """Return the page; its script sends the request."""
    return frame.page("playground.html", projects=_projects(request.args.get("project_id")))


def token() -> Response:
    """Return a new short-lived token for the page's script, as JSON; shown nowhere."""
    body = {
        "project_id": request.form.get("project_id", ""),
        "duration_minutes": _MINUTES,
        "max_requests": _MOST_REQUESTS,
        "name": "playground",
    }
    try:
        issued = frame.api(*_ISSUE, body=body).data
    except LlmProxyError as refused:
        response = jsonify({"error": refused.message})
        response.status_code = refused.status
        return response
    return jsonify({"token": issued["token"], "id": issued["id"], "base": f"{request.script_root}/v1"})


def usage(token_id: str) -> Response:
    """Return what the token used so far, as JSON."""
    found = frame.api("GET", f"/manage/tokens/{token_id}").data
    names = ("request_count", "total_tokens", "total_cost_usd")
    return jsonify({name: found[name] for name in names})


def _projects(wanted: str | None) -> list[dict[str, Any]]:
    """Return the first hundred active projects, and the one that the address names."""
    if not frame.may(*_PROJECTS):
        return []
    found: list[dict[str, Any]] = frame.api(*_PROJECTS, query={"limit": 100, "is_active": "true"}).data
    if wanted and all(project["id"] != wanted for project in found):
        found = [*frame.api(*_PROJECTS, query={"ids": wanted}).data, *found]
    return found
