"""A real redis-server on a free loopback port, in a temporary folder, that a test can stop, kill and start again."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.backoff import NoBackoff
from redis.client import Redis
from redis.exceptions import RedisError
from redis.retry import Retry
from support.processes import StoppableServer, free_port


class RedisServer(StoppableServer):
    """One redis-server. `start` after `stop` or `kill` uses the same port and folder."""

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        self.folder = folder
        self.password = password
        self.port = free_port()

    @property
    def addr(self) -> str:
        """`host:port`, as REDIS_ADDR takes it."""
        return f"127.0.0.1:{self.port}"

    def client(self, timeout_s: float = 5.0, *, decode: bool = False) -> Redis:
        """A client of the test's own, which does not retry."""
        return Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=decode,
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        options += ["--appendonly", "no"]
        options += ["--requirepass", self.password] if self.password else []
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([program, *options], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 20
        while not self._is_serving():
            assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()
            time.sleep(0.02)

    def _is_serving(self) -> bool:
        try:
            with self.client(1.0) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


@contextlib.contextmanager
def running_redis(folder: Path, *, password: str | None = None) -> Iterator[RedisServer]:
    """A started server for the length of a `with`."""
    server = RedisServer(folder, password=password)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, without persistence."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that only need one: they use keys or their own databases and never stop it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
