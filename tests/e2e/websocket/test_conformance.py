"""Public cases of WebSocket conformance: through the proxy a client sees, byte for byte, what it sees directly."""

from collections.abc import Iterator

import pytest
from support.gateway import Gateway, Token, running_gateway
from support.raw import Address, Client, request
from support.sockets import HANDSHAKE, provider_file
from support.websocket_cases import CASES, Echo, closing, running_echo, sent

from llm_proxy.websocket.frames import close_frame

SMALL_BYTES = 2000  # up to here a case is sent byte by byte, too


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    """The server behind the proxy."""
    with running_echo() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, echo: Echo) -> Iterator[Gateway]:
    """The proxy before it."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, f"http://127.0.0.1:{echo.port}", API_CONFIG_PATH=provider_file(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def free(gateway: Gateway) -> Token:
    """A token without limits: nothing depends on what can be read."""
    return gateway.token()


@pytest.fixture(scope="module")
def limited(gateway: Gateway) -> Token:
    """A token with a quota."""
    return gateway.token(max_requests=1000)


def transcript(address: Address, bearer: str, data: bytes, size: int) -> bytes:
    """Everything that a client gets after the handshake, until the end."""
    with Client(address) as client:
        client.send(request("/v1/responses", f"Authorization: Bearer {bearer}", *HANDSHAKE))
        assert b" 101 " in client.until(b"\r\n\r\n")
        try:
            for at in range(0, len(data), size):
                client.sock.sendall(data[at : at + size])
        except OSError:
            pass  # the server has ended it
        client.sock.settimeout(8)
        return client.rest()[0]


@pytest.mark.parametrize("name", CASES)
def test_a_client_sees_what_it_sees_directly(gateway: Gateway, echo: Echo, free: Token, name: str) -> None:
    """The case and a close frame after it, in one piece and, where it is small, byte by byte."""
    data = CASES[name] + closing()
    direct = transcript(("127.0.0.1", echo.port), free.bearer, data, len(data))
    assert direct
    for size in (len(data), 1) if len(data) <= SMALL_BYTES else (len(data), 997):
        assert transcript(gateway.address, free.bearer, data, size) == direct


WHOLE = {name: data for name, data in CASES.items() if name.startswith(("text of", "binary of", "two fragments"))}


@pytest.mark.parametrize("name", WHOLE)
def test_the_provider_gets_the_clients_bytes(gateway: Gateway, echo: Echo, free: Token, name: str) -> None:
    """Masks, lengths and fragments are the client's."""
    data = WHOLE[name] + closing()
    transcript(gateway.address, free.bearer, data, len(data))
    assert b"".join(echo.received[-1]) == data


@pytest.mark.parametrize(
    "data",
    [sent(1, b"{}", reserved=4), sent(3), sent(1, b"{}", mask=b""), sent(0, b"{}"), sent(9, b"p", fin=False)],
    ids=["reserved bit", "opcode", "no mask", "continuation", "fragmented ping"],
)
def test_broken_frames_end_what_must_be_counted(gateway: Gateway, echo: Echo, limited: Token, data: bytes) -> None:
    """With a quota both sides are told 1002, and the provider gets nothing of it."""
    assert transcript(gateway.address, limited.bearer, data, len(data)) == close_frame(1002, "unreadable")
    said = b"".join(echo.received[-1])
    assert said[:2] == bytes((0x88, 0x80 | 12))
