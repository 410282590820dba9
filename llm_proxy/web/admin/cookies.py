"""The session of a browser: its cookie, and the caller that it makes of a request."""

from flask import g, request
from werkzeug.wrappers import Response

from llm_proxy.access.sessions import LONGEST_REMEMBERED, Browser, Session, csrf_token, is_csrf_token
from llm_proxy.errors import Forbidden
from llm_proxy.web import context

SESSION = "llmproxy_session"


def secret() -> str | None:
    """Return what the browser holds."""
    return request.cookies.get(SESSION) or None


def browser(client_ip: str | None) -> Browser:
    """Return what a new session is to know of the browser."""
    return Browser(client_ip, request.headers.get("User-Agent"), secret())


def session() -> Session | None:
    """Return the live session of this request, looked up once; None: sign in. The access line names its actor."""
    if "admin_session" not in g:
        held = secret()
        found = None if held is None else context.services().sessions.load(held, peer=request.remote_addr)
        g.admin_session = found
        if found is not None:
            g.caller = found.caller
    return g.admin_session  # type: ignore[no-any-return]


def is_signed_in() -> bool:
    """Whether a live session is known for this request, without another look-up."""
    return g.get("admin_session") is not None


def keep(response: Response, held: str, *, remember: bool, path: str) -> None:
    """Give the browser its session; without `remember` it ends with the browser."""
    max_age = int(LONGEST_REMEMBERED.total_seconds()) if remember else None
    set_cookie(response, SESSION, held, path=path, max_age=max_age)


def forget(response: Response, path: str) -> None:
    """Take the session from the browser."""
    response.delete_cookie(SESSION, path=path, httponly=True, samesite="Lax", secure=_is_secure())


def set_cookie(response: Response, name: str, value: str, *, path: str, max_age: int | None) -> None:
    """Set a cookie that no script reads and no other site sends."""
    response.set_cookie(name, value, max_age=max_age, path=path, secure=_is_secure(), httponly=True, samesite="Lax")


def form_token() -> str:
    """Return the value of the hidden field `csrf_token` of this session's forms; empty without a session."""
    held = secret()
    return "" if held is None else csrf_token(held)


def require_own_form() -> None:
    """Raise Forbidden unless the request comes from a form of this session, on a page of this site."""
    held = secret()
    presented = request.form.get("csrf_token", "")
    if held is None or not is_csrf_token(presented, held) or not is_same_site():
        raise Forbidden("the form is not one of this session: reload the page and try again")


def is_same_site() -> bool:
    """Whether the request comes from a page of this site, as far as the browser says."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site not in ("same-origin", "none"):
        return False
    return origin is None or origin == context.origin()


def _is_secure() -> bool:
    wanted = context.services().settings.operation.admin_ui_cookie_secure
    return context.scheme() == "https" if wanted == "auto" else wanted == "true"
