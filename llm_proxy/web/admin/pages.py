"""Bare pages, and the header fields that every page of the admin UI has."""

from html import escape

from flask import Response

from llm_proxy.errors import LlmProxyError
from llm_proxy.web import context

CSP = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} · llm-proxy</title></head>
<body><main><h1>{title}</h1>
{body}
</main></body></html>
"""


def page(title: str, body: str, status: int = 200) -> Response:
    """Return a page. `body` is HTML: texts in it must be escaped already."""
    return Response(
        _PAGE.format(title=escape(title), body=body), status=status, content_type="text/html; charset=utf-8"
    )


def error(refused: LlmProxyError) -> Response:
    """Return the page of an error: what happened, and the request's id."""
    body = f"<p>{escape(refused.message)}</p>\n<p>Request: <code>{escape(context.request_id())}</code></p>"
    response = page("Not possible", body, refused.status)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(refused.retry_after_s)
    return response


def guarded(response: Response) -> Response:
    """Add the fields that keep a page out of frames, caches and other hosts' hands."""
    headers = response.headers
    headers.setdefault("Content-Security-Policy", CSP)
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")
    if is_https():
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response


def is_https() -> bool:
    """Whether the client speaks HTTPS, with this server or with a trusted proxy in front of it."""
    return context.scheme() == "https"
