"""The admin UI: server-rendered pages over the management API."""

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from llm_proxy.access.return_path import return_path
from llm_proxy.errors import BadRequest, Forbidden, LlmProxyError, PayloadTooLarge, ResourceNotFound, ViewerEnded
from llm_proxy.web import context
from llm_proxy.web.admin import (
    assets,
    audit,
    cache,
    cookies,
    dashboard,
    dispatcher,
    events,
    frame,
    health,
    installation,
    jump,
    keys,
    messages,
    oidc,
    pages,
    people,
    playground,
    projects,
    sign_in,
    sign_out,
    streams,
    tokens,
    usage,
)

_CHANGES_NOTHING = {"jump"}  # a POST only because what is typed must stand in no address
OBSERVE = (usage, streams, events, dispatcher, cache, installation, playground)
FORM_BYTES = 65536  # read by Werkzeug in one go: 50 ms at worst
_OPEN = {"sign_in", "sign_in_submit", "oidc_login", "oidc_callback", "sign_out_page", "sign_out", "static", "health"}


def blueprint(path: str) -> Blueprint:
    """Return the blueprint, with the admin UI's path as its prefix; empty for its own process."""
    bp = Blueprint("admin", __name__, url_prefix=path or None, template_folder="templates", static_folder="static")
    frame.register(bp)
    for part in (oidc, sign_out):
        part.routes(bp, path)
    for module in (sign_in, health, jump, dashboard, projects, tokens, audit, keys, people, *OBSERVE):
        module.routes(bp)

    @bp.get("/<path:rest>")
    def elsewhere(rest: str) -> AnyResponse:
        """Show the page of an address that there is not."""
        raise ResourceNotFound("there is no such page")

    bp.register_error_handler(LlmProxyError, _refused)
    bp.register_error_handler(RequestEntityTooLarge, _too_large)

    @bp.before_request
    def admit() -> AnyResponse | None:
        """Send a browser without a session to the sign-in, and refuse forms of other sites and sessions."""
        request.max_content_length = FORM_BYTES
        endpoint = (request.endpoint or "").removeprefix("admin.")
        if endpoint in _OPEN:
            return None
        if cookies.session() is None:
            return _sign_in_first()
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            cookies.require_own_form()
            if frame.is_read_only() and endpoint not in _CHANGES_NOTHING:
                raise Forbidden(frame.READ_ONLY)
        return None

    @bp.after_request
    def finish(response: Response) -> Response:
        messages.keep(response, path or "/")
        if request.endpoint == "admin.static" and assets.is_versioned():
            response.headers["Cache-Control"] = assets.FOR_LONG
        return pages.guarded(response)

    return bp


def _refused(error: LlmProxyError) -> AnyResponse:
    """Show the refusal; where the viewer's credential has ended, end the session."""
    if error.code == ViewerEnded.code:
        held = cookies.secret()
        if held is not None:
            context.services().sessions.end(held)
        return _sign_in_first()
    return pages.error(error)


def _too_large(_: RequestEntityTooLarge) -> AnyResponse:
    """Show that a form is larger than any page's own."""
    return pages.error(PayloadTooLarge(f"A form has at most {FORM_BYTES:,} bytes"))


def _sign_in_first() -> AnyResponse:
    target = url_for("admin.sign_in", next=_wanted_page())
    if request.headers.get("HX-Request") == "true":
        return Response(status=204, headers={"HX-Redirect": target})
    return redirect(target, 303)


def _wanted_page() -> str | None:
    """Return the page to come back to after the sign-in; None where the address cannot be one."""
    if request.method != "GET":
        return None
    prefix = url_for("admin.dashboard").removesuffix("/dashboard")
    try:
        return return_path(context.external(request.full_path.rstrip("?")), prefix)
    except BadRequest:
        return None
