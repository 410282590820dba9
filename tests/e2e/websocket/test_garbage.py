"""A WebSocket that has ended is freed at once: nothing of it waits for the garbage collector."""

import time
from collections.abc import Callable, Iterator

import pytest
from support.garbage import garbage, ours, watch
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.sockets import create, opened, provider_file, rest_of_turn, turn
from websockets.exceptions import ConnectionClosed

REPEATS = 3


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """A proxy that tells what its garbage collector finds."""
    folder = tmp_path_factory.mktemp("gateway")
    variables = {"API_CONFIG_PATH": provider_file(folder), "FILE_EVENT_LOG": "events.jsonl"}
    with running_gateway(folder, provider.url, **variables, **watch(folder)) as running:
        yield running


def closed_by_the_client(gateway: Gateway, token: Token) -> None:
    """Two turns and a close."""
    with opened(gateway, token) as socket:
        turn(socket)
        turn(socket)


def ended_by_the_provider(plan: dict[str, object]) -> Callable[[Gateway, Token], None]:
    """A turn in which the provider ends the connection."""

    def run(gateway: Gateway, token: Token) -> None:
        with opened(gateway, token) as socket:
            socket.send(create(simulate=plan))
            with pytest.raises(ConnectionClosed):
                rest_of_turn(socket)

    return run


def left_in_a_turn(gateway: Gateway, token: Token) -> None:
    """The client's connection breaks."""
    with opened(gateway, token, close_timeout=0) as socket:
        socket.send(create(simulate={"interval": 0.05, "words": 400}))
        socket.recv(timeout=10)
        socket.socket.shutdown(2)


CASES: dict[str, Callable[[Gateway, Token], None]] = {
    "closed": closed_by_the_client,
    "provider breaks off": ended_by_the_provider({"cut": 2}),
    "provider closes": ended_by_the_provider({"close": 4001}),
    "client leaves": left_in_a_turn,
}


@pytest.mark.parametrize("name", CASES)
def test_a_websocket_leaves_no_garbage(watched: Gateway, provider: Provider, name: str) -> None:
    """However it ends, reference counts free what it held: both connections, their buffers and its turns."""
    token = watched.token()
    CASES[name](watched, token)  # what is built once
    with garbage(watched) as found:
        for _ in range(REPEATS):
            CASES[name](watched, token)
        provider.wait_for_state(within_s=5.0, running=0)
        eventually(lambda: sum(watched.metrics("llm_proxy_ws_open").values()) == 0)
        time.sleep(0.3)  # usage is read every 100 ms
    assert ours(found) == {}
