"""The dispatcher's own port: probes and metrics. No probe touches bus or back end."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from gevent.pywsgi import WSGIServer

from llm_proxy.dispatcher.state import State
from llm_proxy.settings.variable import ListenAddress

HEARTBEAT_NAME = "llm-proxy-dispatcher.alive"  # the image's health check looks at its age
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Heartbeat:
    """A file whose time of change says that the loop turns."""

    def __init__(self) -> None:
        self._path = os.path.join(tempfile.gettempdir(), HEARTBEAT_NAME)
        self._touched_at = 0.0

    def beat(self) -> None:
        """Touch it, at most once a second; a folder that cannot be written to is no fault of the loop's."""
        now = time.monotonic()
        if now - self._touched_at < 1.0:
            return
        self._touched_at = now
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, flags, 0o644)
            try:
                os.utime(descriptor)
            finally:
                os.close(descriptor)


class Probes:
    """The WSGI application."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """GET and HEAD of the four paths; 404 and 405 otherwise."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, media_type, body = "405 Method Not Allowed", "text/plain", b"method not allowed"
        else:
            status, media_type, body = self._respond(environ["PATH_INFO"])
        start_response(status, [("Content-Type", media_type), ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _respond(self, path: str) -> tuple[str, str, bytes]:
        if path == "/live":
            is_live = self._state.is_live
            return _status(is_live), "text/plain", b"alive" if is_live else b"not alive: the loop stands still"
        if path == "/ready":
            why = self._state.unreadiness
            return _status(why is None), "text/plain", b"ready" if why is None else f"not ready: {why}".encode()
        if path == "/health":
            is_fit, report = self._state.report()
            return _status(is_fit), "application/json", orjson.dumps(report) + b"\n"
        if path == "/metrics/prometheus":
            return "200 OK", _CONTENT_TYPE, self._state.series.text()
        return "404 Not Found", "text/plain", b"not found"


def _status(is_good: bool) -> str:
    return "200 OK" if is_good else "503 Service Unavailable"


def listen(address: ListenAddress, state: State) -> WSGIServer:
    """Start serving. Raises OSError when the address is taken."""
    server = WSGIServer(_listener(address), Probes(state), log=None, error_log=None)
    server.start()
    return server


def _listener(address: ListenAddress) -> socket.socket:
    if address.path is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(address.path)
        bound.listen(16)
        bound.setblocking(False)
        return bound
    is_any = not address.host
    if is_any and socket.has_dualstack_ipv6():
        listener = socket.create_server(("::", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host or "0.0.0.0", address.port), family=family)  # noqa: S104
    listener.setblocking(False)
    return listener
