"""The server layer with small applications, as a process."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.gunicorn_server import Server

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers: environment variables as keyword arguments, gunicorn's options as positional ones."""
    servers: list[Server] = []
    numbers = itertools.count()

    def start_one(*options: str, ready: bool = True, is_whole: bool = False, **env: str) -> Server:
        folder = tmp_path / f"server{next(numbers)}"
        folder.mkdir()
        server = Server(folder, env, options, is_whole=is_whole)
        servers.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start_one
    for server in servers:
        server.terminate()
    for server in servers:
        server.stop()


@pytest.fixture(scope="package")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """One server a parser, with short limits, for the tests that leave it as it was."""
    limits = dict.fromkeys(("KEEPALIVE_TIMEOUT", "REQUEST_HEADER_TIMEOUT", "REQUEST_BODY_TIMEOUT"), "1s")
    servers = {
        parser: Server(
            tmp_path_factory.mktemp(parser), limits | {"CLIENT_WRITE_TIMEOUT": "2s"}, ("--http-parser", parser)
        )
        for parser in ("python", "fast")
    }
    try:
        for server in servers.values():
            server.wait_ready()
        yield servers
    finally:
        for server in servers.values():
            server.stop()
    for server in servers.values():
        assert server.process.returncode == 0, server.log
        assert "\nTraceback" not in server.log, server.log  # a greenlet whose error was not handled


@pytest.fixture(params=["python", "fast"])
def server(request: pytest.FixtureRequest, parsers: dict[str, Server]) -> Server:
    """The shared server with one of gunicorn's two parsers."""
    return parsers[request.param]
