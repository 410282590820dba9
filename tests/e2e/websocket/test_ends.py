"""What ends a WebSocket from this side: its token, its project, its time, the drain, a kill."""

import json
import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request
from support.sockets import HANDSHAKE, close_of, create, opened, provider_file, rest_of_turn, turn
from websockets.exceptions import ConnectionClosed

from llm_proxy.websocket.frames import close_frame


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """Two workers, with short times."""
    folder = tmp_path_factory.mktemp("workers")
    variables = {"API_CONFIG_PATH": provider_file(folder), "WEB_CONCURRENCY": "2", "WS_IDLE_TIMEOUT": "3s"}
    variables |= {"WS_PING_INTERVAL": "1s", "WS_MAX_SOCKETS": "1100"}
    with running_gateway(folder, provider.url, **variables) as running:
        yield running


@pytest.mark.times
def test_revoked_sockets_end_within_a_second(workers: Gateway, provider: Provider) -> None:
    """1,000 sockets of 100 tokens, on both workers: told 1008 and closed within a second, the provider too."""
    project = workers.project()
    tokens = [workers.token(project) for _ in range(100)]
    before = len(provider.websockets())
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        wanted = [token for token in tokens for _ in range(10)]
        clients = list(threads.map(lambda token: stack.enter_context(handshaken(workers, token)), wanted))
        workers.execute("UPDATE tokens SET is_active = 0 WHERE project_id = ?", (project,))
        found, took_s = all_closed([client.sock for client in clients])
    last = close_frame(1008, "token_inactive")
    assert Counter(data[-len(last) :] for data in found) == {last: 1000}  # after pings, perhaps
    assert took_s < 1.0
    closes = Counter(str(ws["closed_with"]) for ws in provider.websockets()[before:])
    assert closes == {str([1008, "token_inactive"]): 1000}


def handshaken(gateway: Gateway, token: Token) -> Client:
    """A raw client after the 101."""
    client = Client(gateway.address)
    client.send(request("/v1/responses", f"Authorization: Bearer {token.bearer}", *HANDSHAKE))
    assert b" 101 " in client.until(b"\r\n\r\n")
    return client


def all_closed(clients: list[socket.socket]) -> tuple[list[bytes], float]:
    """What each was told from now on, and when the last was closed."""
    told = dict.fromkeys(clients, b"")
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() - began < 20, f"{len(selector.get_map())} are still open"
            for key, _ in selector.select(1.0):
                client = cast("socket.socket", key.fileobj)
                if data := client.recv(4096):
                    told[client] += data
                else:
                    selector.unregister(client)
    return list(told.values()), time.monotonic() - began


def test_a_revoked_turn_is_cut(workers: Gateway, provider: Provider) -> None:
    """The turn is charged and told as cut."""
    token = workers.token()
    with opened(workers, token) as socket:
        socket.send(create(simulate={"interval": 0.05, "words": 200}))
        socket.recv(timeout=5)
        workers.execute("UPDATE tokens SET is_active = 0 WHERE id = ?", (token.id,))
        assert close_of(socket) == (1008, "token_inactive")
    (line,) = workers.wait_for_access(1, token_id=token.id, kind="turn")
    assert (line["row"], line["error"]) == (29, "revoked")
    assert workers.request_count(token) == 1


def test_a_deactivated_project_and_an_expired_token(workers: Gateway) -> None:
    """Both end the socket with their own code."""
    token = workers.token()
    expiring = workers.token(expires_at=datetime.now(UTC) + timedelta(seconds=2))
    with opened(workers, token) as one, opened(workers, expiring) as other:
        workers.execute("UPDATE projects SET is_active = 0 WHERE id = ?", (token.project_id,))
        assert close_of(one) == (1008, "project_inactive")
        assert close_of(other) == (1008, "token_expired")


def test_an_idle_socket_ends_and_pings_keep_it(workers: Gateway) -> None:
    """Nothing moves for WS_IDLE_TIMEOUT: 1001. Pongs are movement."""
    with opened(workers, workers.token(), ping_interval=None) as socket:
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 3.5, 6)
        assert turn(socket)[-1]["type"] == "response.completed"


def test_a_killed_worker_leaves_the_counts_right(workers: Gateway) -> None:
    """The unit of the turn that ran is charged, once; units of turns to come are not."""
    token = workers.token(max_requests=10)
    with opened(workers, token, close_timeout=0) as socket:
        turn(socket)
        socket.send(create(simulate={"interval": 0.05, "words": 400}))
        socket.recv(timeout=5)
        for pid in workers.workers():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            rest_of_turn(socket)
    column = "SELECT request_count FROM tokens WHERE id = ?"
    eventually(lambda: workers.rows(column, (token.id,)) == [(2,)], 20, lambda: str(workers.rows(column, (token.id,))))
    eventually(lambda: len(workers.workers()) == 2, 10)


def test_a_drain_waits_for_the_turn(tmp_path: Path, provider: Provider) -> None:
    """Idle sockets are closed with 1012 at once; one with a turn when that has ended, or at DRAIN_TIMEOUT."""
    variables = {"API_CONFIG_PATH": provider_file(tmp_path), "DRAIN_TIMEOUT": "3s"}
    with running_gateway(tmp_path, provider.url, **variables) as gateway, ThreadPoolExecutor(3) as threads:
        tokens: list[Token] = [gateway.token() for _ in range(3)]
        with (
            opened(gateway, tokens[0]) as idle,
            opened(gateway, tokens[1]) as short,
            opened(gateway, tokens[2]) as long,
        ):
            short.send(create(simulate={"interval": 0.1, "words": 10}))
            long.send(create(simulate={"interval": 0.1, "words": 400}))
            for socket in (short, long):
                assert json.loads(socket.recv(timeout=5))["type"] == "response.created"
            gateway.process.send_signal(signal.SIGTERM)
            assert close_of(idle) == (1012, "draining")
            ended = threads.submit(close_of, long, 8.0)
            assert rest_of_turn(short)[-1]["type"] == "response.completed"
            assert close_of(short) == (1012, "draining")
            assert ended.result() == (1012, "draining")
        assert gateway.stop() == 0
        (line,) = gateway.access_lines(token_id=tokens[2].id, kind="turn")
        assert line["row"] == 22
