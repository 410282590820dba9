"""The jump box: from a name, an id or a pasted token to its page. What is typed enters no address but as a search."""

import re

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import LlmProxyError
from llm_proxy.redaction import redact
from llm_proxy.tokens.bearer import found_in
from llm_proxy.web.admin import frame, messages, routing
from llm_proxy.web.admin.routing import Route

_PROJECTS, _TOKENS = "/manage/projects", "/manage/tokens"
_ID_CHARACTERS = frozenset("0123456789abcdef-")
# A credential, or what has the looks of one: a JSON web token, a long text of one word with digits.
_SECRET = re.compile(r"\b(?:sk|mk)-|^ey[A-Za-z0-9_-]+\.|^(?=.*[0-9])[A-Za-z0-9+/_=-]{32,}$")
_LONGEST = 4096


def routes(bp: Blueprint) -> None:
    """Add the route."""
    routing.add(
        bp,
        Route("POST", "/jump", "jump", jump),
    )


def jump() -> Response:
    """303 to what the text names, else to the lists that contain it."""
    wanted = request.form.get("q", "").strip()[:_LONGEST]
    found = _by_id(wanted)
    if found is not None:
        return found
    if is_secret(wanted):
        return _by_value(found_in(wanted) or wanted)
    return _by_name(wanted)


def is_secret(text: str) -> bool:
    """Whether a text may be a credential, so that it must stand in no address."""
    return _SECRET.search(text) is not None or redact(text) != text


def _by_value(value: str) -> Response:
    """Look a token up by its value, which goes nowhere but to the API's body."""
    try:
        token = frame.api("POST", "/manage/tokens/lookup", body={"token": value}).data
    except LlmProxyError as refused:
        messages.say(
            f"The pasted token: {refused.message}. To find a long name, use the filter of the list.", "warning"
        )
        return redirect(url_for("admin.tokens"), 303)
    return redirect(url_for("admin.tokens_show", token_id=token["id"]), 303)


def _by_id(wanted: str) -> Response | None:
    if len(wanted) != 36 or not _ID_CHARACTERS.issuperset(wanted):
        return None
    if _is_there(_TOKENS, wanted):
        return redirect(url_for("admin.tokens_show", token_id=wanted), 303)
    if _is_there(_PROJECTS, wanted):
        return redirect(url_for("admin.projects_show", project_id=wanted), 303)
    if frame.may("GET", "/manage/audit/{id}"):
        return redirect(url_for("admin.audit", request_id=wanted), 303)
    return None


def _is_there(path: str, wanted: str) -> bool:
    return frame.may("GET", path) and bool(frame.api("GET", path, query={"ids": wanted}).data)


def _by_name(wanted: str) -> Response:
    """Show the one project or token of this name, or the list of those that contain it; nothing found is told."""
    if not wanted:
        return redirect(url_for("admin.tokens"), 303)
    found = _by_name_of(wanted)
    if found is not None:
        return found
    messages.say("Nothing has this name or id.", "warning")
    return redirect(url_for("admin.projects" if frame.may("GET", _PROJECTS) else "admin.tokens"), 303)


def _by_name_of(wanted: str) -> Response | None:
    """Return the way to what contains a text in its name; None where nothing does, so that no address has the text."""
    for path, show, many, parameter in (
        (_PROJECTS, "admin.projects_show", "admin.projects", "project_id"),
        (_TOKENS, "admin.tokens_show", "admin.tokens", "token_id"),
    ):
        if not frame.may("GET", path):
            continue
        rows = frame.api("GET", path, query={"search": wanted[:200], "limit": 2}).data
        if len(rows) == 1:
            return redirect(url_for(show, **{parameter: rows[0]["id"]}), 303)
        if rows:
            return redirect(url_for(many, search=wanted[:200]), 303)
    return None
