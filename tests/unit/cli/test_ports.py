"""Addresses that are free or taken."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.ports import require_free
from llm_proxy.runtime import shared_dir
from llm_proxy.server.configuration import binds
from llm_proxy.settings.variable import address


def test_free_and_taken_addresses() -> None:
    """A taken one is one clear line, on v4, and on all addresses at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for written in (f"127.0.0.1:{port}", f":{port}"):
            with pytest.raises(CommandError, match=f"cannot listen on {written}: address already in use"):
                require_free(address(written))
    require_free(address(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("host", ["127.0.0.1", ""], ids=["one address", "all addresses"])
def test_an_address_of_a_killed_server_is_waited_for_by_the_server(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers leave within seconds; a start meanwhile is not refused."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as master, socket.create_server((host, 0)) as orphan:
        written = address(f"{host}:{orphan.getsockname()[1]}")
        folder = shared_dir.make()
        note = {"pid": master.pid, "addresses": binds(written)}
        master_ended = os.waitid(os.P_PID, master.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for it yet
        assert master_ended is not None
        (Path(folder) / ".server").write_text(json.dumps(note))
        require_free(written)
        shared_dir.remove(folder)
        with pytest.raises(CommandError, match="already in use"):
            require_free(written)


def test_unix_socket_addresses(tmp_path: Path) -> None:
    """A socket that accepts connections is taken, one that a dead server left is not."""
    place = address(f"unix:{tmp_path / 'a'}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place.path or "")
        server.listen()
        with pytest.raises(CommandError, match="already in use"):
            require_free(place)
    require_free(place)
