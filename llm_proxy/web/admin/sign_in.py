"""The sign-in form, for the root token and for management keys."""

import secrets

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.access.return_path import return_path
from llm_proxy.access.sessions import Session, csrf_token, is_csrf_token
from llm_proxy.errors import Forbidden, LlmProxyError, ManagementError, TooManyFailures, Unauthorized
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.admin import cookies, frame, routing
from llm_proxy.web.management.audited import Call

_FORM = "llmproxy_form"  # binds the form to the browser before there is a session
_EMPTY = "Please enter your management token"
_WRONG = "Invalid management token. Please check your token and try again."


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    routing.add_form(bp, "/auth/login", "sign_in", sign_in, submit)


def sign_in() -> Response:
    """Show the form; 303 to the dashboard for a browser that is signed in."""
    if cookies.session() is not None:
        return redirect(_target(), 303)
    return _form()


def submit() -> Response:
    """Begin a session; 400 without a token, 401 for a wrong one, 429 for too many."""
    _require_own_form()
    text = request.form.get("management_token", "").strip()
    if not text:
        return _form(_EMPTY, 400)
    services = context.services()
    call = Call(services.audit)
    try:
        origin = services.sign_in.by_secret(text, peer=request.remote_addr, client_ip=call.client_ip)
    except LlmProxyError as refused:
        outcome = "error" if refused.status >= 500 else "denied"
        services.audit.offer(call.event(AuditAction.ADMIN_LOGIN, outcome, {"reason": refused.message}))
        return _refused(refused)
    call.admit(origin.caller)
    details = {"method": origin.method.value, "role": origin.caller.role.value}

    def record(connection: object, session: Session) -> None:
        services.audit.record(call.event(AuditAction.ADMIN_LOGIN, "success", details), connection)  # type: ignore[arg-type]

    held, session = services.sessions.create(
        origin, cookies.browser(call.client_ip), remember=request.form.get("remember_me") is not None, then=record
    )
    response = redirect(_target(), 303)
    cookies.keep(response, held, remember=session.remember, path=_path())
    response.delete_cookie(_FORM, path=_path())
    return response


def _path() -> str:
    return url_for("admin.sign_in").removesuffix("/auth/login") or "/"


def _target() -> str:
    prefix = url_for("admin.dashboard").removesuffix("/dashboard")
    wanted = return_path(request.values.get("next"), prefix)
    return wanted if wanted.rstrip("/") != prefix.rstrip("/") else url_for("admin.dashboard")


def _form(error: str | None = None, status: int = 200, retry_after_s: int | None = None) -> Response:
    services = context.services()
    held = request.cookies.get(_FORM) or secrets.token_urlsafe(32)
    oidc = url_for("admin.oidc_login", next=request.values.get("next")) if services.sign_in.oidc else None
    response = frame.page(
        "sign_in.html",
        status,
        error=error,
        form_token=csrf_token(held),
        oidc=oidc,
        return_to=request.values.get("next", ""),
        takes_secrets=services.sign_in.takes_secrets,
    )
    cookies.set_cookie(response, _FORM, held, path=_path(), max_age=None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def _refused(refused: LlmProxyError) -> Response:
    if isinstance(refused, TooManyFailures):
        return _form(f"Too many failed attempts. Try again in {refused.retry_after_s} s.", 429, refused.retry_after_s)
    if type(refused) is Unauthorized and refused.message == Unauthorized.message:
        return _form(_WRONG, 401)
    if isinstance(refused, Unauthorized):
        return _form(_WRONG if "invalid" in refused.message else refused.message, 401)
    if isinstance(refused, ManagementError):
        return _form(refused.message, refused.status)
    raise refused


def _require_own_form() -> None:
    held = request.cookies.get(_FORM)
    if held is None or not is_csrf_token(request.form.get("csrf_token", ""), held) or not cookies.is_same_site():
        raise Forbidden("the form is not one of this browser: reload the page and try again")
