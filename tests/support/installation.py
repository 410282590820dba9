"""A healthy installation in a folder, which a test makes ill."""

import base64
import contextlib
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.processes import free_port
from support.provider import Provider, running_provider

from llm_proxy.cli.doctor.command import examine
from llm_proxy.cli.doctor.finding import CheckContext, Finding
from llm_proxy.crypto import KeyRing
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.settings import load

KEY, OTHER_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
PROVIDER_KEY = "sk-a-provider-key-0123456789abcdef"


@pytest.fixture(scope="module")
def demanding_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider that demands the right key."""
    folder = tmp_path_factory.mktemp("provider")
    (folder / "key").write_text(PROVIDER_KEY)
    with running_provider(folder, "--interval", "0", "--key", f"@{folder / 'key'}") as provider:
        yield provider
        provider.set_rules()


@dataclass
class Installation:
    """A healthy installation in a folder, to be made ill."""

    folder: Path
    variables: dict[str, str]
    provider: Provider
    patch: pytest.MonkeyPatch
    undo: contextlib.ExitStack

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return Path(self.variables["DATABASE_PATH"])

    def execute(self, statement: str, *values: object) -> None:
        """Change the database behind the program's back."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, values)

    def findings(self) -> list[Finding]:
        """What the doctor says."""
        for name, value in self.variables.items():
            self.patch.setenv(name, value)
        env_file = self.folder / ".env"
        return list(examine(CheckContext(load(self.variables, env_file if env_file.exists() else None), str(env_file))))


@pytest.fixture
def healthy(tmp_path: Path, demanding_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Migrated, one project with a sealed key that the provider accepts, nothing to complain about."""
    demanding_provider.set_rules()
    monkeypatch.chdir(tmp_path)
    variables = {
        "MANAGEMENT_TOKEN": "a-management-token-of-the-tests",
        "ENCRYPTION_KEY": KEY,
        "DATABASE_PATH": str(tmp_path / "data" / "llm-proxy.db"),
        "AUDIT_LOG_FILE": str(tmp_path / "data" / "audit.log"),
        "OPENAI_API_URL": demanding_provider.url,
        "LISTEN_ADDR": f"127.0.0.1:{free_port()}",
    }
    settings = load(variables).settings
    engine = create_engine(settings.storage)
    migrate.up(engine, 10)
    engine.dispose()
    with contextlib.ExitStack() as undo:
        found = Installation(tmp_path, variables, demanding_provider, monkeypatch, undo)
        found.execute(
            "INSERT INTO projects (id, name, api_key, is_active, created_at, updated_at) VALUES (?, ?, ?, 1, ?, ?)",
            *("p1", "team", KeyRing.from_settings(settings.storage).seal(PROVIDER_KEY, "p1")),
            *["2026-01-01 00:00:00.000000"] * 2,
        )
        yield found


def faults(installation: Installation) -> set[str]:
    """The codes of what the doctor calls a fault."""
    return {finding.code for finding in installation.findings() if finding.level == "fault"}


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def responds_with(
    payload: bytes, name: str = "OPENAI_API_URL", form: str = "http://{}"
) -> Callable[[Installation], None]:
    """Something in another's place that says this to every client."""

    def sow(installation: Installation) -> None:
        listener = installation.undo.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.settimeout(5)
                        client.recv(4096)
                        client.sendall(payload)

        threading.Thread(target=serve, daemon=True).start()
        installation.undo.callback(listener.shutdown, socket.SHUT_RDWR)
        installation.variables[name] = form.format(f"127.0.0.1:{listener.getsockname()[1]}")

    return sow
