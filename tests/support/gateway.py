"""The real server: gunicorn with our configuration on an inherited socket, and what it left behind."""

import base64
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from llm_proxy.accounting.ledger import folder_of
from llm_proxy.accounting.reconcile import Counted, compare, noted
from llm_proxy.crypto import KeyRing, digest
from llm_proxy.settings import load
from llm_proxy.tokens.bearer import hint, new_bearer

MANAGEMENT_TOKEN = "the-management-token-of-the-tests"
PROVIDER_KEY = "sk-provider-key-0123456789abcdefghij"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 40.0
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


@dataclass(frozen=True)
class Token:
    """A token that was put into the database."""

    id: str
    project_id: str
    bearer: str


@dataclass
class Gateway:
    """A running proxy."""

    url: str
    port: int
    folder: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] = field(repr=False)
    exit_code: int | None = None

    @property
    def address(self) -> tuple[str, int]:
        """For raw sockets."""
        return "127.0.0.1", self.port

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "data" / "llm-proxy.db"

    def output(self) -> str:
        """Everything that the server wrote to standard output and error."""
        return (self.folder / "server.log").read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """The log lines so far."""
        written = self.output().rpartition("\n")[0]  # a line may be seen while it is written
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    def access_lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The access lines so far whose fields are as wanted."""
        found = [line for line in self.lines() if line.get("component") == "access"]
        return [line for line in found if all(line.get(name) == value for name, value in wanted.items())]

    def wait_for_access(self, number: int = 1, within_s: float = 10.0, **wanted: Any) -> list[dict[str, Any]]:
        """The access lines that are as wanted, once there are `number` of them."""

        def near() -> str:
            return f"{wanted} in {self.access_lines()[-3:]}"

        eventually(lambda: len(self.access_lines(**wanted)) >= number, within_s, near)
        return self.access_lines(**wanted)

    # -- its database -------------------------------------------------------------------------------------------------

    def project(self, name: str | None = None, *, api_key: str = PROVIDER_KEY, is_active: bool = True) -> str:
        """Put a project in; returns its id."""
        project_id, now = str(uuid.uuid4()), _now()
        sealed = KeyRing.from_settings(load(self.env, env_file=os.devnull).settings.storage).seal(api_key, project_id)
        self.execute(
            "INSERT INTO projects (id, name, api_key, is_active, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
            (project_id, name or f"project-{project_id}", sealed, is_active, now, now),
        )
        return project_id

    def token(
        self,
        project_id: str | None = None,
        *,
        max_requests: int | None = None,
        expires_at: datetime | None = None,
        is_active: bool = True,
    ) -> Token:
        """Put a token in, of a project of its own unless one is named."""
        token = Token(str(uuid.uuid4()), project_id or self.project(), new_bearer())
        self.execute(
            "INSERT INTO tokens (id, token, token_hint, project_id, expires_at, is_active, max_requests, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                token.id,
                digest(token.bearer),
                hint(token.bearer),
                token.project_id,
                _column(expires_at) if expires_at else None,
                is_active,
                max_requests,
                _now(),
            ),
        )
        return token

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        """One write."""
        with closing(sqlite3.connect(self.database, timeout=20)) as connection, connection:
            connection.execute(statement, values)

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """One read."""
        with closing(sqlite3.connect(self.database, timeout=20)) as connection:
            return connection.execute(statement, values).fetchall()

    def request_count(self, token: Token) -> int:
        """What the token was charged: the count in the row, and what the workers' ledgers hold beyond it."""
        columns = "id, request_count, max_requests, leases"
        database_id = self.rows("SELECT id FROM instance")[0][0]
        ledgers = noted(folder_of(self.folder / "data" / "ledger", database_id))
        rows = [Counted(*row) for row in self.rows(f"SELECT {columns} FROM tokens WHERE id = ?", (token.id,))]
        return compare(rows, ledgers)[0].charged

    # -- asking it ----------------------------------------------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of a GET."""
        return self.ask("GET", path, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body; errors are responses."""
        fields = dict(headers or {})
        if token is not None:
            fields["Authorization"] = f"Bearer {token.bearer}"
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=fields)
        try:
            with opener(self.env.get("TLS_CERT_FILE")).open(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def metric(self, name: str) -> float:
        """A sample of the scrape, by name and labels as Prometheus writes them; 0 when it is not there."""
        text = self.get("/metrics/prometheus")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def metrics(self, prefix: str) -> dict[str, float]:
        """All samples whose name begins so."""
        text = self.get("/metrics/prometheus")[2].decode()
        pairs = re.findall(rf"^({re.escape(prefix)}\S*) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in pairs}

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self, *, signals: int = 1, within_s: float = STOP_LIMIT_S) -> int:
        """SIGTERM to the master; its exit code. Killed past the limit, and then it is never 0."""
        if self.exit_code is None:
            for _ in range(signals):
                self.process.send_signal(signal.SIGTERM)
            try:
                self.exit_code = self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                for pid in self.workers():
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait()
                self.exit_code = -9
        return self.exit_code


@cache
def opener(authority: str | None = None) -> urllib.request.OpenerDirector:
    """What asks without a proxy, and trusts the certificate in that file."""
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)


def _now() -> str:
    return _column(datetime.now(UTC))


def _column(instant: datetime) -> str:
    """As the column type writes it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def eventually(
    is_there: Callable[[], Any], within_s: float = 10.0, what: Callable[[], str] = lambda: "a condition"
) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + within_s
    while not is_there():
        assert time.monotonic() < deadline, f"never came: {what()}"
        time.sleep(0.02)


def environment(folder: Path, upstream: str, **variables: str) -> dict[str, str]:
    """What an operator would set, for a server in `folder` before the provider at `upstream`."""
    env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return env | {
        "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
        "ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "OPENAI_API_URL": upstream,
        "DATABASE_PATH": str(folder / "data" / "llm-proxy.db"),
        "AUDIT_LOG_FILE": str(folder / "data" / "audit.log"),
        "LOG_LEVEL": "info",
        **variables,
    }


@contextmanager
def running_gateway(
    folder: Path, upstream: str, *, app: str = "llm_proxy.wsgi:app", **variables: str
) -> Iterator[Gateway]:
    """Serve from `folder` until the block ends; a clean exit is part of the contract. Modules there can be imported."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    env = environment(folder, upstream, **variables)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, (folder / "server.log").open("ab") as out:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf"]
        command += ["-b", f"fd://{listener.fileno()}", app]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=env, stdout=out, stderr=out, cwd=folder)
        port = listener.getsockname()[1]
    scheme = "https" if variables.get("ENABLE_TLS") == "true" else "http"
    gateway = Gateway(f"{scheme}://127.0.0.1:{port}", port, folder, env, process)
    try:
        _wait_until_ready(gateway)
        yield gateway
    finally:
        code = gateway.stop()
    assert code == 0, gateway.output()


def _wait_until_ready(gateway: Gateway) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        assert gateway.process.poll() is None, gateway.output()
        assert time.monotonic() < deadline, gateway.output()
        try:
            if gateway.get("/ready")[0] == 200:
                return
        except OSError:
            pass  # no worker listens yet
        time.sleep(0.05)
