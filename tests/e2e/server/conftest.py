"""The server layer with small applications, as a process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.raw import Answer, Client, wait_for

HERE = Path(__file__).parent
START_LIMIT_S = 30.0


class Server:
    """gunicorn with our configuration and the application of apps.py. `edge` is what its edge has heard."""

    def __init__(self, folder: Path, env: dict[str, str], options: tuple[str, ...], *, bind: bool = True) -> None:
        self.folder = folder
        self.log_path, self.edge_path, self.env_path = folder / "log", folder / "edge", folder / ".env"
        self.edge_path.touch()
        self.env_path.touch()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address: Any = self.listener.getsockname()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MANAGEMENT_TOKEN": "a-token-for-the-tests",
            "DATABASE_PATH": str(folder / "data.db"),
            "AUDIT_LOG_FILE": "",
            "EDGE_LOG": str(self.edge_path),
            "LOG_FORMAT": "text",
            **env,
        }
        descriptor = os.dup(self.listener.fileno())  # gunicorn closes the one it is given, and takes a copy
        where = ["-b", f"fd://{descriptor}"] if bind else []
        command = [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf", "--pythonpath", str(HERE)]
        with self.log_path.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *where, *options, "apps:app"],
                cwd=folder,
                env=self.env,
                stdout=out,
                stderr=out,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        os.close(descriptor)
        self.listener.close()

    @property
    def log(self) -> str:
        """What it has written."""
        return self.log_path.read_text(errors="replace")

    @property
    def edge(self) -> list[str]:
        """What the edges have heard, without the pids."""
        return [line.partition(" ")[2] for line in self.edge_path.read_text().splitlines()]

    def wait_ready(self) -> None:
        """Until every worker has told its edge that it starts, and one answers."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            try:
                return self.get("/").status == 200
            except (OSError, EOFError):
                return False

        wait_for(is_ready, START_LIMIT_S, "the server does not start")

    def client(self, **options: Any) -> Client:
        """A connection to it."""
        return Client(self.address, **options)

    def get(self, target: str = "/", *fields: str) -> Answer:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.get(target, "Connection: close", *fields)

    def pids(self) -> set[int]:
        """The workers that answer now: asked a few times."""
        return {int(self.get("/ready").body.split()[0]) for _ in range(24)}

    def signal(self, number: int) -> None:
        """Signal the master alone."""
        os.kill(self.process.pid, number)

    def ended(self, limit_s: float = 15.0) -> int:
        """The exit code, waited for."""
        return self.process.wait(limit_s)

    def stop(self) -> None:
        """SIGTERM; killed with its workers past the limit, and then the test fails."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                pytest.fail("the server had to be killed\n" + self.log)


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers: environment variables as keyword arguments, gunicorn's options as positional ones."""
    servers: list[Server] = []

    def start_one(*options: str, ready: bool = True, **env: str) -> Server:
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        server = Server(folder, env, options)
        servers.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start_one
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
        assert "\nTraceback" not in server.log, server.log  # a greenlet that nobody looked after


@pytest.fixture(params=["python", "fast"])
def server(request: pytest.FixtureRequest, parsers: dict[str, Server]) -> Server:
    """The shared server with one of gunicorn's two parsers."""
    return parsers[request.param]
