"""What a view may know of its request and its process; the only user of flask.g."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request

from llm_proxy import logs
from llm_proxy.access.caller import Caller
from llm_proxy.container import Container
from llm_proxy.forwarding.request import Network, client_address, is_trusted
from llm_proxy.runtime.ids import accepted_id, uuid7

INSIDE = "llm_proxy.actor"  # environ key of a call made in this process, with its actor; no request can carry it
CALLER = "llm_proxy.caller"  # environ key of a call that the admin UI makes in this process, for its viewer
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
QUIET_PATHS = ("/health", "/live", "/ready")  # probes are logged at debug


def services() -> Container:
    """Return the process's services."""
    return cast(Container, current_app.extensions["llm_proxy"])


def request_id() -> str:
    """Return the client's X-Request-ID where it is 1 to 128 safe characters, else one made for this request."""
    if "request_id" not in g:
        g.request_id = accepted_id(request.headers.get("X-Request-ID")) or uuid7()
    return cast(str, g.request_id)


def correlation_id() -> str:
    """Return the same for X-Correlation-ID."""
    if "correlation_id" not in g:
        g.correlation_id = accepted_id(request.headers.get("X-Correlation-ID")) or uuid7()
    return cast(str, g.correlation_id)


def client_ip() -> str | None:
    """Return the client's address, trusted proxies left out."""
    fields = request.environ.get("llm_proxy.fields")
    if fields is None:
        forwarded = request.headers.getlist("X-Forwarded-For")
    else:
        forwarded = [value for name, value in fields if name == "X-FORWARDED-FOR"]
    return client_address(request.remote_addr, forwarded, services().settings.server.trusted_proxies)


def scheme() -> str:
    """Return the scheme that the client speaks: this server's, or what a trusted proxy says of its own side."""
    settings = services().settings
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    if forwarded in ("http", "https") and is_trusted(request.remote_addr, settings.server.trusted_proxies):
        return forwarded
    return request.scheme


def origin() -> str:
    """Return scheme and host of the pages that the client sees."""
    parts = urlsplit(base_url())
    return f"{parts.scheme}://{parts.netloc}"


def base_url() -> str:
    """Return the URL under which clients reach this server, without a slash at its end: PUBLIC_BASE_URL, if set."""
    own = f"{scheme()}://{request.host}{request.script_root}"
    return (services().settings.server.public_base_url or own).rstrip("/")


def apply_prefix(environ: dict[str, Any], trusted: Sequence[Network]) -> None:
    """Begin addresses with the prefix that a trusted proxy has cut off the path (X-Forwarded-Prefix)."""
    prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").strip().rstrip("/")
    if prefix and _PREFIX.fullmatch(prefix) and is_trusted(environ.get("REMOTE_ADDR"), trusted):
        environ["SCRIPT_NAME"] = prefix


def external(path: str) -> str:
    """Return a path of this server as the client sees it: below the prefix that a trusted proxy has cut off."""
    return request.script_root + path


def _actor() -> dict[str, str]:
    """Name the caller of the management plane, where one was admitted."""
    caller: Caller | None = g.get("caller")
    if caller is None:
        return {}
    return {"actor": caller.actor} | ({} if caller.key_id is None else {"actor_key_id": caller.key_id})


def register(app: Flask, access_log: Callable[[], logs.AccessLog], metrics_path: str) -> None:
    """Ids on every response, and one access line a request. The proxy's exchanges see to both themselves.

    Args:
        access_log: Gives the process's access log; the application may have been wired before the fork.
    """
    quiet = (*QUIET_PATHS, metrics_path, f"{metrics_path}/prometheus")

    @app.before_request
    def begin() -> None:
        g.received_s = request.environ.get("llm_proxy.received") or time.monotonic()
        access = access_log()
        if access.is_debug:
            agent = request.headers.get("User-Agent")
            access.started(method=request.method, path=request.path, client_ip=client_ip(), user_agent=agent)

    @app.after_request
    def finish(response: Response) -> Response:
        if request.endpoint == "proxy.forward":
            return response
        response.headers.setdefault("X-Request-ID", request_id())
        response.headers.setdefault("X-Correlation-ID", correlation_id())
        access_log().completed(
            status=response.status_code,
            method=request.method,
            path=request.path,
            duration_s=time.monotonic() - g.get("received_s", time.monotonic()),
            request_id=request_id(),
            client_ip=client_ip(),
            fields={
                "correlation_id": correlation_id(),
                "response_bytes": response.content_length or 0,
                **_actor(),
            },
            is_quiet=request.path in quiet or INSIDE in request.environ or CALLER in request.environ,
        )
        return response
