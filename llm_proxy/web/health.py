"""Probes and metrics."""

from collections.abc import Callable

import orjson
from flask import Blueprint, Response

from llm_proxy import __version__, metrics
from llm_proxy.runtime.clock import rfc3339, utc_now

SERVER_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
TEXT = "text/plain; charset=utf-8"


def blueprint(readiness: Callable[[], str | None], metrics_path: str | None) -> Blueprint:
    """Return the routes; all of them take HEAD as well.

    Args:
        readiness: The check that fails, None when the process is ready.
        metrics_path: METRICS_PATH; None when metrics are off, and then there is no such route.
    """
    bp = Blueprint("health", __name__)

    @bp.get("/")
    def root() -> Response:
        """Say what serves here, for a person with a browser."""
        return _json({"name": "llm-proxy", "version": __version__, "message": "the API is under /v1"})

    @bp.get("/health")
    def health() -> Response:
        """Say that the process answers, and its version; nothing else is looked at."""
        now = rfc3339(utc_now())
        return _json({"status": "ok", "timestamp": now, "version": __version__})

    @bp.route("/*", methods=["OPTIONS"], provide_automatic_options=False)  # how `OPTIONS *` arrives (PEP 3333)
    def server_options() -> Response:
        """Methods of the server as a whole (RFC 9110 §9.3.7)."""
        return Response(status=204, headers={"Allow": SERVER_METHODS})

    @bp.get("/live")
    def live() -> Response:
        """Say that the worker's loop turns."""
        return Response("alive", content_type=TEXT)

    @bp.get("/ready")
    def ready() -> Response:
        """503 with the failing check while requests should go elsewhere."""
        failing = readiness()
        if failing is None:
            return Response("ready", content_type=TEXT)
        return Response(f"not ready: {failing}", status=503, content_type=TEXT)

    if metrics_path is not None:
        bp.add_url_rule(metrics_path, "metrics", lambda: _json(metrics.totals()), methods=["GET"])
        bp.add_url_rule(f"{metrics_path}/prometheus", "prometheus", _prometheus, methods=["GET"])
    return bp


def _prometheus() -> Response:
    return Response(metrics.text(), content_type=metrics.CONTENT_TYPE)


def _json(content: object) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), content_type="application/json")
