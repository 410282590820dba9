"""The management API over HTTP: pieces of a long response come one by one, and refusals before the first."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from flask import Flask

from llm_proxy.access.caller import ROOT
from llm_proxy.errors import ManagementUnavailable, ResourceNotFound
from llm_proxy.settings import Settings
from llm_proxy.web.admin.api import ApiRefused, ApiRequest
from llm_proxy.web.admin.http_api import HttpApi

PIECES = (b"retry: 2000\n\n", b"data: {}\n\n")


class Proxy(BaseHTTPRequestHandler):
    """Sends two pieces at `/manage/events/tail`, and refuses elsewhere."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Respond, or break off behind the first piece when the query says so."""
        if not self.path.startswith("/p/manage/events/tail"):
            status = 404 if self.path.endswith("missing") else 403
            body = b'{"error":"no","code":"role_required"}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in PIECES:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
            if "breaks=1" in self.path:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def api() -> Iterator[HttpApi]:
    """A client inside of a request of the admin UI."""
    server = HTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    app = Flask(__name__)
    app.extensions["llm_proxy"] = SimpleNamespace(settings=Settings())
    with app.test_request_context():
        yield HttpApi(lambda: HTTPConnection("127.0.0.1", server.server_port, timeout=5), "/p", "mk-x")
    server.shutdown()
    thread.join()
    server.server_close()


def tail(**query: object) -> ApiRequest:
    """Return the call that follows events."""
    return ApiRequest(ROOT, "GET", "/manage/events/tail", query)


def test_pieces_come_as_they_were_sent(api: HttpApi) -> None:
    """To the end of the response."""
    assert b"".join(api.stream(tail(limit_s=60))) == b"".join(PIECES)


def test_a_proxy_that_breaks_off_ends_the_pieces(api: HttpApi) -> None:
    """The page connects again by itself."""
    assert b"".join(api.stream(tail(breaks=1))) == PIECES[0]


@pytest.mark.parametrize(("path", "error"), [("/manage/forbidden", ApiRefused), ("/manage/missing", ResourceNotFound)])
def test_a_refusal_is_raised_before_the_first_piece(api: HttpApi, path: str, error: type[Exception]) -> None:
    """Of streams and of calls alike."""
    for ask in (api.stream, api.call):
        with pytest.raises(error, match="no"):
            ask(ApiRequest(ROOT, "GET", path))


def test_a_proxy_that_is_down_is_unavailable(api: HttpApi) -> None:
    """Before the first piece."""
    away = HttpApi(lambda: HTTPConnection("127.0.0.1", 1, timeout=5), "", "mk-x")
    with pytest.raises(ManagementUnavailable):
        away.stream(tail())
