"""The end of a wait for a next request, when the request has just come."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config

from llm_proxy.server.connection import Connection
from llm_proxy.server.disconnect import DisconnectWatch
from llm_proxy.server.environ import EnvironMaker
from llm_proxy.server.idle import IdleTimer
from llm_proxy.server.state import ServerState
from llm_proxy.server.usual_head import UsualHeads
from llm_proxy.settings import ServerSettings

HEAD, BODY = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n", b"all of i"
End = Callable[[Connection], None]


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Respond with the body, and with whether the client seems to have gone meanwhile."""
    gone: list[bool] = []
    content = environ["wsgi.input"].read()
    environ["llm_proxy.client"].on_gone(lambda: gone.append(True))
    gevent.sleep(0.02)  # in which a watch that has something to tell tells it
    start_response("200 OK", [("X-Gone", str(bool(gone))), ("Content-Length", str(len(content)))])
    return [content]


@pytest.fixture
def host() -> Any:
    """What a connection needs of a worker."""
    cfg = Config()
    for name, value in {"header_map": "drop", "forwarded_allow_ips": "", "limit_request_line": 8190}.items():
        cfg.set(name, value)
    return SimpleNamespace(
        cfg=cfg,
        log=logging.getLogger("test"),
        wsgi=application,
        settings=ServerSettings(),
        state=ServerState(10, 1),
        watch=DisconnectWatch(),
        idle=IdleTimer(60.0),
        takes=lambda target, host: False,
        refused=lambda refusal: None,
        leave=lambda connection: None,
        count=lambda: None,
    )


def accepted_by(host: Any) -> tuple[Any, Connection]:
    """Return a client, and the other end of its connection."""
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = gevent.socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
    environs = EnvironMaker(host.cfg, ("127.0.0.1", 80))
    return client, Connection(host, accepted, address, environs, UsualHeads(host.cfg, has_addresses=True))


@pytest.fixture
def client_and_connection(host: Any) -> Iterator[tuple[Any, Connection]]:
    """A client, and the other end of its connection, which waits for a request."""
    client, connection = accepted_by(host)
    serving = gevent.spawn(connection.serve)
    with gevent.Timeout(5), client:
        while not connection.is_idle:
            gevent.sleep(0)
        yield client, connection
        client.close()
        serving.join()


@pytest.mark.parametrize("end", [Connection.shut_idle, Connection._wait_is_over], ids=["drain", "limit"])
def test_a_request_that_has_come_is_answered(client_and_connection: tuple[Any, Connection], end: End) -> None:
    """Its body is still read as it comes, and its client is not taken for gone."""
    client, connection = client_and_connection
    client.sendall(HEAD + BODY[:3])
    assert connection.is_idle  # not read so far
    end(connection)
    gevent.sleep(0.01)
    client.sendall(BODY[3:])
    response = b""
    while not response.endswith(BODY) and (data := client.recv(65536)):
        response += data
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Gone: False\r\n" in response


@pytest.mark.parametrize("end", [Connection.shut_idle, Connection._wait_is_over], ids=["drain", "limit"])
def test_a_connection_without_a_request_is_closed(client_and_connection: tuple[Any, Connection], end: End) -> None:
    """At once."""
    client, connection = client_and_connection
    end(connection)
    assert client.recv(1) == b""
    assert not connection._host.idle._waits  # nothing is waited for any more


def test_a_connection_that_has_ended_is_freed_without_the_collector(host: Any) -> None:
    """Nothing that it holds refers to it, so its memory does not wait for a collection."""
    client, connection = accepted_by(host)
    client.close()
    gc.disable()
    try:
        connection.serve()
        reference = weakref.ref(connection)
        del connection
        assert reference() is None
    finally:
        gc.enable()
