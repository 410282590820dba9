"""Where a response ends, and whether its connection may be used for another one."""

import pytest
from integration.transport.scripted import OK, Connection, responding
from integration.transport.transport_lab import Lab, wait_until

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "response", "content", "kept"),
    [
        ("HEAD", START + b"Content-Length: 10\r\n\r\n", b"", True),
        ("HEAD", CHUNKED, b"", True),
        ("HEAD", START + b"\r\n", b"", True),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        ("GET", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        ("GET", START + b"Content-Length: 0\r\n\r\n", b"", True),
        ("GET", CHUNKED + b"0\r\n\r\n", b"", True),
        ("GET", CHUNKED + b'2;a=b;c="d"\r\nok\r\n0\r\nA: b\r\nC: d\r\n\r\n', b"ok", True),
        ("GET", START + b"transfer-encoding: Chunked\r\n\r\n002\r\nok\r\n000\r\n\r\n", b"ok", True),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok", b"ok", True),
        ("GET", START + b"Content-Length: 2\r\nConnection: x, Close\r\n\r\nok", b"ok", False),
        ("GET", START + b"Content-Length: 2\r\nConnection: x\r\nconnection: close\r\n\r\nok", b"ok", False),
        ("GET", START + b"Content-Length: 2\r\nConnection: closed\r\n\r\nok", b"ok", True),
        ("GET", START + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        ("HEAD", START + b"Connection: close\r\n\r\n", b"", False),
    ],
)
def test_right_content_and_right_pooling(lab: Lab, method: str, response: bytes, content: bytes, kept: bool) -> None:
    """Each framing gives its exact content, and the connection is kept exactly where the upstream keeps it."""

    def script(c: Connection) -> None:
        while True:
            c.request()
            c.send(response)

    lab.script(script)
    assert lab.fetch(method)[1] == content
    assert lab.upstream.idle_count == lab.upstream.open_count == kept
    assert lab.fetch(method)[1] == content
    assert len(lab.connections) == (1 if kept else 2)


@pytest.mark.parametrize("surplus", [b"x", OK, b"\r\n"], ids=["a byte", "a response", "an empty line"])
@pytest.mark.parametrize("together", [True, False], ids=["same packet", "next packet"])
@pytest.mark.parametrize(
    ("method", "response", "content"),
    [
        ("GET", START + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        ("GET", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("HEAD", START + b"Content-Length: 5\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "HEAD", "204", "304"],
)
def test_surplus_bytes_cost_the_connection(
    lab: Lab, method: str, response: bytes, content: bytes, together: bool, surplus: bytes
) -> None:
    """Bytes behind the response's end are dropped: the content is exact and the next request has a fresh connection."""

    def script(c: Connection) -> None:
        c.request()
        c.send(response + surplus) if together else c.send(response, surplus)
        c.wait_for_end()

    lab.script(script, responding(OK))
    assert lab.fetch(method)[1] == content
    if together:
        assert lab.upstream.open_count == 0
    wait_until(lambda: not lab.quiet_connections)  # what comes after the next request is its response
    assert lab.fetch() == (200, b"ok")
    assert len(lab.connections) == 2
