"""An exchange that has ended is freed at once: nothing of it waits for the garbage collector."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
from e2e.proxy.conftest import CHAT, EVENTS, SHORT_LIMITS, STREAM
from support.garbage import garbage, ours, watch
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, Closed, request

REPEATS = 3
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
Send = Callable[[Gateway, Token], None]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """A proxy that tells what its garbage collector finds; it reads request bodies for rules and money."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(
        folder, provider.url, **SHORT_LIMITS, **EVENTS, **watch(folder), CIRCUIT_BREAKER_FAILURES="0"
    ) as running:
        yield running


def post(
    body: bytes, *, plan: dict[str, object] | None = None, media_type: str = "application/json", path: str = ""
) -> Callable[[Token], bytes]:
    """A POST with a token, as bytes."""

    def made(token: Token) -> bytes:
        fields = [f"Content-Type: {media_type}", f"Authorization: Bearer {token.bearer}"]
        fields += [] if plan is None else [f"X-Simulate: {json.dumps(plan)}"]
        return request(path or "/v1/chat/completions", *fields, method="POST", body=body)

    return made


def read(made: Callable[[Token], bytes], status: int) -> Send:
    """Send it and read the response."""

    def send(gateway: Gateway, token: Token) -> None:
        with Client(gateway.address) as client:
            assert client.send(made(token)).response("POST").status == status

    return send


def leave(made: Callable[[Token], bytes], *, unsent: int = 0) -> Send:
    """Send it but for the last bytes, and leave in the middle of the response or of the request."""

    def send(gateway: Gateway, token: Token) -> None:
        with Client(gateway.address) as client:
            data = made(token)
            client.send(data[: len(data) - unsent])
            if not unsent:
                client.until(b"data: ")

    return send


def upload(gateway: Gateway, token: Token) -> None:
    """Leave in the middle of a body that is passed on while it comes."""
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token.bearer}\r\n"
    with Client(gateway.address) as client:
        client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode()).half_close()
        with pytest.raises(Closed):
            client.response("POST")


def whole_upload(gateway: Gateway, token: Token) -> None:
    """A body in chunks, and another request on the same connection."""
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token.bearer}\r\n"
    with Client(gateway.address) as client:
        for _ in range(2):
            client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
            assert client.response("POST").status == 400  # the provider's: it is no form


CASES: dict[str, Send] = {
    "whole": read(post(CHAT), 200),
    "stream": read(post(STREAM), 200),
    "form": read(post(FORM, media_type="multipart/form-data; boundary=b", path="/v1/audio/transcriptions"), 200),
    "refused by the provider": read(post(CHAT, plan={"status": 429}), 429),
    "broken by the provider": read(post(CHAT, plan={"cut": "head"}), 502),
    "cut in its body": read(post(CHAT, plan={"cut": "body", "after": 300}), 200),
    "late": read(post(CHAT, plan={"silence": "head"}), 504),
    "invalid token": read(lambda token: request("/v1/models", "Authorization: Bearer sk-" + "0" * 32), 401),
    "no endpoint": read(post(CHAT, path="/v1/nothing"), 404),
    "invalid body": read(post(b"[]"), 400),
    "left in the stream": leave(post(STREAM, plan={"silence": "body", "after": 600})),
    "left in the body": leave(post(CHAT), unsent=10),
    "left in an upload": upload,
    "upload": whole_upload,
}
UNREAD = ("left in an upload", "upload")  # without a budget of money, for which the whole body is read first


@pytest.mark.parametrize("name", CASES)
def test_an_exchange_leaves_no_garbage(watched: Gateway, provider: Provider, name: str) -> None:
    """However it ends, reference counts free what it held: sockets, buffers and its body."""
    token = watched.token(max_requests=100)
    if name not in UNREAD:
        watched.execute("UPDATE tokens SET max_cost_nano_usd = ? WHERE id = ?", (10**15, token.id))
    CASES[name](watched, token)  # what is built once
    with garbage(watched) as found:
        for _ in range(REPEATS):
            CASES[name](watched, token)
        provider.wait_for_state(within_s=5.0, running=0)
        eventually(lambda: sum(watched.metrics("llm_proxy_inflight_requests").values()) == 0)
        time.sleep(0.3)  # usage is read every 100 ms
    assert ours(found) == {}
