"""Two servers on one database, one of them with a wrong clock that is set again while it runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.databases import Database
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, eventually, running_gateway
from support.provider import Provider

OFFSETS = {"+2h": timedelta(hours=2), "-2h": timedelta(hours=-2), "+120d": timedelta(days=120)}
NEAR = timedelta(seconds=20)


def _faketime() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "the Debian package faketime is missing"
    return str(found[0])


class Wrong:
    """A clock of a server's processes; the database's own is right."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+2h")
        self.variables = {
            "LD_PRELOAD": _faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        """Change it, by a whole file at once."""
        new = self._file.with_suffix(".new")
        new.write_text(offset)
        new.rename(self._file)


class Servers:
    """The right server, the one whose clock is wrong, and their database."""

    def __init__(self, right: Gateway, wrong: Gateway, clock: Wrong, database: Database) -> None:
        self.right, self.wrong, self.clock, self._database = right, wrong, clock, database
        self._project = self._manage(right, "POST", "/projects", {"name": "p", "api_key": PROVIDER_KEY})["id"]

    @staticmethod
    def _manage(gateway: Gateway, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        status, _, response = gateway.ask(method, f"/manage{path}", data, headers=headers)
        assert status in (200, 201), response
        return json.loads(response)

    def token(self, gateway: Gateway) -> Any:
        """A token of an hour."""
        return self._manage(gateway, "POST", "/tokens", {"project_id": self._project, "duration_minutes": 60})

    def works(self, token: Any) -> bool:
        """Whether both servers serve it."""
        headers = {"Authorization": f"Bearer {token['token']}"}
        return all(gateway.get("/v1/models", headers)[0] == 200 for gateway in (self.right, self.wrong))

    def is_ahead(self, offset: timedelta) -> bool:
        """Whether the wrong server says that it is so much ahead."""
        date = parsedate_to_datetime(self.wrong.get("/live")[1]["Date"])
        return abs(date - datetime.now(UTC) - offset) < NEAR

    def expire(self, token: Any) -> None:
        """Let it end now."""
        self.execute("UPDATE tokens SET expires_at = clock_timestamp() WHERE id = :id", id=token["id"])

    def is_revoked(self, token: Any) -> bool:
        """Whether housekeeping has found it."""
        return self.read("SELECT deactivated_at FROM tokens WHERE id = :id", id=token["id"]) is not None

    def execute(self, statement: str, **values: Any) -> None:
        """Run a statement."""
        with self._database.engine().begin() as connection:
            connection.execute(text(statement), values)

    def read(self, statement: str, **values: Any) -> Any:
        """Run a query; its first value."""
        with self._database.engine().connect() as connection:
            return connection.execute(text(statement), values).scalar()

    def run(self, *arguments: str) -> None:
        """Run a command where the clock is wrong."""
        command = [sys.executable, "-m", "llm_proxy.cli", *arguments]
        subprocess.run(command, env=self.wrong.env, cwd=self.wrong.folder, check=True, capture_output=True, timeout=60)


@pytest.fixture
def servers(ready_database: Database, provider: Provider, tmp_path: Path) -> Iterator[Servers]:
    """The one with the wrong clock is first, so that it leads housekeeping."""
    clock = Wrong(tmp_path)
    values = ready_database.values
    common = {"DB_DRIVER": "postgres", "DATABASE_URL": values["storage.url"], "TOKEN_CLEANUP_INTERVAL": "2s"}
    common |= {"WEB_CONCURRENCY": "1", "ENCRYPTION_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="}
    with running_gateway(tmp_path / "wrong", provider.url, **common, **clock.variables) as wrong:
        with ready_database.engine().connect() as connection:
            eventually(lambda: connection.execute(text("SELECT count(*) FROM locks")).scalar(), 20)
        with running_gateway(tmp_path / "right", provider.url, **common) as right:
            yield Servers(right, wrong, clock, ready_database)


@pytest.mark.parametrize("ready_database", ["postgres"], indirect=True)
def test_a_wrong_clock_of_one_server_ends_nothing_that_lives(servers: Servers) -> None:
    """It leads housekeeping, ahead, behind and months ahead: only what has expired by the database's clock ends."""
    living = [servers.token(servers.right)]
    for offset, ahead in OFFSETS.items():
        servers.clock.set(offset)
        eventually(partial(servers.is_ahead, ahead))
        born, dying = servers.token(servers.wrong), servers.token(servers.right)
        assert abs(datetime.fromisoformat(born["expires_at"]) - datetime.now(UTC) - timedelta(hours=1)) < NEAR
        living.append(born)
        servers.expire(dying)
        eventually(partial(servers.is_revoked, dying), 20)
        revoked_at = servers.read("SELECT deactivated_at FROM tokens WHERE id = :id", id=dying["id"])
        assert abs(revoked_at - datetime.now(UTC)) < NEAR
        assert [servers.works(token) for token in living] == [True] * len(living)
    servers.clock.set("+120d")
    servers.run("audit", "prune", "--older-than", "30d", "--yes")
    servers.run("manage", "token", "prune", "--older-than", "1d", "--yes")
    assert servers.read("SELECT count(*) FROM tokens") == 1 + 2 * len(OFFSETS)
    assert servers.read("SELECT count(*) FROM audit_events WHERE action = 'token.create'") == 1 + 2 * len(OFFSETS)
    assert servers.read("SELECT expires_at < clock_timestamp() + interval '35 s' FROM locks") is True
