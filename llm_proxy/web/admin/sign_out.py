"""Signing out: here, and where the person signed in by OpenID, at the provider, too."""

from html import escape

from flask import Blueprint, Response, request, url_for
from sqlalchemy import Connection

from llm_proxy.access.sessions import Method, Session
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.admin import cookies, pages
from llm_proxy.web.management.audited import Call


def routes(bp: Blueprint, path: str) -> None:
    """Add the routes. `path` is the admin UI's."""

    @bp.get("/auth/logout")
    def sign_out_page() -> Response:
        """Ask first: a link or an image must not sign people out."""
        token = escape(cookies.form_token())
        form = (
            f'<form class="form" method="post"><input type="hidden" name="csrf_token" value="{token}">'
            '<p>Your session ends on this browser.</p><div class="actions">'
            f'<button class="btn primary" type="submit">Sign out</button><a class="btn plain" '
            f'href="{escape(url_for("admin.dashboard"))}">Stay signed in</a></div></form>'
        )
        return pages.page("Sign out", form)

    @bp.post("/auth/logout", endpoint="sign_out")
    def logout() -> Response:
        """End the session; 403 for a form of another session."""
        held = cookies.secret()
        if held is None or cookies.session() is None:
            return _signed_out(path, None)
        cookies.require_own_form()
        return _signed_out(path, sign_out(held, path))


def sign_out(held: str, path: str) -> str | None:
    """End the session of what the browser holds; the provider's address that ends its own session, if there is one."""
    services = context.services()
    session = cookies.session()
    call = Call(services.audit, None if session is None else session.caller)
    id_token = services.sessions.id_token(held)

    def record(connection: Connection, session: Session) -> None:
        event = call.event(AuditAction.ADMIN_LOGOUT, "success", {"method": session.method.value})
        services.audit.record(event, connection)

    ended = services.sessions.end(held, record)
    if ended is None or ended.method is not Method.OIDC or services.sign_in.oidc is None:
        return None
    return services.sign_in.oidc.sign_out_url(id_token, f"{context.base_url()}{path}/")


def _signed_out(path: str, provider_url: str | None) -> Response:
    again = f'<a class="btn primary" href="{escape(context.external(path))}/">Sign in again</a>'
    body = f"<p>You are signed out.</p>\n<p>{again}</p>"
    if provider_url is not None:
        body += f'\n<p><a href="{escape(provider_url)}">Sign out at the identity provider</a></p>'
    response = pages.page("Signed out", body)
    if provider_url is not None:  # not a redirect: browsers apply form-action to those
        response.headers["Refresh"] = f"0; url={provider_url}"
    if request.cookies.get(cookies.SESSION) is not None:
        cookies.forget(response, context.external(path) or "/")
    return response
