"""Two servers of four workers on one PostgreSQL: the first cuts streams of revoked tokens, the second lets them run."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.databases import Database, Server, empty_database
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, running_gateway
from support.provider import Provider, running_provider
from support.raw import Client, Response, request

WORKERS = 4


@dataclass
class Pair:
    """The servers, what they share, and connections to every worker."""

    gateways: tuple[Gateway, Gateway]
    provider: Provider
    database: Database
    _by_worker: dict[int, Client] = field(default_factory=dict)
    _opened: int = 0

    def manage(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call of the first server's management API."""
        fields = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        status, _, response = self.gateways[0].ask(method, f"/manage{path}", data, headers=fields)
        assert status in (200, 201, 204), response
        return json.loads(response) if response else None

    def token(self, **more: Any) -> dict[str, Any]:
        """A new token in a new project."""
        project = self.manage("POST", "/projects", {"name": uuid.uuid4().hex, "api_key": PROVIDER_KEY})
        about = {"project_id": project["id"], "duration_minutes": 60, **more}
        made: dict[str, Any] = self.manage("POST", "/tokens", about)
        return made

    def everywhere(self) -> list[Client]:
        """A kept connection to each worker of both servers."""
        token = "" if self.clients else self.token()["token"]
        while len(self.clients) < WORKERS * len(self.gateways):
            self._opened += 30
            assert self._opened < 900, f"only the workers {list(self._by_worker)} take connections"
            addresses = [gateway.address for gateway in self.gateways for _ in range(15)]
            with ThreadPoolExecutor(30) as pool:  # at once: an idle worker would take all that come one by one
                opened = list(pool.map(Client, addresses))
                responses = list(pool.map(lambda client: get(client, token), opened))
            for gateway, half in zip(self.gateways, (slice(None, 15), slice(15, None)), strict=True):
                for client, response in zip(opened[half], responses[half], strict=True):
                    worker = gateway.wait_for_access(request_id=response.value("X-Request-ID"))[0]["worker"]
                    if self._by_worker.setdefault(worker, client) is not client:
                        client.sock.close()
        return self.clients

    @property
    def clients(self) -> list[Client]:
        """Those that were opened so far."""
        return list(self._by_worker.values())

    def execute(self, statement: str) -> None:
        """One write, past all servers."""
        with self.database.engine().begin() as connection:
            connection.exec_driver_sql(statement)


def get(client: Client, bearer: str) -> Response:
    """A small question on a kept connection."""
    return client.send(request("/v1/models", f"Authorization: Bearer {bearer}")).response()


@pytest.fixture(scope="module")
def pair(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Started once; responses are not cached, so that each admitted question reaches the provider."""
    folder = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        database = stack.enter_context(empty_database("postgres", postgres_server, folder))
        (folder / "provider").mkdir()
        provider = stack.enter_context(running_provider(folder / "provider", "--interval", "0"))
        made = [
            stack.enter_context(
                running_gateway(folder / name, provider.url, **_variables(database, folder / name, cuts))
            )
            for name, cuts in (("a", "true"), ("b", "false"))
        ]
        found = Pair((made[0], made[1]), provider, database)
        yield found
        for client in found.clients:
            client.sock.close()


def _variables(database: Database, folder: Path, cuts: str) -> dict[str, str]:
    return {
        **database.environ(),
        "ENCRYPTION_KEY": "0" * 43 + "=",
        "WEB_CONCURRENCY": str(WORKERS),
        "HTTP_CACHE_ENABLED": "false",
        "REVOKE_CUTS_STREAMS": cuts,
        "LEDGER_DIR": str(folder / "ledger"),
        "FILE_EVENT_LOG": str(folder / "events.jsonl"),
    }
