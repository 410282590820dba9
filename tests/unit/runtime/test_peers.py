"""Questions between workers of one server, as far as one process can tell."""

import os
import socket
from pathlib import Path
from typing import Any

from llm_proxy.runtime.peers import Peers


def test_the_socket_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    """Its connection is refused: the others' values are returned, and the next question does not meet it."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "w-1.sock"))
    peers = Peers(tmp_path, {"what": lambda argument: iter([argument, 2])})
    assert peers.ask("what", 1) == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_worker_listens_for_its_own_user_alone(tmp_path: Path) -> None:
    """Mode 0600, also where the path is longer than an address of a socket may be; it goes at the end."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    peers = Peers(folder, dict[str, Any]())
    peers.start()
    path = folder / f"w-{os.getpid()}.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    peers.close()
    assert not path.exists()
