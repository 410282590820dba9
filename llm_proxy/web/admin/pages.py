"""Bare pages, and the header fields that every page of the admin UI has."""

from html import escape

from flask import Response, render_template, request, url_for
from markupsafe import Markup

from llm_proxy.access.return_path import return_path
from llm_proxy.errors import BadRequest, LlmProxyError
from llm_proxy.web import context
from llm_proxy.web.admin import cookies
from llm_proxy.web.admin.assets import asset

CSP = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
_TITLES = {
    403: "Not permitted",
    404: "Not found",
    405: "Not permitted",
    409: "Conflict",
    502: "Backend unavailable",
    503: "Unavailable",
}


def page(title: str, body: str, status: int = 200) -> Response:
    """Return a page. `body` is HTML: texts in it must be escaped already."""
    content = render_template("admin/bare.html", title=title, body=Markup(body), asset=asset)  # noqa: S704
    return Response(content, status=status, content_type="text/html; charset=utf-8")


def error(refused: LlmProxyError) -> Response:
    """Return the page of an error: what happened, and the request's id."""
    title = _TITLES.get(refused.status, "Not possible")
    if cookies.is_signed_in():
        values = {"title": title, "text": refused.message, "request_id": context.request_id(), "back": _back()}
        response = Response(render_template("admin/error.html", **values), refused.status)
    else:
        body = (
            f"<p>{escape(refused.message)}</p>\n"
            f'<p class="muted">Request: <code>{escape(context.request_id())}</code></p>\n'
            f'<p><a class="btn" href="{escape(url_for("admin.sign_in"))}">Sign in</a></p>'
        )
        response = page(title, body, refused.status)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(refused.retry_after_s)
    return response


def _back() -> str | None:
    """Return the page of this UI that the browser comes from; None where it says no such page."""
    came_from, own = request.referrer or "", context.origin()
    prefix = url_for("admin.dashboard").removesuffix("/dashboard")
    try:
        path = return_path(came_from.removeprefix(own), prefix) if came_from.startswith(f"{own}/") else None
    except BadRequest:
        return None
    return None if path == context.external(request.path) else path


def guarded(response: Response) -> Response:
    """Add the fields that keep a page out of frames, caches and other hosts' hands."""
    headers = response.headers
    headers.setdefault("Content-Security-Policy", CSP)
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")
    if context.scheme() == "https":
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response
