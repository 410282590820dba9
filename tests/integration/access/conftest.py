"""The admin UI's sign-in over Flask's client, on each database, with an OpenID provider on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.databases import Database
from support.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, running_issuer
from werkzeug.test import Client, TestResponse

from llm_proxy.app import LlmProxyFlask, create_app

TOKEN = "test-management-token"
ROLE_MAP = "llm-admins:admin,ml:operator@project-a,ml2:operator@project-b,readers:viewer"


@pytest.fixture(scope="session")
def _issuer() -> Iterator[Issuer]:
    with running_issuer() as found:
        yield found


@pytest.fixture
def issuer(_issuer: Issuer) -> Issuer:
    """An honest provider, with an admin at its keyboard."""
    _issuer.header, _issuer.metadata, _issuer.seen = {}, {}, []
    _issuer.is_down, _issuer.forgets_codes = False, True
    _issuer.person("anna@example.com", "llm-admins")
    return _issuer


class People:
    """Browsers of people, and what the audit file says of them."""

    def __init__(self, app: LlmProxyFlask, issuer: Issuer, audit_file: Path) -> None:
        self.app, self.issuer, self.audit_file = app, issuer, audit_file
        self.browser = app.test_client()

    def begin(self, browser: Client | None = None, target: str | None = None) -> dict[str, str]:
        """Go to the provider and consent there: the query that comes back."""
        query = {} if target is None else {"next": target}
        response = (browser or self.browser).get("/admin/auth/oidc/login", query_string=query)
        assert response.status_code == 303, response.text
        return self.issuer.authorize(response.headers["Location"])

    def come_back(self, callback: dict[str, str], browser: Client | None = None) -> TestResponse:
        """Return from the provider."""
        return (browser or self.browser).get("/admin/auth/oidc/callback", query_string=callback)

    def sign_in(self, browser: Client | None = None) -> TestResponse:
        """Both."""
        return self.come_back(self.begin(browser), browser)

    def held(self, browser: Client | None = None) -> str | None:
        """What the browser holds of a session."""
        cookie = (browser or self.browser).get_cookie("llmproxy_session", path="/admin")
        return None if cookie is None else cookie.value

    def audited(self, action: str) -> list[dict[str, Any]]:
        """Audit records of an action, oldest first."""
        self.app.services.audit.flush()
        lines = [json.loads(line) for line in self.audit_file.read_text().splitlines()]
        return [line for line in lines if line["action"] == action]


@pytest.fixture
def more_settings() -> dict[str, Any]:
    """Settings that a test module may override."""
    return {}


@pytest.fixture
def people(ready_database: Database, tmp_path: Path, issuer: Issuer, more_settings: dict[str, Any]) -> Iterator[People]:
    """A gateway with sign-in by OpenID."""
    values = {
        "operation.management_token": TOKEN,
        "operation.audit_log_file": str(tmp_path / "audit.log"),
        "storage.encryption_key": b"k" * 32,
        "sign_in.oidc_issuer": issuer.url,
        "sign_in.oidc_client_id": CLIENT_ID,
        "sign_in.oidc_client_secret": CLIENT_SECRET,
        "sign_in.oidc_role_map": ROLE_MAP,
    }
    app = create_app(ready_database.settings({**values, **more_settings}))
    yield People(app, issuer, tmp_path / "audit.log")
    app.services.stop()
