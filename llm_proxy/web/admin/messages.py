"""Messages that a change leaves for the next page: in a cookie of one use, so that a redirect can stand between."""

import base64
import binascii
import hashlib
import hmac
from typing import Any

import orjson
from flask import g, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.web import context
from llm_proxy.web.admin import cookies

COOKIE = "llmproxy_message"
_CATEGORIES = ("success", "warning", "error", "info")
_LONGEST_S = 60


def say(text: str, category: str = "success") -> None:
    """Show a text on the next page of this session."""
    g.admin_message = (category, text)


def redirect_with(text: str, endpoint: str, category: str = "success", **values: Any) -> Response:
    """Return 303 to a page of the admin UI that shows a text."""
    say(text, category)
    return redirect(url_for(f"admin.{endpoint}", **values), 303)


def taken() -> list[tuple[str, str]]:
    """Return what the request before this one left, once."""
    sealed = request.cookies.get(COOKIE)
    found = None if sealed is None else _opened(sealed)
    g.is_admin_message_shown = sealed is not None
    return [] if found is None else [found]


def keep(response: Response, path: str) -> None:
    """Set the cookie of a message that was said, and remove the one of a message that was shown."""
    path = context.external(path)
    if "admin_message" in g:
        cookies.set_cookie(response, COOKIE, _sealed(*g.admin_message), path=path, max_age=_LONGEST_S)
    elif g.get("is_admin_message_shown"):
        response.delete_cookie(COOKIE, path=path)


def _sealed(category: str, text: str) -> str:
    content = base64.urlsafe_b64encode(orjson.dumps([category, text])).decode()
    return f"{content}.{_seal(content)}"


def _opened(sealed: str) -> tuple[str, str] | None:
    content, _, seal = sealed.partition(".")
    if not hmac.compare_digest(seal.encode("utf-8", "replace"), _seal(content).encode()):
        return None
    try:
        category, text = orjson.loads(base64.urlsafe_b64decode(content))
    except (ValueError, binascii.Error):
        return None
    return (category if category in _CATEGORIES else "info", str(text))


def _seal(content: str) -> str:
    """Return what only this session can make, so that another site's cookie says nothing here."""
    held = cookies.secret() or ""
    return hmac.new(
        held.encode(), b"llm-proxy message" + content.encode("utf-8", "replace"), hashlib.sha256
    ).hexdigest()
