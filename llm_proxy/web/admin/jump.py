"""The jump box: from a name, an id or a pasted token to its page. What is typed enters no address but as a search."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import LlmProxyError
from llm_proxy.tokens.bearer import is_in
from llm_proxy.web.admin import frame, messages

_ID_CHARACTERS = frozenset("0123456789abcdef-")
_SECRETS = ("sk-", "mk-")


def routes(bp: Blueprint) -> None:
    """Add the route."""

    @bp.post("/jump")
    def jump() -> Response:
        """303 to what the text names, else to the lists that contain it."""
        wanted = request.form.get("q", "").strip()[:300]
        if wanted.startswith(_SECRETS) or is_in(wanted):
            return _by_value(wanted)
        return _by_id(wanted) or _by_name(wanted)


def _by_value(value: str) -> Response:
    """Look a token up by its value, which goes nowhere but to the API's body."""
    try:
        token = frame.api("POST", "/manage/tokens/lookup", body={"token": value}).data
    except LlmProxyError as refused:
        messages.say(f"The pasted token: {refused.message}.", "warning")
        return redirect(url_for("admin.tokens"), 303)
    return redirect(url_for("admin.tokens_show", token_id=token["id"]), 303)


def _by_id(wanted: str) -> Response | None:
    if len(wanted) != 36 or not _ID_CHARACTERS.issuperset(wanted):
        return None
    if _is_there("/manage/tokens", wanted):
        return redirect(url_for("admin.tokens_show", token_id=wanted), 303)
    if _is_there("/manage/projects", wanted):
        return redirect(url_for("admin.projects_show", project_id=wanted), 303)
    if frame.may("GET", "/manage/audit/{id}"):
        return redirect(url_for("admin.audit", request_id=wanted), 303)
    return None


def _is_there(path: str, wanted: str) -> bool:
    return frame.may("GET", path) and bool(frame.api("GET", path, query={"ids": wanted}).data)


def _by_name(wanted: str) -> Response:
    if not wanted or not frame.may("GET", "/manage/projects"):
        return redirect(url_for("admin.tokens", search=wanted or None), 303)
    projects = frame.api("GET", "/manage/projects", query={"search": wanted[:200], "limit": 2}).data
    if len(projects) == 1:
        return redirect(url_for("admin.projects_show", project_id=projects[0]["id"]), 303)
    if projects:
        return redirect(url_for("admin.projects", search=wanted), 303)
    return redirect(url_for("admin.tokens", search=wanted), 303)
