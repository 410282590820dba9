"""`llm-proxy admin`: the admin UI in its own process, over the management API of a proxy."""

import signal
import socket
from urllib.parse import urlsplit

import click
import gevent
from gevent.pywsgi import WSGIServer

from llm_proxy import logs
from llm_proxy.access import sign_in
from llm_proxy.cli.base import Command
from llm_proxy.cli.connection import Connection
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import AuthenticationError, CommandError
from llm_proxy.cli.options import read_secret
from llm_proxy.cli.ports import require_free
from llm_proxy.settings.variable import ListenAddress
from llm_proxy.web.admin.standalone import create_app

_TIMEOUT_S = 10.0  # of connecting, and of each silence


@click.command("admin", cls=Command)
@click.option("--listen", metavar="ADDRESS", help="Address to listen on (ADMIN_UI_LISTEN_ADDR).")
@click.option("--api-base-url", metavar="URL", help="Proxy to talk to (ADMIN_UI_API_BASE_URL).")
@click.option("--management-token", metavar="TOKEN|-|@FILE", help="Its bearer (MANAGEMENT_TOKEN).")
def admin(listen: str | None, api_base_url: str | None, management_token: str | None) -> None:
    """Serve the admin UI in its own process."""
    found = settings(ADMIN_UI_LISTEN_ADDR=listen, ADMIN_UI_API_BASE_URL=api_base_url)
    faults = sign_in.fault_lines(found.sign_in)
    if faults:
        raise CommandError("\n".join(faults))
    credential = (read_secret("--management-token", management_token) or found.operation.management_token or "").strip()
    if not credential:
        raise AuthenticationError("no management token: set MANAGEMENT_TOKEN or give --management-token")
    require_free(found.operation.admin_ui_listen_addr)
    logs.configure(found)
    place = urlsplit(found.operation.admin_ui_api_base_url)
    application = create_app(found, lambda: Connection(place, timeout_s=_TIMEOUT_S), place.path.rstrip("/"), credential)
    server = WSGIServer(_listener(found.operation.admin_ui_listen_addr), application, log=None)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, server.stop)
    click.echo(f"Listening on {found.operation.admin_ui_listen_addr}", err=True)
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
