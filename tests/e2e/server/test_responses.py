"""How responses look on the wire, and that a broken one can't be taken for a whole one."""

import time
from typing import Any

import pytest
from support.gunicorn_server import Server
from support.raw import Client, Closed, exchange, request, wait_for

ERROR_500 = (
    b'{"error":{"message":"Internal server error","type":"server_error","param":null,"code":"internal_error"},'
    b'"code":"internal_error"}\n'
)


def test_fields_of_the_application_arrive_as_sent(server: Server) -> None:
    """Order, case and repetition stay; one Date and one Server; framing fields are the server's."""
    response = exchange(server.address, request("/fields"))
    assert response.fields == [
        ("Connection", "keep-alive"),
        ("X-Two", "b"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("server", "theirs"),
        ("x-two", "a"),
        ("Content-Length", "2"),
        ("Trailer", "x"),
    ]


def test_a_date_is_added_and_no_server(server: Server) -> None:
    """The application sent neither."""
    response = exchange(server.address, request("/"))
    assert len(response.values("Date")) == 1
    assert not response.values("Server")


def test_connection_close_of_the_application_closes(server: Server) -> None:
    """It is the server that says so on the wire, once."""
    with Client(server.address) as client:
        assert client.get("/refuse-and-close").values("Connection") == ["close"]
        assert client.rest() == (b"", "eof")


def test_head_204_and_chunks(server: Server) -> None:
    """HEAD keeps Content-Length without a body; 204 loses it; without one there are chunks; the connection is kept."""
    with Client(server.address) as client:
        head = client.get("/length", method="HEAD")
        assert (head.status, head.value("Content-Length")) == (200, "5")
        stream = client.get("/stream/3/0", method="HEAD")
        assert stream.value("Transfer-Encoding") is None
        nobody = client.get("/nobody")
        assert (nobody.status, nobody.value("Content-Length")) == (204, None)
        response = client.get("/stream/3/0")
        assert response.chunks == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
        assert response.value("Connection") == "keep-alive"
        assert client.get("/").status == 200


def test_http_1_0_gets_no_chunks(server: Server) -> None:
    """The close ends the body."""
    response = exchange(server.address, b"GET /stream/3/0 HTTP/1.0\r\n\r\n")
    assert response.version == "HTTP/1.0"
    assert response.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert (response.value("Connection"), response.value("Transfer-Encoding"), response.end) == ("close", None, "whole")


def test_http_1_0_keep_alive_with_a_length(server: Server) -> None:
    """As old clients ask for it."""
    with Client(server.address) as client:
        for _ in range(2):
            client.send(b"GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.response().value("Connection") == "keep-alive"


@pytest.mark.times
def test_an_empty_first_item_sends_the_head(server: Server) -> None:
    """The head is on the wire half a second before the first byte of the body."""
    with Client(server.address) as client:
        begin = time.monotonic()
        client.send(request("/head-first"))
        client.until(b"\r\n\r\n")
        assert time.monotonic() - begin < 0.4
        client.until(b"late")


def test_a_large_response_to_a_slow_reader_is_whole(server: Server) -> None:
    """64 MB in items of 1 MB; the client pauses, but not for as long as CLIENT_WRITE_TIMEOUT."""
    with Client(server.address, receive_buffer=65536) as client:
        client.send(request("/big"))
        client.until(b"\r\n\r\n")
        time.sleep(1.0)
        size, client.held = len(client.held), b""
        while size < 64 * 1024 * 1024:
            size += len(client.more())


@pytest.mark.parametrize("body", [None, b"hello"])
def test_a_client_that_reads_nothing_is_gone(server: Server, body: Any) -> None:
    """After CLIENT_WRITE_TIMEOUT the body is closed and the connection reset; also when a body was read before."""
    with Client(server.address, receive_buffer=65536) as client:
        before = server.hook_calls.count("stream unfinished")
        client.send(request("/big", body=body))
        wait_for(lambda: server.hook_calls.count("stream unfinished") > before, 8)


FRAMINGS = {"sized": "eof", "chunked": "eof", "close": "reset"}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("what", ["value", "os", "exit", "greenlet", "timeout"])
def test_a_body_that_breaks_after_the_head_is_visibly_incomplete(server: Server, framing: Any, what: Any) -> None:
    """Length: short. Chunks: no last one. Neither: a reset, never a clean end. The body is closed each time."""
    version = "1.0" if framing == "close" else "1.1"
    before = server.hook_calls.count(f"closed {what}")
    with Client(server.address) as client:
        client.send(f"GET /broken/{framing}/after/{what} HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        client.send(request("/")) if framing != "close" else None  # it must not be answered inside the broken one
        response = client.response()
    assert response.status == 200
    assert response.end in (FRAMINGS[framing], "reset")
    assert b"HTTP/1.1" not in response.body
    assert server.hook_calls.count(f"closed {what}") == before + 1


def test_fewer_bytes_than_announced_close_the_connection(server: Server) -> None:
    """The next response must not be read as the rest of this one."""
    with Client(server.address) as client:
        client.send(request("/broken/sized/after/end") + request("/"))
        response = client.response()
        assert (response.body, response.end) == (b"part", "eof")


@pytest.mark.parametrize("what", ["value", "os", "exit", "timeout"])
def test_a_body_that_breaks_before_the_head_is_500(server: Server, what: Any) -> None:
    """The JSON error object, whatever was raised; the worker lives."""
    response = exchange(server.address, request(f"/broken/sized/before/{what}"))
    assert (response.status, response.body) == (500, ERROR_500)
    assert response.value("Connection") == "close"


@pytest.mark.parametrize("what", ["value", "os", "stop", "exit"])
def test_an_application_that_raises_is_500(server: Server, what: Any) -> None:
    """An OSError is not taken for the client's socket."""
    assert exchange(server.address, request(f"/raises/{what}")).body == ERROR_500


def test_an_exchange_that_is_cut_before_its_head_gets_no_response(server: Server) -> None:
    """GreenletExit: the connection closes."""
    for target in ("/raises/greenlet", "/broken/sized/before/greenlet"):
        with pytest.raises(Closed):
            exchange(server.address, request(target))


def test_an_application_that_responds_nothing_is_500(server: Server) -> None:
    """start_response was never called."""
    assert exchange(server.address, request("/nothing")).status == 500


def test_a_timeout_out_of_the_application_is_408(server: Server) -> None:
    """What it lets out of wsgi.input is answered, and no hook is called: it has settled."""
    before = len([line for line in server.hook_calls if line.startswith("refused 408")])
    assert exchange(server.address, request("/late-timeout")).status == 408
    assert len([line for line in server.hook_calls if line.startswith("refused 408")]) == before


# -- the client goes away


@pytest.mark.parametrize("how", ["fin", "reset", "half close", "fin behind pipelined bytes"])
def test_a_client_that_goes_is_noticed_while_the_application_waits(server: Server, how: Any) -> None:
    """In well under a second, without a byte being written."""
    before = len([line for line in server.hook_calls if line.startswith("gone")])
    waiting = server.hook_calls.count("waiting")
    with Client(server.address) as client:
        client.send(request("/wait") + (request("/") if "pipelined" in how else b""))
        wait_for(lambda: server.hook_calls.count("waiting") > waiting)
        time.sleep(0.2)
        match how:
            case "reset":
                client.reset()
            case "half close":
                client.half_close()
            case _:
                client.sock.close()
        gone = wait_for(lambda: [line for line in server.hook_calls if line.startswith("gone")][before:], 5)[-1].split()
    assert gone[1:3] == ["True", "True"]
    assert float(gone[3]) < 1.2


def test_a_client_that_had_gone_before_the_watch_is_noticed_too(server: Server) -> None:
    """FIN right behind the request."""
    before = len([line for line in server.hook_calls if line.startswith("gone")])
    with Client(server.address) as client:
        client.send(request("/wait"))
        client.half_close()
        wait_for(lambda: [line for line in server.hook_calls if line.startswith("gone")][before:], 5)


def test_the_watch_does_not_outlive_its_exchange(server: Server) -> None:
    """A second exchange on the same connection is watched again; one without a watch is not disturbed."""
    with Client(server.address) as client:
        assert client.get("/").status == 200
        assert client.get("/length").status == 200
    with Client(server.address) as client:
        client.get("/")
        before = len([line for line in server.hook_calls if line.startswith("gone True")])
        client.send(request("/wait"))
        time.sleep(0.2)
        client.reset()
        wait_for(lambda: [line for line in server.hook_calls if line.startswith("gone True")][before:], 5)
