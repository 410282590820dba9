"""The UI's own health, as JSON: it answers without a session, for probes."""

from flask import Blueprint, Response

from llm_proxy import __version__
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.web.admin import frame
from llm_proxy.web.management.rendering import json_response


def routes(bp: Blueprint) -> None:
    """Add the route."""

    @bp.get("/health")
    def health() -> Response:
        """200 with the state of the UI and of the proxy behind it."""
        own = {"status": "ok", "timestamp": rfc3339(utc_now()), "service": "admin-ui", "version": __version__}
        return json_response({"admin": own, "backend": frame.client().health()})
