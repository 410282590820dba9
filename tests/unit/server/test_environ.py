"""Our environment of a request beside the one that gunicorn makes."""

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.parser import RequestParser

from llm_proxy.server.environ import EnvironMaker
from llm_proxy.server.usual_head import UsualHead

HEADS = {
    "stock": b"POST /v1/chat/completions?a=1&b=%20 HTTP/1.1\r\nHost: h:80\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 0\r\nX-A: 1\r\nx-b: 2\r\nX-A: 3\r\nAccept: */*\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n\r\n",
    "escaped": b"GET /a%2Fb/%C3%A9 HTTP/1.1\r\nHost: h\r\nX_Under_Score: dropped\r\nScript_Name: /evil\r\n\r\n",
    "absolute": b"GET http://other:81/path?q HTTP/1.1\r\nHost: h\r\n\r\n",
}
OURS_ALONE = {"wsgi.multithread", "wsgi.errors"}
GUNICORNS_ALONE = {"wsgi.early_hints", "wsgi.input"}


def parsed(head: bytes, client: Any) -> tuple[Any, Any]:
    """Configuration and request."""
    cfg = Config()
    cfg.set("header_map", "drop")
    return cfg, next(RequestParser(cfg, iter([head]), client))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_it_says_what_gunicorn_s_says(head: bytes) -> None:
    """Every key and value but those that are never read."""
    client, server, sock = ("127.0.0.9", 4711), ("127.0.0.1", 8080), SimpleNamespace(send=None)
    cfg, req = parsed(head, client)
    ours = EnvironMaker(cfg, server).make(req, sock, client)
    theirs = wsgi.create(req, sock, client, server, cfg)[1]
    assert theirs.keys() - ours.keys() == GUNICORNS_ALONE
    assert ours.keys() <= theirs.keys()
    assert {k: v for k, v in ours.items() if k not in OURS_ALONE} == {
        k: v for k, v in theirs.items() if k not in OURS_ALONE | GUNICORNS_ALONE
    }


def test_requests_do_not_see_each_other() -> None:
    """What one application writes into its environment is not in the next one."""
    client = ("127.0.0.9", 4711)
    cfg, req = parsed(HEADS["stock"], client)
    maker = EnvironMaker(cfg, ("127.0.0.1", 8080))
    maker.make(req, None, client)["HTTP_X_LEFT_OVER"] = "1"
    assert "HTTP_X_LEFT_OVER" not in maker.make(req, None, client)


def test_on_a_unix_socket_the_name_is_the_host_s() -> None:
    """Left to gunicorn, whose rule it is."""
    cfg, req = parsed(HEADS["stock"], "")
    environ = EnvironMaker(cfg, "/run/llm-proxy.sock").make(req, SimpleNamespace(send=None), "")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["wsgi.multithread"]) == ("h", "80", True)


def test_a_short_one_holds_what_the_proxy_s_endpoint_reads() -> None:
    """No field is spelled out again."""
    values = {"HOST": "h", "X-A": "1"}
    head = UsualHead("GET", "/v1/models?a", list(values.items()), values, "http", Body(LengthReader(None, 0)))
    environ = EnvironMaker.short(head, ("127.0.0.9", 4711))
    assert environ == {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/v1/models?a",
        "HTTP_HOST": "h",
        "REMOTE_ADDR": "127.0.0.9",
        "llm_proxy.values": values,
    }
