"""What passes unchanged, what is replaced, and nothing else, seen on the wire."""

import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from support.gateway import PROVIDER_KEY, Gateway, running_gateway
from support.raw import Client, Response

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


@dataclass
class Wire:
    """A provider that writes down what it is sent and answers with the bytes it is told."""

    url: str
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    closes: bool = False

    def lines(self) -> list[str]:
        """The last head, a line an item."""
        return self.heads[-1].decode("latin-1").split("\r\n")


@contextmanager
def wire_provider() -> Iterator[Wire]:
    """Serve until the block ends; one thread a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")
        open_sockets: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                open_sockets.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            data = b""
            with connection:
                while True:
                    while b"\r\n\r\n" not in data:
                        try:
                            piece = connection.recv(65536)
                        except OSError:
                            return
                        if not piece:
                            return
                        data += piece
                    head, _, data = data.partition(b"\r\n\r\n")
                    body, data = read_body(connection, head, data)
                    wire.heads.append(head)
                    wire.bodies.append(body)
                    connection.sendall(wire.response)
                    if wire.closes:
                        return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield wire
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in open_sockets:
                connection.close()


def read_body(connection: socket.socket, head: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The body as framed, raw: of a chunked one all bytes up to the last chunk's end."""
    more: Callable[[], bytes] = lambda: connection.recv(65536)  # noqa: E731
    if found := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
        length = int(found[1])
        while len(data) < length:
            data += more()
        return data[:length], data[length:]
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        while b"0\r\n\r\n" not in data:
            data += more()
        body, _, data = data.partition(b"0\r\n\r\n")
        return body + b"0\r\n\r\n", data
    return b"", data


def dechunked(raw: bytes) -> bytes:
    """The content of a chunked body without extensions."""
    content = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        content, raw = content + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return content


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """The provider."""
    with wire_provider() as running:
        yield running


@pytest.fixture(scope="module", params=["fast", "slow"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[Gateway]:
    """The proxy before it, on each lane."""
    lane = "true" if request.param == "fast" else "false"
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, wire.url, LLM_PROXY_FAST_LANE=lane) as running:
        yield running


@pytest.fixture
def ask(proxy: Gateway, wire: Wire) -> Callable[..., Response]:
    """Send a request with its own token and get the response; the provider's response is one of two bytes."""
    bearer = proxy.token().bearer
    wire.response, wire.closes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False

    def send(
        *fields: str, target: str = "/v1/models", method: str = "GET", body: bytes = b"", version: str = "1.1"
    ) -> Response:
        lines = [f"{method} {target} HTTP/{version}", "Host: proxy.example", f"Authorization: Bearer {bearer}", *fields]
        with Client(proxy.address) as client:
            return client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body).response(method)

    return send


def test_nothing_is_added_and_the_order_is_kept(ask: Callable[..., Response], wire: Wire) -> None:
    """The provider sees the client's fields in their order, its own Host and key, the request id, nothing else."""
    ask("X-B: 1", "X-A: 2", "x-b: 3", "X-Request-ID: my-id", "X-A: ")
    port = wire.url.rpartition(":")[2]
    assert [(name.lower(), value) for name, _, value in (line.partition(": ") for line in wire.lines()[1:])] == [
        ("host", f"127.0.0.1:{port}"),
        ("authorization", f"Bearer {PROVIDER_KEY}"),
        ("x-b", "1"),
        ("x-a", "2"),
        ("x-b", "3"),
        ("x-request-id", "my-id"),
        ("x-a", ""),
    ]


@pytest.mark.parametrize(
    "target",
    [
        '/v1/models?q=%2F&x="{}"&b=%zz&a=\'&e=',
        "/v1/models/ft:gpt-4o:org::abc?limit=2&limit=1",
        "/v1/models?",
        "/v1/models/%67pt",
        "/v1/files/a;b=c,d",
    ],
)
def test_the_target_passes_byte_for_byte(ask: Callable[..., Response], wire: Wire, target: str) -> None:
    """No quoting, sorting or cleaning."""
    assert ask(target=target).status == 200
    assert wire.lines()[0] == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(
    "target", ["/v1//models", "/v1/../manage", "/v1/models/..%2f", "/v1/models/%00", "/v1/modelsX"]
)
def test_a_target_that_could_mean_another_is_not_found(ask: Callable[..., Response], wire: Wire, target: str) -> None:
    """404 endpoint_not_found, and nothing is sent."""
    before = len(wire.heads)
    response = ask(target=target)
    assert (response.status, json.loads(response.body)["code"]) == (404, "endpoint_not_found")
    assert len(wire.heads) == before


def test_an_absolute_target_is_forwarded_as_path_and_query(ask: Callable[..., Response], wire: Wire) -> None:
    """RFC 9112 §3.2.2."""
    assert ask(target="http://proxy.example/v1/models?a=1").status == 200
    assert wire.lines()[0] == "GET /v1/models?a=1 HTTP/1.1"


def test_what_must_not_pass_does_not(ask: Callable[..., Response], wire: Wire) -> None:
    """Hop-by-hop fields, those that Connection names, addresses, cookies and the proxy's names stay here."""
    gone = ["Connection: keep-alive, X-Hop", "X-Hop: 1", "TE: trailers", "Keep-Alive: 5", "Cookie: a=b"]
    gone += ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4", "Proxy-Authorization: Basic a"]
    gone += ["X-Proxy-ID: a", "X-UPSTREAM-REQUEST-START: 1", "X-Cache-Key: a", "X-Body-Hash: a", "X-REQUEST-START: 1"]
    ask(*gone, "OpenAI-Beta: assistants=v2", "User-Agent: mine")
    names = [line.partition(":")[0].lower() for line in wire.lines()[1:]]
    assert names == ["host", "authorization", "openai-beta", "user-agent", "x-request-id"]


@pytest.mark.parametrize("value", ["", "with blank", "x" * 129, "ä"])
def test_an_unusable_request_id_is_replaced(ask: Callable[..., Response], wire: Wire, value: str) -> None:
    """Towards both sides by the same new UUIDv7."""
    response = ask(f"X-Request-ID: {value}")
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", response.value("x-request-id") or ""
    )
    assert any(line.lower() == f"x-request-id: {response.value('x-request-id')}" for line in wire.lines())


def test_ids_are_echoed(ask: Callable[..., Response], wire: Wire) -> None:
    """Both of them; the correlation id goes on to the provider because the client sent it."""
    response = ask("X-Request-ID: a-1", "X-Correlation-ID: b-2")
    assert (response.value("X-Request-ID"), response.value("X-Correlation-ID")) == ("a-1", "b-2")
    assert any(line.lower() == "x-correlation-id: b-2" for line in wire.lines())


def test_framing_stays_as_it_came(ask: Callable[..., Response], wire: Wire) -> None:
    """Content-Length stays Content-Length, chunked stays chunked, content byte for byte."""
    content = bytes(range(256))
    ask(
        "Content-Type: application/octet-stream", "Content-Length: 256", target="/v1/files", method="POST", body=content
    )
    assert wire.bodies[-1] == content
    assert "Content-Length: 256" in wire.lines()
    ask("Transfer-Encoding: chunked", target="/v1/files", method="POST", body=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    assert dechunked(wire.bodies[-1]) == b"abcde"
    assert "Transfer-Encoding: chunked" in wire.lines()
    ask("Content-Length: 0", target="/v1/files", method="POST")
    assert "Content-Length: 0" in wire.lines()


def test_the_response_passes_as_it_was_sent(ask: Callable[..., Response], wire: Wire) -> None:
    """Status, reason, order, repetitions, compressed bytes; Set-Cookie goes, the provider's request id moves."""
    content = gzip.compress(b"hello" * 100)
    wire.response = (
        b"HTTP/1.1 218 This Is Fine\r\nServer: theirs\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nX-Z: 1\r\nX-A: 2\r\n"
        b"X-Z: 3\r\nSet-Cookie: a=b\r\nx-request-id: theirs\r\nContent-Encoding: gzip\r\nx-ratelimit-remaining: 5\r\n"
        b"Connection: x-private\r\nX-Private: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    )
    response = ask()
    assert (response.status, response.reason, response.body) == (218, "This Is Fine", content)
    passed = [
        pair for pair in response.fields if pair[0].lower() in {"x-z", "x-a", "server", "date", "content-encoding"}
    ]
    assert passed == [
        ("Server", "theirs"),
        ("Date", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("X-Z", "1"),
        ("X-A", "2"),
        ("X-Z", "3"),
        ("Content-Encoding", "gzip"),
    ]
    assert response.values("Set-Cookie") == response.values("X-Private") == []
    assert response.value("X-Upstream-Request-ID") == "theirs"
    assert response.value("x-ratelimit-remaining") == "5"


def test_what_is_added_to_a_response(ask: Callable[..., Response]) -> None:
    """Our name, both ids, four instants, two stamps and the provider's share; nothing else."""
    response = ask()
    names = {name.lower() for name, _ in response.fields}
    for name in ("Received", "Sent-Backend", "First-Response", "Final-Response"):
        assert RFC3339.fullmatch(response.value(f"X-Proxy-{name}-At") or "")
    start, stop = (
        int(response.value("X-UPSTREAM-REQUEST-START") or 0),
        int(response.value("X-UPSTREAM-REQUEST-STOP") or 0),
    )
    assert 0 < stop - start < 5e9
    assert response.value("X-Proxy") == "llm-proxy"
    assert int(response.value("X-LLM-Proxy-Remote-Duration-Ms") or -1) >= 0
    assert float(response.value("X-LLM-Proxy-Remote-Duration") or -1) >= 0
    ours = {"x-proxy", "x-request-id", "x-correlation-id", "x-upstream-request-start", "x-upstream-request-stop"}
    ours |= {"x-llm-proxy-remote-duration", "x-llm-proxy-remote-duration-ms"}
    assert {n for n in names if not n.startswith("x-proxy-")} - ours <= {
        "content-length",
        "connection",
        "date",
        "server",
        "cache-status",
    }


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_pieces_are_not_reframed(ask: Callable[..., Response], wire: Wire, version: str) -> None:
    """An event stream arrives as sent, with X-Accel-Buffering: no."""
    wire.response = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n"
    )
    response = ask(version=version)
    assert (response.body, response.end, response.value("X-Accel-Buffering")) == (
        b"data: a\n\ndata: b\n\n",
        "whole",
        "no",
    )


@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_content(ask: Callable[..., Response], wire: Wire, proxy: Gateway, status: int) -> None:
    """204 and 304 keep their fields, and the connection goes on."""
    wire.response = b'HTTP/1.1 %d X\r\nETag: "a"\r\nX-Z: 1\r\nContent-Language: de\r\n\r\n' % status
    response = ask()
    assert response.value("Content-Language") == "de"
    assert proxy.wait_for_access(request_id=response.value("X-Request-ID"))[0]["row"] == 1
    assert (response.status, response.value("ETag"), response.value("X-Z"), response.end) == (
        status,
        '"a"',
        "1",
        "whole",
    )


def test_head_is_forwarded_as_head(ask: Callable[..., Response], wire: Wire, proxy: Gateway) -> None:
    """The provider's Content-Length arrives, no content, and the exchange is settled."""
    wire.response = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
    response = ask(method="HEAD")
    assert (response.status, response.value("Content-Length"), response.body) == (200, "1234", b"")
    assert wire.lines()[0].startswith("HEAD ")
    assert proxy.wait_for_access(request_id=response.value("X-Request-ID"))[0]["row"] == 1


def test_browsers_may_read_responses(ask: Callable[..., Response]) -> None:
    """The origin, the expose list, Vary; on errors as well."""
    for target in ("/v1/models", "/v1/nothing"):
        response = ask("Origin: https://app.example", target=target)
        assert response.value("Access-Control-Allow-Origin") == "https://app.example"
        assert "X-Request-ID" in (response.value("Access-Control-Expose-Headers") or "")
        assert response.value("Vary") == "Origin"


def test_interim_responses_and_trailers_are_not_passed_on(ask: Callable[..., Response], wire: Wire) -> None:
    """103 and trailer fields stay here; the content is whole."""
    wire.response = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    response = ask()
    assert (response.status, response.body, response.end) == (200, b"ok", "whole")
    assert response.values("Link") == response.values("X-Trailer") == []


def test_redirects_are_passed_and_not_followed(ask: Callable[..., Response], wire: Wire) -> None:
    """A 307 is the client's to follow."""
    wire.response = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    before = len(wire.heads)
    response = ask()
    assert (response.status, response.value("Location"), len(wire.heads)) == (307, "/elsewhere", before + 1)


def test_two_authorization_lines_are_refused(ask: Callable[..., Response], wire: Wire) -> None:
    """401 invalid_token: which of them counts is not guessed."""
    before = len(wire.heads)
    response = ask("Authorization: Bearer sk-another")
    assert (response.status, json.loads(response.body)["code"]) == (401, "invalid_token")
    assert response.value("WWW-Authenticate") == "Bearer"
    assert len(wire.heads) == before


def test_streams_of_http_1_0_end_with_a_reset_when_broken(ask: Callable[..., Response], wire: Wire) -> None:
    """Nothing but a reset tells an HTTP/1.0 client that a response is incomplete."""
    wire.response, wire.closes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", True
    assert ask(version="1.0").end == "reset"
