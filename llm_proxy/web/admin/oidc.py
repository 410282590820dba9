"""The way to an OpenID provider, and back."""

import hashlib

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from llm_proxy.access.flows import SIGN_IN_LASTS
from llm_proxy.access.oidc import OidcSignIn
from llm_proxy.access.return_path import return_path
from llm_proxy.access.sessions import Session
from llm_proxy.errors import BadRequest, LlmProxyError, ManagementError, NotFound
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.admin import cookies
from llm_proxy.web.management.audited import Call

_ONCE = ("state", "code", "iss", "error")


def routes(bp: Blueprint, path: str) -> None:
    """Add the routes. `path` is the admin UI's."""

    @bp.get("/auth/oidc/login")
    def oidc_login() -> Response:
        """Send the browser to the provider; `next` is the page to return to."""
        call = Call(context.services().audit)
        try:
            begun = _oidc().begin(_callback(path), return_path(request.args.get("next"), context.external(path)))
        except LlmProxyError as refused:
            _denied(call, refused)
            raise
        response = redirect(begun.url, 303)
        _flow_cookie(response, begun.state, begun.browser_secret, path, int(SIGN_IN_LASTS.total_seconds()))
        return response

    @bp.get("/auth/oidc/callback")
    def oidc_callback() -> Response:
        """Begin a session for the person that comes back."""
        services = context.services()
        call = Call(services.audit)
        try:
            callback = _callback_query()
            state = callback.get("state", "")
            person = _oidc().finish(callback, request.cookies.get(_flow_name(state)), _callback(path))
            origin = services.sign_in.by_person(person)
        except LlmProxyError as refused:
            _denied(call, refused)
            raise
        call.admit(origin.caller)
        details = {"method": "oidc", "subject": person.subject, "role": origin.caller.role.value}

        def record(connection: object, session: Session) -> None:
            services.audit.record(call.event(AuditAction.ADMIN_LOGIN, "success", details), connection)  # type: ignore[arg-type]

        held, session = services.sessions.create(origin, cookies.browser(call.client_ip), then=record)
        response = redirect(person.return_to, 303)
        cookies.keep(response, held, remember=session.remember, path=context.external(path) or "/")
        _flow_cookie(response, state, "", path, 0)
        return response


def _oidc() -> OidcSignIn:
    oidc = context.services().sign_in.oidc
    if oidc is None:
        raise NotFound("sign-in by OpenID is not configured")
    return oidc


def _callback(path: str) -> str:
    return f"{context.base_url()}{path}/auth/oidc/callback"


def _callback_query() -> dict[str, str]:
    """Return the provider's parameters. Raises BadRequest for one that comes twice."""
    if any(len(request.args.getlist(name)) > 1 for name in _ONCE):
        raise BadRequest("a parameter of the sign-in is there twice")
    return {name: request.args[name] for name in _ONCE if name in request.args}


def _flow_name(state: str) -> str:
    """One cookie a sign-in, so that two tabs can sign in at once."""
    return f"llmproxy_oidc_{hashlib.sha256(state.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _flow_cookie(response: Response, state: str, value: str, path: str, max_age: int) -> None:
    cookies.set_cookie(response, _flow_name(state), value, path=context.external(f"{path}/auth/oidc"), max_age=max_age)


def _denied(call: Call, refused: LlmProxyError) -> None:
    details = refused.audit if isinstance(refused, ManagementError) and refused.audit else {"reason": refused.message}
    outcome = "error" if refused.status >= 500 else "denied"
    context.services().audit.offer(call.event(AuditAction.ADMIN_LOGIN, outcome, {**details, "method": "oidc"}))
