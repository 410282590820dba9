"""The admin UI over Flask's client, signed in as root."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.databases import Database
from werkzeug.test import Client, TestResponse

from llm_proxy.app import LlmProxyFlask, create_app

TOKEN = "test-management-token"
KEY = "sk-provider-0123456789abcdefghij"


class Pages:
    """A browser that is signed in, and the management API as root."""

    def __init__(self, app: LlmProxyFlask) -> None:
        self.app, self.browser = app, app.test_client()
        self.sign_in(self.browser, TOKEN)

    def sign_in(self, browser: Client, secret: str) -> TestResponse:
        """Sign in by the form."""
        form = browser.get("/admin/auth/login").text
        values = {"csrf_token": csrf_of(form), "management_token": secret}
        return browser.post("/admin/auth/login", data=values)

    def get(self, path: str, **more: Any) -> TestResponse:
        """Return a page."""
        return self.browser.get(f"/admin{path}", **more)

    def post(self, path: str, **form: Any) -> TestResponse:
        """Send a form of this session."""
        return self.browser.post(f"/admin{path}", data={"csrf_token": self.csrf(), **form})

    def csrf(self) -> str:
        """Return the hidden field of this session's forms."""
        return csrf_of(self.get("/tokens").text)

    def api(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call the management API."""
        fields = {
            "Authorization": f"Bearer {TOKEN}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        response = self.app.test_client().open(f"/manage{path}", method=method, json=body, headers=fields)
        assert response.status_code < 300, response.text
        return response.get_json(silent=True)


def csrf_of(page: str) -> str:
    """Return the hidden field of the first form."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


@pytest.fixture
def more_settings() -> dict[str, Any]:
    """Settings that a test module may override."""
    return {}


@pytest.fixture
def pages(ready_database: Database, tmp_path: Path, more_settings: dict[str, Any]) -> Iterator[Pages]:
    """A gateway with a signed-in browser."""
    values = {
        "operation.management_token": TOKEN,
        "operation.audit_log_file": str(tmp_path / "audit.log"),
        "storage.encryption_key": b"k" * 32,
    }
    app = create_app(ready_database.settings({**values, **more_settings}))
    yield Pages(app)
    app.services.stop()
