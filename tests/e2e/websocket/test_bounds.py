"""Bounds of WebSockets: how many, how long, how quiet, and how much waits for a side that does not read."""

import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, Token, eventually, running_gateway
from support.provider import Provider, running_provider
from support.raw import Client, request
from support.sockets import HANDSHAKE, close_of, create, opened, provider_file, turn
from support.tls import self_signed
from websockets.exceptions import InvalidStatus

from llm_proxy.websocket.frames import BINARY, TEXT, frame

IDLE_S, AGE_S, MOST = 1.5, 3.0, 4
_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """One worker with short times and few places."""
    folder = tmp_path_factory.mktemp("bounded")
    variables = {"WS_IDLE_TIMEOUT": f"{IDLE_S}s", "WS_MAX_AGE": f"{AGE_S}s", "WS_MAX_SOCKETS": str(MOST)}
    with running_gateway(folder, provider.url, API_CONFIG_PATH=provider_file(folder), **variables) as running:
        yield running


@pytest.mark.times
def test_a_quiet_socket_ends_after_the_idle_time(bounded: Gateway) -> None:
    """WS_IDLE_TIMEOUT after the last byte, and not before: 1001."""
    with opened(bounded, bounded.token()) as client:
        turn(client)
        quiet_since = time.monotonic()
        assert close_of(client) == (1001, "idle_timeout")
        assert IDLE_S <= time.monotonic() - quiet_since < IDLE_S + 1


def test_an_old_socket_ends_after_its_turn(bounded: Gateway) -> None:
    """At WS_MAX_AGE a turn runs: it comes to its end, then 1001."""
    began = time.monotonic()
    with opened(bounded, bounded.token()) as client:
        assert turn(client, simulate={"interval": 0.2, "words": 20})[-1]["type"] == "response.completed"
        assert time.monotonic() - began > AGE_S
        assert close_of(client, 1.0) == (1001, "max_age")


def test_sockets_of_the_server_are_bounded(bounded: Gateway) -> None:
    """Past WS_MAX_SOCKETS a handshake of any token is 503, until one of the others has ended."""
    with ExitStack() as stack:
        clients = [stack.enter_context(opened(bounded, bounded.token())) for _ in range(MOST)]
        with pytest.raises(InvalidStatus) as refusal:
            opened(bounded, bounded.token())
        assert refusal.value.response.status_code == 503
        assert int(refusal.value.response.headers["Retry-After"]) > 0
        clients[0].close()
        eventually(lambda: bounded.metric("llm_proxy_ws_open") == MOST - 1, 5)
        with opened(bounded, bounded.token()) as another:
            assert turn(another)[-1]["type"] == "response.completed"


@pytest.mark.times
def test_a_client_that_does_not_read(bounded: Gateway, provider: Provider) -> None:
    """The provider is held back, the worker's memory stays, and the idle time ends it on both sides."""
    token = bounded.token()
    (worker,) = bounded.workers()
    with Client(bounded.address, receive_buffer=4096) as client:
        handshake(client, token)
        before = resident_bytes(worker)
        client.send(frame(TEXT, create(simulate={"words": 400_000}).encode(), is_masked=True))
        line = bounded.wait_for_access(1, token_id=token.id, kind="websocket")[0]
        assert line["close_code"] == 1001
        assert line["duration_ms"] < (IDLE_S + 3) * 1000
        assert line["response_bytes"] < 8 * _MIB
        assert resident_bytes(worker) - before < 16 * _MIB
    provider.wait_for_state(running=0)
    assert bounded.request_count(token) == 1


def test_a_provider_that_does_not_read(bounded: Gateway) -> None:
    """The client is held back: what waits for the provider is bounded."""
    token = bounded.token()
    (worker,) = bounded.workers()
    with Client(bounded.address) as client:
        handshake(client, token)
        before = resident_bytes(worker)
        client.send(frame(TEXT, create(simulate={"interval": 30, "words": 0}).encode(), is_masked=True))
        client.sock.settimeout(IDLE_S / 2)
        sent = sent_until_stuck(client, frame(BINARY, bytes(100_000), is_masked=True), 200 * _MIB)
        assert sent < 32 * _MIB
        assert resident_bytes(worker) - before < 32 * _MIB
        bounded.wait_for_access(1, token_id=token.id, kind="websocket")


def sent_until_stuck(client: Client, piece: bytes, most: int) -> int:
    """How many bytes are taken until none is for the socket's timeout; whole frames do not matter."""
    sent = 0
    with suppress(TimeoutError):
        while sent < most:
            sent += client.sock.send(piece)
    return sent


def handshake(client: Client, token: Token) -> None:
    """Open a WebSocket on a raw connection."""
    client.send(request("/v1/responses", f"Authorization: Bearer {token.bearer}", *HANDSHAKE))
    assert b" 101 " in client.until(b"\r\n\r\n")


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_sockets_and_turns_are_listed_and_cut(bounded: Gateway) -> None:
    """GET /manage/streams shows the WebSocket and its turn; DELETE ends it with 1008, and the turn is charged."""
    token = bounded.token()
    with opened(bounded, token) as client:
        client.send(create(simulate={"interval": 0.1, "words": 100}))
        client.recv(timeout=5)
        found = {one["kind"]: one for one in streams(bounded) if one["token_id"] == token.id}
        assert set(found) == {"websocket", "turn"}
        assert (found["websocket"]["status"], found["websocket"]["method"]) == (101, "GET")
        assert (found["turn"]["status"], found["turn"]["model"]) == (200, "gpt-4o")
        path = f"/manage/streams/{found['websocket']['id']}"
        assert bounded.ask("DELETE", path, headers=MANAGER)[0] == 204
        assert close_of(client) == (1008, "cut_by_operator")
    assert bounded.wait_for_access(1, token_id=token.id, kind="turn")[0]["error"] == "operator"
    assert bounded.request_count(token) == 1
    assert [one for one in streams(bounded) if one["token_id"] == token.id] == []


MANAGER = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}


def streams(gateway: Gateway) -> list[dict[str, object]]:
    """What the management API lists."""
    found: list[dict[str, object]] = json.loads(gateway.ask("GET", "/manage/streams", headers=MANAGER)[2])
    return found


def test_tls_on_both_sides(tmp_path: Path) -> None:
    """The proxy by wss, and the provider by wss: turns, long messages, the client's close pass."""
    certificate = self_signed(tmp_path)
    with running_provider(tmp_path, "--interval", "0", certificate=certificate) as provider:
        folder = tmp_path / "gateway"
        folder.mkdir()
        variables = {"API_CONFIG_PATH": provider_file(folder), "REQUESTS_CA_BUNDLE": str(certificate.chain)}
        variables |= {"ENABLE_TLS": "true", "TLS_CERT_FILE": str(certificate.chain)}
        variables |= {"TLS_KEY_FILE": str(certificate.key)}
        with running_gateway(folder, provider.url, **variables) as gateway:
            token = gateway.token(max_requests=5)
            with opened(gateway, token, ssl=ssl.create_default_context(cafile=certificate.chain)) as client:
                assert turn(client)[-1]["type"] == "response.completed"
                long_one = turn(client, note="x" * 500_000, simulate={"words": 2000, "fragments": 3})
                assert long_one[-1]["response"]["usage"]["output_tokens"] == 2000
                client.close(4002, "enough")
            eventually(lambda: provider.websockets()[-1]["closed_with"] == [4002, "enough"], 5)
            assert gateway.request_count(token) == 2
