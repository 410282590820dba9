"""What ends a WebSocket from this side: its token, its project, its time, the drain, a kill."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.sockets import create, opened, provider_file, rest_of_turn, turn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """Two workers, with short times."""
    folder = tmp_path_factory.mktemp("workers")
    variables = {"API_CONFIG_PATH": provider_file(folder), "WEB_CONCURRENCY": "2", "WS_IDLE_TIMEOUT": "3s"}
    variables |= {"WS_PING_INTERVAL": "1s"}
    with running_gateway(folder, provider.url, **variables) as running:
        yield running


def close_of(socket: ClientConnection, within_s: float = 5.0) -> tuple[int, str]:
    """Code and reason of the close frame, whatever comes before it."""
    with pytest.raises(ConnectionClosed) as ended:
        _drain(socket, within_s)
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code, ended.value.rcvd.reason


def _drain(socket: ClientConnection, within_s: float) -> None:
    """Read what comes until the end."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        socket.recv(timeout=within_s)


def test_revoked_sockets_end_within_a_second(workers: Gateway, provider: Provider) -> None:
    """100 sockets of 10 tokens, on both workers: all closed with 1008 within a second, on the provider's side too."""
    tokens = [workers.token() for _ in range(10)]
    before = len(provider.websockets())
    with ExitStack() as stack, ThreadPoolExecutor(100) as threads:
        sockets = [stack.enter_context(opened(workers, token)) for token in tokens for _ in range(10)]
        ends = [threads.submit(lambda s=s: (close_of(s), time.monotonic())) for s in sockets]  # type: ignore[misc]
        revoked = time.monotonic()
        for token in tokens:
            workers.execute("UPDATE tokens SET is_active = 0 WHERE id = ?", (token.id,))
        found = [end.result() for end in ends]
    assert {close for close, _ in found} == {(1008, "token_inactive")}
    assert max(at for _, at in found) - revoked < 1.5  # a second, and what this machine needs for 100 threads
    closes = [ws["closed_with"] for ws in provider.websockets()[before:]]
    assert closes == [[1008, "token_inactive"]] * 100


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
