"""gunicorn with our configuration and the small applications of tests/e2e/server/apps.py."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.raw import Client, Response, request, wait_for

HERE = Path(__file__).parents[1] / "e2e" / "server"
START_LIMIT_S = 90.0  # several workers on a machine that is busy with other tests
WHOLE = b"".join(b"data: %d\n\n" % i for i in range(20))


class Server:
    """A master and its workers; `hook_calls` is what their applications were told.

    It gets its socket from here, unless LISTEN_ADDR is set: then the test that knows it sets `address`.
    `is_whole`: with the checks and the migration of the real start.
    """

    def __init__(self, folder: Path, env: dict[str, str], options: tuple[str, ...], *, is_whole: bool = False) -> None:
        self.folder = folder
        self.log_path, self.hooks_path, self.env_path = folder / "log", folder / "hooks", folder / ".env"
        self._is_terminated = False
        self.hooks_path.touch()
        self.env_path.touch()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address: Any = self.listener.getsockname()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MANAGEMENT_TOKEN": "a-token-for-the-tests",
            "DATABASE_PATH": str(folder / "data.db"),
            "AUDIT_LOG_FILE": "",
            "HOOKS_LOG": str(self.hooks_path),
            "LOG_FORMAT": "text",
            **env,
        }
        descriptor = os.dup(self.listener.fileno())  # gunicorn closes the one it is given, and takes a copy
        where = [] if "LISTEN_ADDR" in env else ["-b", f"fd://{descriptor}"]
        conf = "python:llm_proxy.gunicorn_conf" if is_whole else str(HERE / "bare_conf.py")
        command = [sys.executable, "-m", "gunicorn", "-c", conf, "--pythonpath", str(HERE)]
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
    def hook_calls(self) -> list[str]:
        """The calls of hooks so far, without the pids."""
        return [line.partition(" ")[2] for line in self.hooks_path.read_text().splitlines()]

    def wait_ready(self) -> None:
        """Wait until every worker has told its application that it starts, and one responds."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            try:
                return bool(self.get("/").status == 200)
            except (OSError, EOFError):
                return False

        wait_for(is_ready, START_LIMIT_S, "the server does not start")

    def client(self, **options: Any) -> Client:
        """A connection to it."""
        return Client(self.address, **options)

    def get(self, target: str = "/", *fields: str) -> Response:
        """One request on its own connection."""
        with self.client() as client:
            return client.get(target, "Connection: close", *fields)

    def pids(self) -> set[int]:
        """The workers that response now: asked a few times."""
        return {int(self.get("/ready").body.split()[0]) for _ in range(24)}

    def signal(self, number: int) -> None:
        """Signal the master alone."""
        os.kill(self.process.pid, number)

    def ended(self, limit_s: float = 15.0) -> int:
        """The exit code, waited for."""
        return self.process.wait(limit_s)

    def terminate(self) -> None:
        """SIGTERM, once: a second one would cut."""
        if not self._is_terminated:
            self._is_terminated = True
            self.process.terminate()

    def stop(self) -> None:
        """SIGTERM, unless it was sent by `terminate`; killed with its workers past the limit: the test fails."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                pytest.fail("the server had to be killed\n" + self.log)


def begin_streams(server: Server, number: int, target: str = "/stream/20/0.06") -> list[Client]:
    """Connections whose response has begun."""
    clients = [server.client() for _ in range(number)]
    for client in clients:
        client.send(request(target))
    for client in clients:
        client.until(b"data: 0\n\n\r\n")
        client.held = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n" + client.held
    return clients


def finish(clients: Sequence[Client]) -> list[Response]:
    """Read all responses at the same time."""
    with ThreadPoolExecutor(len(clients)) as pool:
        responses = list(pool.map(lambda client: client.response(), clients))
    for client in clients:
        client.sock.close()
    return responses


def assert_whole(responses: Sequence[Response]) -> None:
    """Every stream has all its events and its last chunk."""
    assert [(response.end, response.body) for response in responses] == [("whole", WHOLE)] * len(responses)


def refuses(server: Server) -> bool:
    """Whether a new connection is refused by now."""
    try:
        Client(server.address).sock.close()
    except ConnectionRefusedError:
        return True
    return False


def in_parallel(test: Callable[[Any], object], cases: Iterable[Any]) -> None:
    """Run a test that mostly waits for several cases at the same time; a failure names its case."""
    cases = list(cases)
    with ThreadPoolExecutor(len(cases)) as pool:
        futures = [pool.submit(test, case) for case in cases]
    for case, future in zip(cases, futures, strict=True):
        if (error := future.exception()) is not None:
            raise AssertionError(f"case {case!r}") from error
