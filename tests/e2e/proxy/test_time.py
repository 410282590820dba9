"""When things arrive, and what is allowed to take long."""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.proxy.conftest import CHAT, STREAM
from support.gateway import Gateway, Token, running_gateway
from support.provider import Provider
from support.raw import Client, Response, request


def post(body: bytes, token: Token, **plan: object) -> bytes:
    """A POST that steers the provider."""
    fields = ["Content-Type: application/json", f"Authorization: Bearer {token.bearer}"]
    return request("/v1/chat/completions", *fields, f"X-Simulate: {json.dumps(plan)}", method="POST", body=body)


@pytest.mark.times
@pytest.mark.parametrize("body", [STREAM, CHAT], ids=["events", "chunked"])
def test_the_head_does_not_wait_for_the_first_piece(both_lanes: Gateway, body: bytes) -> None:
    """A provider that has sent its head and nothing else: the client has the head at once."""
    token = both_lanes.token()
    with Client(both_lanes.address) as client:
        begin = time.monotonic()
        client.send(post(body, token, silence="body", after=0, framing="chunked"))
        client.until(b"\r\n\r\n")
        assert time.monotonic() - begin < 1


def test_each_event_is_written_as_it_arrives(both_lanes: Gateway) -> None:
    """Events 0.3 s apart arrive apart, the first one long before the last."""
    token = both_lanes.token()
    with Client(both_lanes.address) as client:
        client.send(post(STREAM, token, events=5, interval=0.3))
        client.until(b"data: ")
        first = time.monotonic()
        client.until(b"[DONE]")
        assert time.monotonic() - first > 0.9


def test_a_total_limit_spares_streams(tmp_path: Path, provider: Provider) -> None:
    """REQUEST_TIMEOUT bounds whole responses and the wait for a stream's head, not the stream."""
    with running_gateway(tmp_path, provider.url, REQUEST_TIMEOUT="1s") as gateway, ThreadPoolExecutor() as pool:
        token = gateway.token()

        def ask(body: bytes, **plan: object) -> Future[Response]:
            def exchange() -> Response:
                with Client(gateway.address) as client:
                    return client.send(post(body, token, **plan)).response("POST")

            return pool.submit(exchange)

        stream, whole = ask(STREAM, events=8, interval=0.3), ask(CHAT, drip=0.01, framing="chunked")
        silent = [ask(body, silence="head") for body in (STREAM, CHAT)]
        assert (stream.result().end, stream.result().body.endswith(b"data: [DONE]\n\n")) == ("whole", True)
        assert (whole.result().status, whole.result().end == "whole") == (200, False)
        for one in silent:
            assert (one.result().status, json.loads(one.result().body)["code"]) == (504, "timeout")


def test_a_slow_but_steady_response_arrives(both_lanes: Gateway) -> None:
    """Slower in all than the idle limit, never silent for so long: it comes whole."""
    token = both_lanes.token()
    with Client(both_lanes.address) as client:
        response = client.send(post(CHAT, token, events=3, drip=0.004)).response("POST")
    assert (response.status, response.end) == (200, "whole")
