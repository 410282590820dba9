"""The admin UI's routes for signing in at an OpenID provider, and for signing out."""

from flask import Blueprint, Response

from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import oidc, pages, sign_out


def blueprint(path: str) -> Blueprint:
    """Return the blueprint, with the admin UI's path as its prefix."""
    bp = Blueprint("admin_auth", __name__, url_prefix=path)
    oidc.routes(bp, path)
    sign_out.routes(bp, path)
    bp.register_error_handler(LlmProxyError, pages.error)

    @bp.after_request
    def finish(response: Response) -> Response:
        return pages.guarded(response)

    return bp
