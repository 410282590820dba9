"""What is accepted as a request, by both of gunicorn's parsers, and what the application is told of it."""

import json
import time
from typing import Any

import pytest
from support.gunicorn_server import Server
from support.raw import Client, Closed, exchange, request

H = b"Host: localhost\r\n"
POST = b"POST /echo HTTP/1.1\r\n" + H
GET = b"GET /echo HTTP/1.1\r\n"

REFUSED = {
    "cl and te": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te and cl": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "length plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "length minus": POST + b"Content-Length: -1\r\n\r\n",
    "length hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "length empty": POST + b"Content-Length: \r\n\r\n",
    "length superscript": POST + b"Content-Length: \xb3\r\n\r\nabc",
    "length of 23 digits": POST + b"Content-Length: 10000000000000000000000\r\n\r\nabc",
    "te twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "te identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "te gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "te unknown": POST + b"Transfer-Encoding: x-other\r\n\r\n",
    "te unknown, chunked": POST + b"Transfer-Encoding: x-other, chunked\r\n\r\n0\r\n\r\n",
    "te with control": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "te in 1.0": b"POST /echo HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "expect unknown": POST + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n",
    "obs-fold": GET + H + b"X-A: 1\r\n 2\r\n\r\n",
    "obs-fold tab": GET + H + b"X-A: 1\r\n\t2\r\n\r\n",
    "bare lf in request line": b"GET /echo HTTP/1.1\nHost: localhost\r\n\r\n",
    "bare lf in field": GET + b"Host: localhost\nX-A: 1\r\n\r\n",
    "bare lf at the end": GET + b"Host: localhost\n\n",
    "bare cr in field": GET + H + b"X-A: 1\r2\r\n\r\n",
    "nul in field": GET + H + b"X-A: 1\x002\r\n\r\n",
    "control in field": GET + H + b"X-A: 1\x012\r\n\r\n",
    "delete in field": GET + H + b"X-A: 1\x7f2\r\n\r\n",
    "space before colon": GET + H + b"X-A : 1\r\n\r\n",
    "space before name": GET + H + b" X-A: 1\r\n\r\n",
    "empty name": GET + H + b": 1\r\n\r\n",
    "no colon": GET + H + b"X-A\r\n\r\n",
    "odd name": GET + H + b"X(A): 1\r\n\r\n",
    "latin name": GET + H + b"X-\xe4: 1\r\n\r\n",
    "two hosts": GET + H + H + b"\r\n",
    "two content types": GET + H + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
    "no host": GET + b"\r\n",
    "empty host": GET + b"Host: \r\n\r\n",
    "host with blank": GET + b"Host: a b\r\n\r\n",
    "host with userinfo": GET + b"Host: u@a\r\n\r\n",
    "host with path": GET + b"Host: a/\r\n\r\n",
    "host with bad port": GET + b"Host: a:99x\r\n\r\n",
    "host list": GET + b"Host: a, b\r\n\r\n",
    "host list without blank": GET + b"Host: a,b\r\n\r\n",
    "host without name": GET + b"Host: :80\r\n\r\n",
    "bad host in 1.0": b"GET /echo HTTP/1.0\r\nHost: a b\r\n\r\n",
    "http 0.9": b"GET /echo\r\n\r\n",
    "http 2.0": b"GET /echo HTTP/2.0\r\n" + H + b"\r\n",
    "http 1.10": b"GET /echo HTTP/1.10\r\n" + H + b"\r\n",
    "http lower case": b"GET /echo http/1.1\r\n" + H + b"\r\n",
    "http2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case method": b"get /echo HTTP/1.1\r\n" + H + b"\r\n",
    "odd method": b"G(T /echo HTTP/1.1\r\n" + H + b"\r\n",
    "asterisk without options": b"GET * HTTP/1.1\r\n" + H + b"\r\n",
    "authority form": b"GET localhost:80 HTTP/1.1\r\n" + H + b"\r\n",
    "relative target": b"GET echo HTTP/1.1\r\n" + H + b"\r\n",
    "fragment": b"GET /echo#x HTTP/1.1\r\n" + H + b"\r\n",
    "absolute with fragment": b"GET http://localhost/echo#x HTTP/1.1\r\n" + H + b"\r\n",
    "absolute with userinfo": b"GET http://u@localhost/echo HTTP/1.1\r\n" + H + b"\r\n",
    "absolute with bad port": b"GET http://localhost:x/echo HTTP/1.1\r\n" + H + b"\r\n",
    "absolute without host": b"GET http:///echo HTTP/1.1\r\n" + H + b"\r\n",
    "absolute of another scheme": b"GET ftp://localhost/echo HTTP/1.1\r\n" + H + b"\r\n",
    "absolute and no host field": b"GET http://localhost/echo HTTP/1.1\r\n\r\n",
    "blank in target": b"GET /a b HTTP/1.1\r\n" + H + b"\r\n",
    "byte above ascii in target": b"GET /\xe4 HTTP/1.1\r\n" + H + b"\r\n",
    "control in target": b"GET /\x01 HTTP/1.1\r\n" + H + b"\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

BAD_BODIES = {
    "chunk size with blank": b" 3\r\nabc\r\n0\r\n\r\n",
    "chunk size 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size empty": b"\r\nabc\r\n0\r\n\r\n",
    "chunk size negative": b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk size of 64 bits": b"FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": b"2\r\nabc\r\n0\r\n\r\n",
    "chunk extension with bare cr": b"3;a=\rb\r\nabc\r\n0\r\n\r\n",
    "forbidden trailer": b"3\r\nabc\r\n0\r\nAuthorization: x\r\n\r\n",
    "forbidden trailer host": b"3\r\nabc\r\n0\r\nHost: x\r\n\r\n",
}

ACCEPTED = {
    "plain": (GET + H + b"\r\n", "/echo", ""),
    "empty line first": (b"\r\n" + GET + H + b"\r\n", "/echo", ""),
    "empty lines first": (b"\r\n" * 4000 + GET + H + b"\r\n", "/echo", ""),
    "1.2": (b"GET /echo HTTP/1.2\r\n" + H + b"\r\n", "/echo", ""),
    "length": (POST + b"Content-Length: 3\r\n\r\nabc", "/echo", "abc"),
    "length 0": (POST + b"Content-Length: 0\r\n\r\n", "/echo", ""),
    "post without length": (POST + b"\r\n", "/echo", ""),
    "chunked": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "/echo", "abc"),
    "chunked in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "/echo", "abc"),
    "chunk extension": (POST + b'Transfer-Encoding: chunked\r\n\r\n3;a="b"\r\nabc\r\n0\r\n\r\n', "/echo", "abc"),
    "chunk size with zeros first": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 30 + b"3\r\nabc\r\n0\r\n\r\n",
        "/echo",
        "abc",
    ),
    "trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", "/echo", "abc"),
    "1.0": (b"GET /echo HTTP/1.0\r\n\r\n", "/echo", ""),
    "absolute": (b"GET http://localhost/echo?a=1 HTTP/1.1\r\n" + H + b"\r\n", "/echo?a=1", ""),
    "absolute in capitals": (b"GET HTTPS://[::1]:80/echo HTTP/1.1\r\n" + H + b"\r\n", "/echo", ""),
    "two slashes": (b"GET //echo//b HTTP/1.1\r\n" + H + b"\r\n", "//echo//b", ""),
    "escapes": (b"GET /echo/a%2fb%zz?c=%00'\"{} HTTP/1.1\r\n" + H + b"\r\n", "/echo/a%2fb%zz?c=%00'\"{}", ""),
    "host with port": (GET + b"Host: a.b-c_d:8080\r\n\r\n", "/echo", ""),
    "host of ipv6": (GET + b"Host: [::1]:80\r\n\r\n", "/echo", ""),
    "host with empty port": (GET + b"Host: a:\r\n\r\n", "/echo", ""),
    "unknown method": (b"PURGE /echo HTTP/1.1\r\n" + H + b"\r\n", "/echo", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_ambiguous_or_malformed_head_is_400_and_the_connection_closes(server: Server, case: Any) -> None:
    """Each gets the JSON error object, a request id, Connection: close, and then the end."""
    with Client(server.address) as client:
        response = client.send(REFUSED[case]).response()
        assert (response.status, response.reason) == (400, "Bad Request")
        assert response.body == (
            b'{"error":{"message":"Malformed HTTP request","type":"invalid_request_error","param":null,'
            b'"code":"malformed_request"},"code":"malformed_request"}\n'
        )
        assert response.value("Content-Type") == "application/json"
        assert response.value("Connection") == "close"
        assert len(response.value("X-Request-ID") or "") == 36
        assert response.value("Date")
        assert client.rest()[0] == b""


@pytest.mark.parametrize("case", BAD_BODIES)
def test_malformed_chunks_are_400(server: Server, case: Any) -> None:
    """The body's reader gets an error, the client the JSON error object."""
    response = exchange(server.address, POST + b"Transfer-Encoding: chunked\r\n\r\n" + BAD_BODIES[case])
    assert response.status == 400
    assert json.loads(response.body)["code"] == "malformed_request"


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_good_request_reaches_the_application_as_it_was_written(server: Server, case: Any) -> None:
    """Target byte for byte, absolute form reduced, body whole."""
    data, uri, body = ACCEPTED[case]
    response = exchange(server.address, data)
    assert response.status == 200
    if response.body != b"ok":  # "//echo" is another path
        told = json.loads(response.body)
        assert (told["uri"], told["body"]) == (uri, body)


def test_an_absolute_target_without_path_is_the_root(server: Server) -> None:
    """`GET http://host?x` asks for `/?x`."""
    response = exchange(server.address, b"GET http://localhost?x=1 HTTP/1.1\r\n" + H + b"\r\n")
    assert (response.status, response.body) == (200, b"ok")


@pytest.mark.parametrize("target", [b"localhost:443", b"/echo"])
def test_connect_is_405(server: Server, target: Any) -> None:
    """There are no tunnels (RFC 9110 §9.3.6); Allow says what there is."""
    response = exchange(server.address, b"CONNECT " + target + b" HTTP/1.1\r\n" + H + b"\r\n")
    assert (response.status, response.reason, response.value("Connection")) == (405, "Method Not Allowed", "close")
    assert "POST" in (response.value("Allow") or "")


def test_a_later_minor_version_is_answered_as_1_1(server: Server) -> None:
    """RFC 9110 §2.5: the connection stays open, and the response says what is spoken."""
    with Client(server.address) as client:
        for _ in range(2):
            response = client.send(b"GET /echo HTTP/1.2\r\n" + H + b"\r\n").response()
            assert (response.status, response.version, response.value("Connection")) == (200, "HTTP/1.1", "keep-alive")


def test_what_http_1_0_does_not_know_is_ignored(server: Server) -> None:
    """Expect (RFC 9110 §10.1.1) and Upgrade (§7.8) do not reach the application."""
    lines = b"Host: h\r\nExpect: 100-continue\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi"
    told = json.loads(exchange(server.address, b"POST /echo HTTP/1.0\r\n" + lines).body)
    assert (told["fields"], told["body"]) == ([["HOST", "h"], ["CONTENT-LENGTH", "2"]], "hi")


def test_empty_lines_begin_no_request(server: Server) -> None:
    """A client that sends one behind its body is idle: its connection ends without a 408, or goes on."""
    post = b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\nhi\r\n"
    with Client(server.address) as client:
        assert client.send(post).response().status == 200
        assert client.rest()[0] == b""
    with Client(server.address) as client:
        assert client.send(post + b"\r").response().status == 200
        assert client.send(b"\n" + GET + H + b"\r\n").response().status == 200


def test_options_asterisk_reaches_the_application(server: Server) -> None:
    """RFC 9112 §3.2.4."""
    assert exchange(server.address, b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n").status == 200


def test_fields_keep_order_repetition_and_odd_bytes(server: Server) -> None:
    """Names are in capitals, outer blanks are gone, names with `_` are dropped."""
    lines = [b"X-B: 2", b"x-a:  1 \t", b"X-B: 1", b"X-Empty:", b"X_Under: 1", b"X-Obs: \xe4\xff", b"X-In: a  b"]
    lines += [b"Authorization: Bearer a", b"Authorization: Bearer b", b"SCRIPT_NAME: /x", b"PATH_INFO: /y"]
    response = exchange(server.address, GET + H + b"\r\n".join(lines) + b"\r\n\r\n")
    told = json.loads(response.body)
    assert told["path"] == "/echo"
    assert told["fields"] == [
        ["HOST", "localhost"],
        ["X-B", "2"],
        ["X-A", "1"],
        ["X-B", "1"],
        ["X-EMPTY", ""],
        ["X-OBS", "\xe4\xff"],
        ["X-IN", "a  b"],
        ["AUTHORIZATION", "Bearer a"],
        ["AUTHORIZATION", "Bearer b"],
    ]


def test_forwarded_fields_change_nothing(server: Server) -> None:
    """Address and scheme behind trusted proxies are the application's business."""
    response = exchange(
        server.address, request("/echo", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Ssl: on")
    )
    told = json.loads(response.body)
    assert (told["addr"], told["scheme"]) == ("127.0.0.1", "http")


def test_too_long_a_request_line_is_414_and_can_be_read(server: Server) -> None:
    """Even when the line has not ended and more is coming."""
    with Client(server.address) as client:
        response = client.send(b"GET /" + b"a" * 9000).response()
        assert (response.status, json.loads(response.body)["code"]) == (414, "uri_too_long")


def test_a_request_line_within_the_limit_is_served(server: Server) -> None:
    """8190 bytes are allowed."""
    assert exchange(server.address, request("/" + "a" * 8100)).status == 200


@pytest.mark.parametrize(
    "head",
    [b"X-A: " + b"a" * 9000 + b"\r\n", *(b"".join(b"X-%d: 1\r\n" % i for i in range(number)) for number in (150, 300))],
    ids=["size", "number", "more than the parser takes"],
)
def test_too_large_a_header_section_is_431(server: Server, head: Any) -> None:
    """One field beyond 8190 bytes, or more than 100 fields."""
    response = exchange(server.address, GET + H + head + b"\r\n")
    assert (response.status, json.loads(response.body)["code"]) == (431, "header_fields_too_large")


def test_a_refused_head_request_has_no_body(server: Server) -> None:
    """The fields are those of the refusal."""
    with Client(server.address) as client:
        response = client.send(b"HEAD /echo#x HTTP/1.1\r\n" + H + b"\r\n").response("HEAD")
        assert response.status == 400
        assert client.rest()[0] == b""


def test_a_refusal_after_parsing_keeps_the_clients_request_id(server: Server) -> None:
    """A good X-Request-ID comes back; a bad one is replaced."""
    good = exchange(server.address, GET + b"Host: a b\r\nX-Request-ID: my-id.1\r\n\r\n")
    bad = exchange(server.address, GET + b"Host: a b\r\nX-Request-ID: my id\r\n\r\n")
    assert good.value("X-Request-ID") == "my-id.1"
    assert len(bad.value("X-Request-ID") or "") == 36


def test_the_hooks_are_told_of_refusals(server: Server) -> None:
    """Method and target where they were understood."""
    exchange(server.address, b"GET /told-to-hooks#1 HTTP/1.1\r\n" + H + b"\r\n")
    assert "refused 400 malformed_request GET /told-to-hooks#1 127.0.0.1" in server.hook_calls
    exchange(server.address, b"nonsense\r\n\r\n")
    assert "refused 400 malformed_request None None 127.0.0.1" in server.hook_calls


def test_read1_hands_pieces_on_as_they_arrive(server: Server) -> None:
    """Each piece is answered before the next is sent, sized or chunked, and the next request is not touched."""
    for head, pieces in (
        (b"Content-Length: 6\r\n\r\n", [b"ab", b"cd", b"ef"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"2\r\nab\r\n", b"2\r\ncd\r\n", b"2\r\nef\r\n0\r\n\r\n"]),
    ):
        with Client(server.address) as client:
            client.send(b"POST /pieces HTTP/1.1\r\n" + H + head)
            for piece, got in zip(pieces, (b"[ab]", b"[cd]", b"[ef]"), strict=True):
                client.send(piece)
                client.until(got)
            client.until(b"0\r\n\r\n")


def test_pipelined_requests_are_answered_in_turn(server: Server) -> None:
    """A body that is read piecemeal does not eat the request behind it."""
    first = b"POST /size HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\nhello"
    chunked = b"POST /size HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    unread = b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 7\r\n\r\n" + b"unread!"
    with Client(server.address) as client:
        client.send(first + chunked + unread + request("/length"))
        assert [client.response().body for _ in range(4)] == [b"5", b"3", b"ok", b"12345"]


@pytest.mark.parametrize("head", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\na\r\nabc"])
def test_a_body_that_ends_early_is_no_body(server: Server, head: Any) -> None:
    """The application's reader raises ClientGone; nothing is answered."""
    with Client(server.address) as client:
        client.send(b"POST /size HTTP/1.1\r\n" + H + head)
        client.half_close()
        assert client.rest() == (b"", "eof")
    assert "body ClientGone" in server.hook_calls


def test_100_continue_comes_at_the_first_read_only(server: Server) -> None:
    """A client that is refused without a look at its body is not told to send it."""
    expecting = b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with Client(server.address) as client:
        client.send(b"POST /size HTTP/1.1\r\n" + H + expecting)
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.send(b"hello").response().body == b"5"
        assert client.get("/").status == 200
    with Client(server.address) as client:
        head = client.send(b"POST /refuse HTTP/1.1\r\n" + H + expecting).until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in head
        assert client.rest()[0] == b"too large"


@pytest.mark.times
def test_a_slow_head_is_408_also_when_it_drips(server: Server) -> None:
    """REQUEST_HEADER_TIMEOUT counts from the first byte to the end of the head."""
    with Client(server.address) as still, Client(server.address) as dripping:
        begin = time.monotonic()
        still.send(b"GET / HTTP/1.1\r\nHos")
        dripping.send(b"GET / HTTP/1.1\r\nX-A: ")
        dripping.sock.settimeout(0.1)
        data = b""
        while not data and time.monotonic() < begin + 5:
            dripping.send(b"a")
            try:
                data = dripping.more()
            except TimeoutError:
                continue
        assert data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        response = still.response()
        assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
        assert 0.9 < time.monotonic() - begin < 4


def test_a_silent_body_is_408_and_a_slow_steady_one_is_served(server: Server) -> None:
    """REQUEST_BODY_TIMEOUT bounds silence, not the whole."""
    head = b"POST /size HTTP/1.1\r\n" + H + b"Content-Length: 8\r\n\r\n"
    with Client(server.address) as silent, Client(server.address) as steady, Client(server.address) as bare_lf:
        silent.send(head + b"abc")
        bare_lf.send(b"POST /size HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n")
        steady.send(head)
        for _ in range(8):
            steady.send(b"x")
            time.sleep(0.25)
        assert steady.response().body == b"8"
        response = silent.response()
        assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
        assert response.value("Connection") == "close"
        assert bare_lf.response().status in (400, 408)
    assert "body RequestTimeout" in server.hook_calls


def test_idle_and_silent_connections_close_without_a_word(server: Server) -> None:
    """KEEPALIVE_TIMEOUT, for a kept connection and for a new one that says nothing."""
    with Client(server.address) as kept, Client(server.address) as new:
        assert kept.get("/").value("Connection") == "keep-alive"
        assert kept.rest() == (b"", "eof")
        assert new.rest() == (b"", "eof")


def test_a_kept_connection_serves_on(server: Server) -> None:
    """Requests on one connection, with a pause shorter than the limit."""
    with Client(server.address) as client:
        for _ in range(3):
            assert client.get("/").status == 200
            time.sleep(0.2)


@pytest.mark.parametrize("value", ["close", "Close", "foo, close"])
def test_connection_close_is_honoured_in_a_list_too(server: Server, value: Any) -> None:
    """RFC 9110 §7.6.1."""
    with Client(server.address) as client:
        assert client.get("/", f"Connection: {value}").value("Connection") == "close"
        assert client.rest() == (b"", "eof")


def test_an_upload_that_is_refused_can_read_the_refusal(server: Server) -> None:
    """20 MB sent at full speed against a 413 that reads nothing of it."""
    with Client(server.address) as client:
        client.send(b"POST /refuse HTTP/1.1\r\n" + H + b"Content-Length: 20000000\r\n\r\n")
        try:
            for _ in range(200):
                client.send(b"x" * 100_000)
        except OSError:
            pytest.fail("the upload was cut off")
        response = client.response()
        assert (response.status, response.body, response.value("Connection")) == (413, b"too large", "close")


def test_a_request_cut_off_in_its_head_gets_nothing(server: Server) -> None:
    """The client has gone; no refusal is written."""
    with Client(server.address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost")
        client.half_close()
        with pytest.raises(Closed):
            client.response()
