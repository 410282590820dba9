"""The management API over Flask's client, on each database in turn."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from support.databases import Database
from werkzeug.test import TestResponse

from llm_proxy.app import LlmProxyFlask, create_app

TOKEN = "test-management-token"
PROVIDER_KEY = "sk-provider-0123456789abcdefghij"


class Manager:
    """Calls /manage as an operator; remembers every response, so that a test can look for secrets in all of them."""

    def __init__(self, app: LlmProxyFlask, audit_file: Path) -> None:
        self.app, self.audit_file = app, audit_file
        self._client = app.test_client()
        self.responses: list[str] = []

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> TestResponse:
        """One call; `body` is JSON unless it is bytes. `headers` come on top of the right Authorization."""
        headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        response = self._client.open(f"/manage{path}", method=method, data=data, headers=headers, **options)
        self.responses.append(response.get_data(as_text=True))
        return response

    def project(self, name: str = "team", **more: Any) -> dict[str, Any]:
        """A new project."""
        return self._made("/projects", {"name": name, "api_key": PROVIDER_KEY, **more}, 201)

    def token(self, project_id: str, **more: Any) -> dict[str, Any]:
        """A new token."""
        return self._made("/tokens", {"project_id": project_id, "duration_minutes": 60, **more}, 200)

    def audited(self) -> list[dict[str, Any]]:
        """The records of the audit file, oldest first."""
        self.app.services.audit.flush()
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    def pages(self, path: str) -> list[list[dict[str, Any]]]:
        """Return the pages of a list, as its `Link: …; rel="next"` leads through them."""
        found, link = [], f"/manage{path}"
        while link:
            response = self.call("GET", link.removeprefix("/manage"))
            found.append(response.get_json())
            following = response.headers.get("Link", "").partition(">")[0].removeprefix("<")
            link = urljoin(link, following) if following else ""
        return found

    def refuses(self, path: str, body: Any, said: str, action: str) -> dict[str, Any]:
        """POST a body that is wrong: 400 with this text, and a record of the failure, which is returned."""
        response = self.call("POST", path, body)
        assert (response.status_code, response.get_json()) == (400, {"error": said})
        last = self.audited()[-1]
        assert (last["action"], last["result"]) == (action, "failure")
        return last

    def _made(self, path: str, body: Any, status: int) -> dict[str, Any]:
        response = self.call("POST", path, body)
        assert response.status_code == status, response.text
        found: dict[str, Any] = response.get_json()
        return found


@pytest.fixture
def settings_of_app() -> dict[str, Any]:
    """Settings that a test module may override."""
    return {}


@contextmanager
def managing(database: Database, folder: Path, settings_of_app: Mapping[str, Any]) -> Iterator[Manager]:
    """A manager of a migrated database with a key ring and an audit file in that folder."""
    audit_file = folder / "audit.log"
    values = {
        "operation.management_token": TOKEN,
        "operation.audit_log_file": str(audit_file),
        "storage.encryption_key": b"k" * 32,
    }
    app = create_app(database.settings({**values, **settings_of_app}))
    yield Manager(app, audit_file)
    app.services.stop()


@pytest.fixture
def manage(ready_database: Database, tmp_path: Path, settings_of_app: dict[str, Any]) -> Iterator[Manager]:
    """A manager for one test."""
    with managing(ready_database, tmp_path, settings_of_app) as manager:
        yield manager
