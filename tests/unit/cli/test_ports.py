"""Addresses that are free or taken."""

import socket
from pathlib import Path

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.ports import require_free
from llm_proxy.settings.variable import address


def test_free_and_taken_addresses() -> None:
    """A taken one is one clear line, on v4, and on all addresses at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for written in (f"127.0.0.1:{port}", f":{port}"):
            with pytest.raises(CommandError, match=f"cannot listen on {written}: address already in use"):
                require_free(address(written))
    require_free(address(f"127.0.0.1:{port}"))


def test_unix_socket_addresses(tmp_path: Path) -> None:
    """A socket that accepts connections is taken, one that a dead server left is not."""
    place = address(f"unix:{tmp_path / 'a'}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place.path or "")
        server.listen()
        with pytest.raises(CommandError, match="already in use"):
            require_free(place)
    require_free(place)
