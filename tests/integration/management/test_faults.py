"""Failures of the database, and secrets that must not show, on each engine."""

import pytest
from sqlalchemy import text

from .conftest import TOKEN, Manager


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [("GET", "/projects", None, "failed to list projects"), ("GET", "/tokens", None, "failed to list tokens"),
     ("POST", "/projects", {"name": "n", "api_key": "k" * 20}, "failed to create project"),
     ("GET", "/tokens/x", None, "failed to get token")],
)  # fmt: skip
def test_an_unforeseen_failure_is_500_with_the_rows_text(
    manage: Manager, method: str, path: str, body: object, said: str
) -> None:
    """A fault of the database says what could not be done, and nothing of SQL."""
    with manage.app.services.engine.begin() as connection:
        for table in ("tokens", "project_keys", "projects"):
            connection.execute(text(f"DROP TABLE {table}"))
    response = manage.call(method, path, body)
    assert (response.status_code, response.get_json()) == (500, {"error": said})


def test_no_response_or_record_holds_a_secret(manage: Manager) -> None:
    """Provider key, management token and bearer are in no response, audit line or row but the creation's."""
    project = manage.project()
    token = manage.token(project["id"])
    bearer = token["token"]
    manage.responses.pop()  # the creation's
    manage.call("GET", f"/tokens/{bearer}")
    manage.call("PATCH", f"/projects/{project['id']}", {"api_key": "sk-another-0123456789abcdefghij"})
    manage.call("GET", "/projects")
    manage.call("GET", "/tokens")
    manage.call("GET", "/audit?page_size=100", headers={"User-Agent": f"curl {bearer}", "X-Request-ID": bearer})
    manage.call("GET", "/audit?page_size=100")
    with manage.app.services.engine.connect() as connection:
        rows = str(connection.execute(text("SELECT * FROM audit_events")).all())
        stored = str(connection.execute(text("SELECT * FROM projects")).all())
        stored += str(connection.execute(text("SELECT * FROM tokens")).all())
    shown = "\n".join(manage.responses) + rows + manage.audit_file.read_text() + stored
    for secret in (bearer, TOKEN, "sk-provider-0123456789abcdefghij", "sk-another-0123456789abcdefghij"):
        assert secret not in shown
