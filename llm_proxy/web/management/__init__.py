"""The management API: authentication first, then one thin view a method; rules are the services'."""

from flask import Blueprint, Response, g, request

from llm_proxy.access import delegation
from llm_proxy.access.caller import Caller
from llm_proxy.errors import LlmProxyError
from llm_proxy.web import context
from llm_proxy.web.context import services
from llm_proxy.web.management import (
    audit,
    cache,
    dispatcher,
    installation,
    keys,
    openapi,
    outcomes,
    projects,
    provider_keys,
    routing,
    sessions,
    streams,
    tokens,
    usage,
    verification,
)
from llm_proxy.web.management.audited import Call

PREFIX = "/manage"

__all__ = ["PREFIX", "blueprint"]
_PARTS = (
    projects,
    provider_keys,
    tokens,
    keys,
    usage,
    outcomes,
    streams,
    dispatcher,
    audit,
    verification,
    cache,
    sessions,
    installation,
    openapi,
)


def _on_behalf(own: Caller) -> Caller:
    """Return the viewer that the admin UI's process names in a signed field; without the field, the caller itself."""
    field = request.headers.get(delegation.FIELD)
    if field is None:
        return own
    secret = request.headers["Authorization"].strip().partition(" ")[2].strip()
    secret = secret.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    known = services()
    return delegation.delegated(
        field, secret, own, request.method, request.path, known.key_directory, known.gate, known.health.now()
    )


def blueprint() -> Blueprint:
    """Return the blueprint, with its prefix."""
    bp = Blueprint("management", __name__, url_prefix=PREFIX)
    bp.before_request(_admit)
    bp.after_request(_finish)
    for part in _PARTS:
        part.routes(bp)
    routing.catch_all(bp)
    return bp


def _admit() -> None:
    """Know the caller before method, path and body are looked at."""
    call = g.management_call = Call(services().audit)
    if call.is_inside:
        return
    viewer = request.environ.get(context.CALLER)
    if isinstance(viewer, Caller):
        call.admit(viewer)
        call.trust_origin()
        return
    try:
        field = request.headers.get("Authorization")
        own = services().gate.admit(field, peer=request.remote_addr, client_ip=call.client_ip)
        call.admit(_on_behalf(own))
    except LlmProxyError as refused:
        call.denied(refused)
        raise
    call.trust_origin()


def _finish(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
