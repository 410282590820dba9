"""A completion through the proxy itself, with a token that is made for it and lives ten minutes."""

from flask import Blueprint, Response, jsonify, request

from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import frame

_MINUTES, _MOST_REQUESTS = 10, 20
_ISSUE = ("POST", "/manage/tokens")


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    @bp.get("/playground")
    def playground() -> Response:
        """Return the page; its script sends the request."""
        query = {"limit": 100, "is_active": "true"}
        projects = (
            frame.api("GET", "/manage/projects", query=query).data if frame.may("GET", "/manage/projects") else []
        )
        return frame.page("playground.html", projects=projects)

    @bp.post("/playground/token", endpoint="playground_token")
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

    @bp.get("/playground/<token_id>/usage", endpoint="playground_usage")
    def usage(token_id: str) -> Response:
        """Return what the token used so far, as JSON."""
        found = frame.api("GET", f"/manage/tokens/{token_id}").data
        names = ("request_count", "total_tokens", "total_cost_usd")
        return jsonify({name: found[name] for name in names})
