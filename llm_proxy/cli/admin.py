"""`llm-proxy admin`: the process of the admin UI. The UI itself is not in this version; its health is."""

import json
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import click
import gevent
from gevent.pywsgi import WSGIServer

from llm_proxy import __version__
from llm_proxy.cli.connection import Connection
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import AuthenticationError
from llm_proxy.cli.listening import require_free
from llm_proxy.cli.options import read_secret
from llm_proxy.cli.tree import Command
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.settings.declare import ListenAddress

_BACKEND_TIMEOUT_S = 2.0
_PAGE = b"<!doctype html><title>llm-proxy</title><p>The admin UI is not in this version.</p>\n"


@click.command("admin", cls=Command)
@click.option("--listen", metavar="ADDRESS", help="Address to listen on (ADMIN_UI_LISTEN_ADDR).")
@click.option("--api-base-url", metavar="URL", help="Proxy to talk to (ADMIN_UI_API_BASE_URL).")
@click.option("--management-token", metavar="TOKEN|-|@FILE", help="Its bearer (MANAGEMENT_TOKEN).")
def admin(listen: str | None, api_base_url: str | None, management_token: str | None) -> None:
    """Serve the admin UI in a process of its own."""
    found = settings(ADMIN_UI_LISTEN_ADDR=listen, ADMIN_UI_API_BASE_URL=api_base_url)
    if not (read_secret("--management-token", management_token) or found.management_token):
        raise AuthenticationError("no management token: set MANAGEMENT_TOKEN or give --management-token")
    require_free(found.admin_ui_listen_addr)
    application = Application(found.admin_ui_api_base_url)
    server = WSGIServer(_listener(found.admin_ui_listen_addr), application, log=None)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, server.stop)
    click.echo(f"Listening on {found.admin_ui_listen_addr}", err=True)
    server.serve_forever()


def _listener(address: ListenAddress) -> socket.socket:
    if address.path is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address.path)
        sock.listen(128)
    elif not address.host and socket.has_dualstack_ipv6():
        sock = socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.create_server((address.host, address.port), family=family)
    sock.setblocking(False)
    return sock


class Application:
    """/health tells of this process and of the proxy behind it; everything else is 503."""

    def __init__(self, api_base_url: str) -> None:
        self._place = urlsplit(api_base_url)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI application."""
        if environ["PATH_INFO"] == "/health" and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            status, kind, body = "200 OK", "application/json", json.dumps(self._health()).encode() + b"\n"
        else:
            status, kind, body = "503 Service Unavailable", "text/html; charset=utf-8", _PAGE
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, fields)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _health(self) -> dict[str, Any]:
        now = rfc3339(utc_now())
        mine = {"status": "ok", "timestamp": now, "service": "admin-ui", "version": __version__}
        return {"admin": mine, "backend": self._backend()}

    def _backend(self) -> Any:
        connection = Connection(self._place, timeout_s=_BACKEND_TIMEOUT_S)
        try:
            with gevent.Timeout(_BACKEND_TIMEOUT_S, TimeoutError):
                connection.request("GET", self._place.path.rstrip("/") + "/health")
                return json.loads(connection.getresponse().read())
        except (OSError, ValueError, ArithmeticError):
            return {"status": "down", "error": "Backend unavailable"}
        finally:
            connection.close()
