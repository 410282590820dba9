"""WebSockets as a client of the `websockets` library sees them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.gateway import Gateway, Token
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

PROVIDER_FILE = """
default_api: openai
apis:
  openai:
    base_url: https://provider.invalid
    allowed_endpoints: [/v1/responses, /v1/chat/completions, /v1/models]
    allowed_methods: [GET, POST]
    websockets:
      paths: [/v1/responses, /v1/realtime]
      dialect: openai
"""


def provider_file(folder: Path, more: str = "") -> str:
    """Write a provider file that opens WebSockets; returns its path."""
    path = folder / "providers.yaml"
    path.write_text(PROVIDER_FILE + more)
    return str(path)


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
RESPONSES, REALTIME = "/v1/responses", "/v1/realtime?model=gpt-realtime"


def opened(gateway: Gateway, token: Token, path: str = RESPONSES, **options: Any) -> ClientConnection:
    """Return an open WebSocket. Raises InvalidStatus for a handshake that is refused."""
    fields = {"Authorization": f"Bearer {token.bearer}"}
    options = {"max_size": None, "compression": None, "open_timeout": 20} | options
    return connect(f"ws{gateway.url.removeprefix('http')}{path}", additional_headers=fields, **options)


def create(**members: Any) -> str:
    """Return a message that begins a turn."""
    return json.dumps({"type": "response.create", "model": "gpt-4o", "input": "hello", **members})


def turn(socket: ClientConnection, **members: Any) -> list[dict[str, Any]]:
    """Begin a turn and return its messages, the last of them its end or an error."""
    socket.send(create(**members))
    return rest_of_turn(socket)


def rest_of_turn(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return the messages up to the end of a turn, or an error."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] not in ("response.completed", "response.done", "error"):
        found.append(json.loads(socket.recv(timeout=20)))
    return found


def close_of(socket: ClientConnection, within_s: float = 5.0) -> tuple[int, str]:
    """Return code and reason of the close frame, whatever comes before it."""
    with pytest.raises(ConnectionClosed) as ended:
        _read_to_the_end(socket, within_s)
    assert ended.value.rcvd is not None, "it ended without a close frame"
    return ended.value.rcvd.code, ended.value.rcvd.reason


def _read_to_the_end(socket: ClientConnection, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        socket.recv(timeout=within_s)
